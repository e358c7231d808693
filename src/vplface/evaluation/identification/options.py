"""The options of an identification: what is measured, by which rules, with how many resamples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vplface.evaluation.identification.comparison import Mates
from vplface.evaluation.search import Engine
from vplface.evaluation.tar_at_far import FarRule

RANKS = (1, 5, 10)
FARS = (1e-4, 1e-5, 1e-6)
FPIRS = (1e-1, 1e-2)


@dataclass(frozen=True)
class IdentificationOptions:
    """Options of an identification.

    Attributes:
        mates: see :data:`~vplface.evaluation.identification.Mates`. ``"each"`` has no open set.
        ranks: the ranks, up to 100.
        fars: false accept rates. The highest similarities are kept for them, so a high one costs memory.
        fpirs: false positive identification rates, below 1.
        far_rule: of TAR at FAR, see :data:`vplface.evaluation.tar_at_far.FarRule`.
        engine: of the search, see :data:`vplface.evaluation.search.Engine`.
        bootstrap: resamples of the people on the probes; 0 for none.
        seed: of the resamples.
    """

    mates: Mates = "best"
    ranks: Sequence[int] = RANKS
    fars: Sequence[float] = FARS
    fpirs: Sequence[float] = FPIRS
    far_rule: FarRule = "strict"
    engine: Engine = "exact"
    bootstrap: int = 500
    seed: int = 0
