"""The options of a verification: what is measured, by which rules, with how many resamples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from vplface.embedder import Flip
from vplface.evaluation.calibration import Method
from vplface.evaluation.groups import Groups
from vplface.evaluation.promise import Promise
from vplface.evaluation.quality.comparison import QualityQuestion
from vplface.evaluation.tar_at_far import FarRule
from vplface.evaluation.verification import AccuracyRule

FARS = (1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class EvalOptions:
    """Options of a verification.

    Attributes:
        flip: whether the embedding of the mirrored picture is added; None: it is not known how the embeddings were
            made.
        fars: false accept rates to give the true accept rate at.
        fmrs: false match rates to give the false non-match rate at: the same points, said as errors.
        protocol: how thresholds of the accuracy are chosen, see :mod:`vplface.evaluation.verification`.
        far_rule: see :data:`vplface.evaluation.tar_at_far.FarRule`.
        bootstrap: resamples of the people for the intervals; 0 for none.
        seed: of the resamples.
        groups: of the pictures, to give the errors of each group at the thresholds of ``fars`` and ``fmrs``.
        promise: a stored threshold, to measure as it is; needs ``bootstrap``.
        hard: where all pairs are compared, the nearest strangers of each person, whose pairs are measured as well; 0
            for none. Needs ``bootstrap``.
        calibrate: where all pairs are compared, fit this kind of calibration to half of the people and judge it on the
            others; None for none.
        quality: quality scores of the pictures of the set, whose error-versus-discard curves are compared.
        claims: whether the protocol says which false accept rates so many people can support a claim about.
    """

    flip: Flip | None = "sum"
    fars: Sequence[float] = FARS
    fmrs: Sequence[float] = ()
    protocol: AccuracyRule = "exact"
    far_rule: FarRule = "strict"
    bootstrap: int = 500
    seed: int = 0
    groups: Groups | None = None
    promise: Promise | None = None
    hard: int = 0
    calibrate: Method | None = None
    claims: bool = False
    quality: QualityQuestion | None = None

    def __post_init__(self) -> None:
        if (self.promise is not None or self.hard) and self.bootstrap < 2:
            raise ValueError("a stored threshold and hard impostors have bounds: bootstrap must be at least 2")


class EvalKeywords(TypedDict, total=False):
    """The options of :class:`EvalOptions`, but for ``flip``, as keywords of a function."""

    fars: Sequence[float]
    fmrs: Sequence[float]
    protocol: AccuracyRule
    far_rule: FarRule
    bootstrap: int
    seed: int
    groups: Groups | None
    promise: Promise | None
    hard: int
    calibrate: Method | None
    claims: bool
    quality: QualityQuestion | None
