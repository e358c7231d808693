"""Statistics of a set of pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from vplface.data.encoded import type_of
from vplface.data.pictures import StoredPictures, UnreadablePictureError, decode_whole
from vplface.errors import DataError
from vplface.progress import progress


@dataclass(frozen=True, eq=False)
class Summary:
    """Statistics of a set of pictures.

    Attributes:
        class_sizes: number of pictures of each identity that has any, in order.
        empty: number of identities without pictures.
        sampled: number of pictures in the random sample, on which the following fields are based.
        formats: number of pictures by format (jpg, png, webp, bmp).
        sizes: number of pictures by "WIDTHxHEIGHT", the most frequent first.
        unreadable: number of pictures that cannot be read or decoded.
        bytes: total size of all pictures, estimated.
    """

    class_sizes: Int64[np.ndarray, " classes"]
    empty: int
    sampled: int
    formats: Mapping[str, int]
    sizes: Mapping[str, int]
    unreadable: int
    bytes: int

    @property
    def pictures(self) -> int:
        """Number of pictures of all identities."""
        return int(self.class_sizes.sum())

    @property
    def identities(self) -> int:
        """Number of identities with pictures."""
        return len(self.class_sizes)

    @property
    def single(self) -> float:
        """Share of identities with a single picture."""
        return float((self.class_sizes == 1).mean())

    def histogram(self) -> dict[tuple[int, int], int]:
        """Number of identities by range of picture counts: (1, 1), (2, 2), (3, 4), (5, 8), ..."""
        octave = np.ceil(np.log2(self.class_sizes)).astype(int)
        counts = np.bincount(octave)
        return {((1 << k >> 1) + 1, 1 << k): int(count) for k, count in enumerate(counts)}


def summarise(pictures: StoredPictures, sample: int = 1000, seed: int = 0) -> Summary:
    """Count the pictures of a set, and decode a random sample of them.

    Raises:
        DataError: the set has no pictures.
        ValueError: ``sample`` is below 1.
    """
    if sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}")
    if not len(pictures):
        raise DataError("the set has no pictures")
    counts = np.bincount(pictures.labels, minlength=len(pictures.identities)).astype(np.int64)
    chosen = np.random.default_rng(seed).permutation(len(pictures))[:sample]
    formats: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    unreadable, lengths = 0, []
    with progress("reading pictures", len(chosen)) as advance:
        for index in np.sort(chosen).tolist():
            try:
                encoded = pictures.encoded(index)
                lengths.append(len(encoded))
                height, width = decode_whole(encoded, pictures.where(index)).shape[:2]
            except UnreadablePictureError:
                unreadable += 1
            else:
                formats[str(type_of(encoded))] += 1
                sizes[f"{width}x{height}"] += 1
            advance(1)
    return Summary(
        class_sizes=counts[counts > 0],
        empty=int((counts == 0).sum()),
        sampled=len(chosen),
        formats=dict(formats.most_common()),
        sizes=dict(sizes.most_common()),
        unreadable=unreadable,
        bytes=round(float(np.mean(lengths or [0])) * len(pictures)),
    )
