"""Subsets and unions of picture sets, and held-out splits of identities."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int64

from vplface.data.pictures import Picture, PictureSet
from vplface.data.spelling import spelled_as_in
from vplface.errors import DataError


class Subset:
    """Some pictures of a set, relabelled to the identities that remain, which keep their order."""

    def __init__(self, pictures: PictureSet, indices: Int64[np.ndarray, " m"] | Sequence[int]) -> None:
        """Choose pictures by index.

        Raises:
            IndexError: if an index is not a picture of the set.
        """
        self._pictures = pictures
        self._indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        if self._indices.size and not 0 <= self._indices.min() <= self._indices.max() < len(pictures):
            raise IndexError(f"indices must lie in 0..{len(pictures) - 1}")
        remaining, self._labels = np.unique(pictures.labels[self._indices], return_inverse=True)
        self._identities = [pictures.identities[label] for label in remaining]

    @property
    def identities(self) -> Sequence[str]:
        """Name of each identity that remains."""
        return self._identities

    @property
    def labels(self) -> Int64[np.ndarray, " m"]:
        """Label of each picture among the identities that remain."""
        return self._labels

    def __len__(self) -> int:
        return len(self._indices)

    def picture(self, index: int) -> Picture:
        """The picture itself; raises UnreadablePictureError with its path and the reason."""
        return self._pictures.picture(int(self._indices[index]))

    def name(self, index: int) -> str:
        """The picture's name in the set it comes from."""
        return self._pictures.name(int(self._indices[index]))


