"""Records of the enrolled pictures of a gallery: date, norm, quality and path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from jaxtyping import Bool, Float32, Int64

UNDATED = -1
LATEST = 253_402_300_799
"""The last second of the year 9999, the last that a date is written for."""


@dataclass(frozen=True, eq=False)
class PictureRecords:
    """Records of the pictures of a gallery, in its order.

    Attributes:
        enrolled: time of the enrolment, in seconds since 1970-01-01 UTC; -1 where it is not known.
        norm: norm of the network's embedding, before it was scaled to 1; NaN where it is not known.
        quality: quality of the picture, higher is better; NaN where it was not measured.
        paths: absolute path of the picture's file when it was enrolled; empty where it is not known.
    """

    enrolled: Int64[np.ndarray, " n"]
    norm: Float32[np.ndarray, " n"]
    quality: Float32[np.ndarray, " n"]
    paths: Sequence[str]

    @classmethod
    def unknown(cls, n: int) -> PictureRecords:
        """Records of pictures of which nothing is known."""
        nothing = np.full(n, np.nan, np.float32)
        return cls(np.full(n, UNDATED, np.int64), nothing, nothing, [""] * n)

    def __len__(self) -> int:
        return len(self.enrolled)

    def __add__(self, other: PictureRecords) -> PictureRecords:
        """These records, then the other ones."""
        return PictureRecords(
            np.concatenate([self.enrolled, other.enrolled]),
            np.concatenate([self.norm, other.norm]),
            np.concatenate([self.quality, other.quality]),
            [*self.paths, *other.paths],
        )

    def take(self, rows: Int64[np.ndarray, " kept"]) -> PictureRecords:
        """The records of some pictures."""
        paths = [self.paths[row] for row in rows.tolist()]
        return PictureRecords(self.enrolled[rows], self.norm[rows], self.quality[rows], paths)

    def enrolled_until(self, moment: datetime) -> Bool[np.ndarray, " n"]:
        """Which pictures were enrolled at or before a moment; those without a date were not."""
        expired: Bool[np.ndarray, " n"] = (self.enrolled != UNDATED) & (self.enrolled <= int(moment.timestamp()))
        return expired

    @property
    def undated(self) -> int:
        """The number of pictures without a date."""
        return int((self.enrolled == UNDATED).sum())


def iso_time(seconds: int) -> str | None:
    """A time of enrolment as ISO 8601 text in UTC, ``2026-12-01T09:30:00Z``; None if it is not known."""
    if seconds == UNDATED:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_day(seconds: int) -> str | None:
    """The day of an enrolment in UTC, ``2026-12-01``; None if it is not known."""
    time = iso_time(seconds)
    return None if time is None else time[:10]
