"""The degradation of an evaluation set: which pictures, in which way, drawn by the names of the pictures."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vplface import bounds
from vplface.data.augment import Image
from vplface.data.degrade.kinds import Kind
from vplface.data.spelling import composed

_FILE_TYPE = re.compile(r"\.(jpe?g|png|webp|bmp)$", re.IGNORECASE)


@dataclass(frozen=True)
class Degradation:
    """A kind of degradation of a share of the pictures of a set.

    A hash of the seed and the picture's name, without its file type, decides whether a picture is degraded and in
    which way. The path of the set, the order of its pictures and the format do not count, as long as names are kept.
    Pictures that are degraded at a share are so at every larger share, in the same way, and all kinds draw the same
    pictures.

    Attributes:
        kind: what is done to a picture.
        share: the probability that a picture is degraded.
        seed: of all draws.
        probes: leave references clean; see :class:`vplface.data.degrade.DegradedPictures`.

    Raises:
        ValueError: the share is not within 0..1, or the seed is out of range.
    """

    kind: Kind
    share: float = 1.0
    seed: int = 0
    probes: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share must lie in 0..1, got {self.share}")
        if not 0 <= self.seed <= bounds.SEED:
            raise ValueError(f"seed must lie in 0..{bounds.SEED}, got {self.seed}")

    def is_chosen(self, name: str) -> bool:
        """Whether a picture is among the share."""
        return int.from_bytes(self._hash("share", name)[:8], "big") < self.share * 2**64

    def __call__(self, picture: Image, name: str) -> Image:
        """The degraded picture of a name, whether it is among the share or not."""
        key = np.frombuffer(self._hash("strength", name), "<u8")
        return self.kind(picture, np.random.Generator(np.random.Philox(key=key)))

    def reference_rank(self, name: str) -> bytes:
        """The picture of lowest rank is the reference of its person."""
        return self._hash("reference", name)

    def to_dict(self) -> dict[str, Any]:
        """The values by their keys in recipes, JSON-ready."""
        strengths = {key: list(ends) for key, ends in asdict(self.kind).items()}
        return {"kind": self.kind.name, "share": self.share, **strengths, "seed": self.seed, "probes": self.probes}

    def __str__(self) -> str:
        """A description in words, see :func:`described`."""
        return described(self.to_dict())

    def _hash(self, purpose: str, name: str) -> bytes:
        text = f"{self.seed}/{_FILE_TYPE.sub('', composed(name))}"
        return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16, person=purpose.encode()).digest()


def described(values: Mapping[str, Any]) -> str:
    """A degradation in words, such as "low_resolution (pixels 7–11) of 20 % of the pictures, seed 0".

    Args:
        values: as :meth:`Degradation.to_dict` gives them; of values read from a file, others are accepted.
    """
    strengths = [
        f"{key} {'–'.join(dict.fromkeys(map(_written, ends)))}"
        for key, ends in values.items()
        if isinstance(ends, list)
    ]
    share = values.get("share")
    percent = _written(100 * share if isinstance(share, int | float) else share)
    return (
        f"{values.get('kind')} ({', '.join(strengths)}) of {percent} % of the "
        f"{'probes' if values.get('probes') else 'pictures'}, seed {values.get('seed')}"
    )


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