class Joined:
    """Union of several sets, with their identities concatenated.

    Identities of the same name in two sets stay separate, because the name alone does not prove that they are one
    person; the later one gets a suffix: "Al_Gore", "Al_Gore (2)". Pictures keep their names, which may then be
    duplicate.
    """

    def __init__(self, sets: Sequence[PictureSet]) -> None:
        self._sets = list(sets)
        names: list[str] = [name for pictures in sets for name in pictures.identities]
        self._identities = _made_unique(names)
        offset = np.cumsum([0, *(len(pictures.identities) for pictures in sets)])
        self._starts = np.cumsum([0, *(len(pictures) for pictures in sets)])
        self._labels = np.concatenate(
            [np.zeros(0, np.int64), *(pictures.labels + first for pictures, first in zip(sets, offset, strict=False))]
        )

    @property
    def identities(self) -> Sequence[str]:
        """Name of each identity, set by set."""
        return self._identities

    @property
    def labels(self) -> Int64[np.ndarray, " n"]:
        """Label of each picture, set by set."""
        return self._labels

    def __len__(self) -> int:
        return len(self._labels)

    def picture(self, index: int) -> Picture:
        """The picture itself; raises UnreadablePictureError with its path and the reason."""
        pictures, inside = self._locate(index)
        return pictures.picture(inside)

    def name(self, index: int) -> str:
        """The picture's name in the set it comes from."""
        pictures, inside = self._locate(index)
        return pictures.name(inside)

    def _locate(self, index: int) -> tuple[PictureSet, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in 0..{len(self) - 1}, got {index}")
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._sets[which], int(index - self._starts[which])


def _made_unique(names: Iterable[str]) -> list[str]:
    names = list(names)
    taken = set(names)
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        candidate = name
        if seen[name] > 1:
            while (candidate := f"{name} ({seen[name]})") in taken:
                seen[name] += 1
            taken.add(candidate)
        unique.append(candidate)
    return unique


def narrow(
    pictures: PictureSet,
    people: Collection[str] | None = None,
    exclude: Collection[str] = (),
    min_pictures: int = 1,
    max_pictures: int | None = None,
    where: object = "the set",
) -> PictureSet:
    """The pictures of the identities that are wanted; the set itself if all are.

    Args:
        pictures: the set.
        people: the identities to keep; None keeps all.
        exclude: identities to leave out, whether or not the set has them.
        min_pictures: leave out identities with fewer pictures than this.
        max_pictures: largest number of pictures of an identity, the first ones in the set's order; None keeps all.
        where: the set's path, for errors.

    Raises:
        DataError: if some of ``people`` have no pictures in the set, or if no identity is left.
        ValueError: if ``min_pictures`` or ``max_pictures`` is below 1.
        TypeError: if ``people`` is one name instead of a collection of names.
    """
    if min_pictures < 1:
        raise ValueError(f"min_pictures must be at least 1, got {min_pictures}")
    if max_pictures is not None and max_pictures < 1:
        raise ValueError(f"max_pictures must be at least 1, got {max_pictures}")
    if isinstance(people, str):
        raise TypeError(f"people must be a collection of names, got the one name {people!r}")
    if people is None and not exclude and min_pictures == 1 and max_pictures is None:
        return pictures
    sizes = np.bincount(pictures.labels, minlength=len(pictures.identities))
    wanted = sizes > 0
    if people is not None:
        chosen = spelled_as_in(pictures.identities, people)
        named = np.array([name in chosen for name in pictures.identities])
        _require_everyone(chosen, {name for name, size in zip(pictures.identities, sizes, strict=True) if size}, where)
        wanted &= named
    if exclude:
        unwanted = spelled_as_in(pictures.identities, exclude)
        wanted &= np.array([name not in unwanted for name in pictures.identities])
    if not wanted.any():
        raise DataError(f"{where}: no identity is left of {len(sizes)}: all are excluded")
    if not (wanted & (sizes >= min_pictures)).any():
        raise DataError(f"{where}: no identity has {min_pictures} pictures, the most is {sizes[wanted].max()}")
    kept = (wanted & (sizes >= min_pictures))[pictures.labels]
    if max_pictures is not None:
        kept &= place_of_person(pictures.labels) < max_pictures
    return Subset(pictures, np.flatnonzero(kept))


def place_of_person(labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The place of each picture among those of its person, from 0, in the order of the set."""
    sizes = np.bincount(labels)
    order = np.argsort(labels, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return place


def _require_everyone(wanted: set[str], found: set[str], where: object) -> None:
    missing = sorted(wanted - found)
    if missing:
        named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(f"{where}: {len(missing)} of the {len(wanted)} people asked for have no pictures: {named}")


def split_identities(pictures: PictureSet, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Hold out a fraction of the identities, with all their pictures: (the rest, the held-out).

    Identities are ranked by a hash of the seed and their name, so that who is held out depends neither on their
    order nor, up to the boundary, on who else is in the set.

    Raises:
        ValueError: if the fraction is not between 0 and 1.
        DataError: if there are fewer than two identities to divide.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must lie between 0 and 1, got {fraction}")
    count = len(pictures.identities)
    if count < 2:
        raise DataError(f"cannot hold out identities: the set has {count}, at least 2 are needed")
    chosen = _shuffled(pictures.identities, str(seed))[: min(count - 1, max(1, round(fraction * count)))]
    held_out = np.isin(pictures.labels, chosen)
    return Subset(pictures, np.flatnonzero(~held_out)), Subset(pictures, np.flatnonzero(held_out))


def half_of(pictures: PictureSet, half: Literal["first", "second"], seed: int) -> Int64[np.ndarray, " m"]:
    """The pictures of one half of the identities, see :func:`half_of_people`."""
    return np.flatnonzero(np.isin(pictures.labels, half_of_people(pictures.identities, half, seed)))


def half_of_people(names: Sequence[str], half: Literal["first", "second"], seed: int) -> list[int]:
    """The positions of one half of the names; with an odd number of them, the first half has one more.

    Who is in which half follows from the seed and the names alone, in another way than who is held out.

    Raises:
        DataError: if there are fewer than four names: all pairs of a half need two people.
    """
    count = len(names)
    if count < 4:
        raise DataError(f"cannot take a half of {count} identities: at least 4 are needed, two in each half")
    order, middle = _shuffled(names, f"half {seed}"), (count + 1) // 2
    return order[:middle] if half == "first" else order[middle:]


def _shuffled(names: Sequence[str], seed: str) -> list[int]:
    """Positions of the names, ranked by a hash of the seed and each name."""
    rank = [hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest() for name in names]
    return sorted(range(len(names)), key=rank.__getitem__)
