"""`SyntheticFaces`: a set of generated faces that is rendered on the fly and is a pure function of its options."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from vplface_synthetic.conditions import draw_conditions
from vplface_synthetic.identity import draw_identity
from vplface_synthetic.render import render

# Second number of a seed, by its use (0 is for identities): streams with different numbers are independent.
_CONDITIONS, _SIZES, _NOISE = 1, 2, 3


class SyntheticFaces:
    """Generated faces of generated people, no real face among them: a ``vplface.data.pictures.PictureSet``.

    Picture p of identity k depends only on (seed, k, p, difficulty), not on the order of access, the number of
    worker processes or the other options; label noise changes only the pictures that it hits.
    Sets with the same seed and disjoint ranges of identities show different people of the same world.

    Args:
        identities: number of identities, ``first_identity`` … ``first_identity + identities − 1``.
        pictures: pictures per identity; with a tail, pictures of the largest identity.
        seed: names the world that identities and pictures are drawn from.
        first_identity: number of the first identity.
        tail: exponent a ≥ 0 of long-tailed sizes: the identity of rank k = 0, 1, … (in a random order) has
            max(fewest, round(pictures·(k+1)^−a)) pictures; 0 gives every identity ``pictures``.
        fewest: minimum number of pictures of an identity with ``tail``.
        label_noise: share of pictures, at random, that show another identity of the set than their label says:
            exactly round(share·n) of them; ``shown`` and ``mislabelled`` record which.
        difficulty: scale of pose, expression, light, occlusion and camera effects; 0 gives passport pictures.

    Attributes:
        identities: names of the identities, "id_00042".
        labels: label of each picture, non-decreasing.
        shown: label of the identity that each picture really shows.
        mislabelled: whether that is another one than the label.
        options: the arguments, by name.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        identities: int = 200,
        pictures: int = 20,
        seed: int = 0,
        first_identity: int = 0,
        tail: float = 0.0,
        fewest: int = 1,
        label_noise: float = 0.0,
        difficulty: float = 1.0,
    ) -> None:
        if identities < 1 or pictures < 1 or fewest < 1 or seed < 0 or first_identity < 0:
            raise ValueError(
                "identities, pictures and fewest must be at least 1, seed and first_identity at least 0; got "
                f"{identities=}, {pictures=}, {fewest=}, {seed=}, {first_identity=}"
            )
        if tail < 0 or difficulty < 0 or not 0 <= label_noise <= 1:
            raise ValueError(
                "tail and difficulty must be at least 0, label_noise within 0..1; got "
                f"{tail=}, {difficulty=}, {label_noise=}"
            )
        if label_noise > 0 and identities < 2:
            raise ValueError("label noise needs at least 2 identities")
        self.options: dict[str, Any] = {
            "identities": identities,
            "pictures": pictures,
            "seed": seed,
            "first_identity": first_identity,
            "tail": tail,
            "fewest": fewest,
            "label_noise": label_noise,
            "difficulty": difficulty,
        }
        self.identities: list[str] = [f"id_{first_identity + k:05d}" for k in range(identities)]
        self._seed, self._first, self._difficulty = seed, first_identity, difficulty
        sizes = self._sizes(identities, pictures, tail, fewest)
        self.labels: Int64[np.ndarray, " n"] = np.repeat(np.arange(identities, dtype=np.int64), sizes)
        starts = np.cumsum(sizes) - sizes
        self._numbers = np.arange(len(self.labels), dtype=np.int64) - np.repeat(starts, sizes)
        self.shown: Int64[np.ndarray, " n"] = self._shown(identities, label_noise)

    def _sizes(self, identities: int, pictures: int, tail: float, fewest: int) -> Int64[np.ndarray, " n"]:
        rng = np.random.default_rng((self._seed, _SIZES, self._first))
        rank = rng.permutation(identities) if tail > 0 else np.zeros(identities)
        sizes: Int64[np.ndarray, " n"] = np.maximum(np.rint(pictures * (rank + 1.0) ** -tail), fewest).astype(np.int64)
        return sizes

    def _shown(self, identities: int, label_noise: float) -> Int64[np.ndarray, " n"]:
        rng = np.random.default_rng((self._seed, _NOISE, self._first))
        shown: Int64[np.ndarray, " n"] = self.labels.copy()
        hit = rng.permutation(len(shown))[: round(label_noise * len(shown))]
        if len(hit):
            shown[hit] = (shown[hit] + rng.integers(1, identities, len(hit))) % identities
        return shown

    @property
    def mislabelled(self) -> Bool[np.ndarray, " n"]:
        """Whether each picture shows another identity than its label says."""
        hit: Bool[np.ndarray, " n"] = self.shown != self.labels
        return hit

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, index: int) -> UInt8[np.ndarray, "112 112 3"]:
        """Render picture ``index``: uint8 RGB, 112x112."""
        owner, number = self._first + int(self.labels[index]), int(self._numbers[index])
        identity = draw_identity(self._seed, self._first + int(self.shown[index]))
        key = (self._seed, _CONDITIONS, owner, number)
        return render(identity, draw_conditions(identity, key, self._difficulty))

    def name(self, index: int) -> str:
        """The picture's name, e.g. "id_00042/0007.png"."""
        return f"{self.identities[int(self.labels[index])]}/{int(self._numbers[index]):04d}.png"
