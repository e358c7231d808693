"""Statistics of the training pictures for BatchNorm that a weight file had folded."""

from __future__ import annotations

from vplface.backbones.folded_norm import measure_statistics, without_statistics
from vplface.training.plain_pictures import evenly_spaced
from vplface.training.run_state import RunState

PICTURES = 256
"""Number of pictures that the statistics are of, at most."""
_BATCH = 32


def measure_norms(run: RunState) -> None:
    """Measure the statistics of BatchNorm without any, on training pictures; the embeddings stay as they are.

    Every rank measures the same.

    Raises:
        DataError: no training picture can be read.
    """
    if not without_statistics(run.backbone):
        return
    measure_statistics(run.backbone, evenly_spaced(run, PICTURES, _BATCH, "statistics of BatchNorm"))
    for average in (run.average, run.encoder):
        if average is not None:
            average.module.load_state_dict(run.backbone.state_dict())
