"""Division of people into folds by a hash of their names."""

from __future__ import annotations

import hashlib

from vplface.data.spelling import composed


def fold_of(person: str, count: int, seed: int = 0) -> int:
    """The fold of a person, in 1..count.

    It follows from the name, the number of folds and the seed alone: from neither the order of the people nor who else
    there is. So one who is in several sets is in the same fold in all of them, and new people move nobody. The sizes
    of folds are binomial: of n people a fold has n/count, give or take √(n/count).

    Args:
        person: the name; the Unicode composition of its letters does not matter.
        count: number of folds.
        seed: of the division.
    """
    digest = hashlib.sha256(f"fold {seed}/{composed(person)}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % count + 1
