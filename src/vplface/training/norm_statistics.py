"""Statistics of the training pictures for BatchNorm that a weight file had folded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vplface.backbones.folded_norm import measure_statistics, without_statistics
from vplface.data.pictures import UnreadablePictureError
from vplface.errors import DataError
from vplface.progress import progress
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
    with progress("statistics of BatchNorm", min(PICTURES, len(run.pictures))) as advance:

        def counted() -> Iterator[Float[Tensor, "n 3 112 112"]]:
            for batch in _batches(run):
                yield batch
                advance(len(batch))

        measure_statistics(run.backbone, counted())
    for average in (run.average, run.encoder):
        if average is not None:
            average.module.load_state_dict(run.backbone.state_dict())


def _batches(run: RunState) -> Iterator[Float[Tensor, "n 3 112 112"]]:
    """Prepared pictures from evenly spaced places of the training set."""
    count = min(PICTURES, len(run.pictures))
    chosen = np.linspace(0, len(run.pictures) - 1, count).astype(np.int64)
    none = True
    for some in np.array_split(chosen, -(-count // _BATCH)):
        read = []
        for index in some.tolist():
            try:
                read.append(torch.from_numpy(run.pictures.picture(index)))
            except UnreadablePictureError as error:
                run.unreadable.add(str(error))
        if read:
            none = False
            yield run.preprocessing(torch.stack(read)).to(run.device)
    if none:
        raise DataError("no training picture can be read")
