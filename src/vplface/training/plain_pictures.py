"""Batches of training pictures as they are, not augmented."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vplface.data.pictures import UnreadablePictureError
from vplface.errors import DataError
from vplface.progress import progress
from vplface.training.run_state import RunState


def plain_pictures(
    run: RunState, chosen: Int64[np.ndarray, " m"], batch: int, title: str
) -> Iterator[tuple[Float[Tensor, "n 3 112 112"], list[int]]]:
    """Yield prepared training pictures on the device of a run, and their numbers.

    Args:
        run: whose pictures are read. Those that cannot be read are left out and added to ``run.unreadable``.
        chosen: numbers of pictures.
        batch: about how many are yielded together.
        title: of the progress bar.
    """
    with progress(title, len(chosen)) as advance:
        for some in np.array_split(chosen, -(-len(chosen) // batch)) if len(chosen) else []:
            read, numbers = [], []
            for number in some.tolist():
                try:
                    read.append(torch.from_numpy(run.pictures.picture(number)))
                except UnreadablePictureError as error:
                    run.unreadable.add(str(error))
                    continue
                numbers.append(number)
            if read:
                yield run.preprocessing(torch.stack(read)).to(run.device), numbers
            advance(len(some))


def evenly_spaced(run: RunState, most: int, batch: int, title: str) -> Iterator[Float[Tensor, "n 3 112 112"]]:
    """Yield up to ``most`` training pictures from evenly spaced places; the same on every rank.

    Raises:
        DataError: no picture can be read.
    """
    count = min(most, len(run.pictures))
    chosen = np.linspace(0, len(run.pictures) - 1, count).astype(np.int64)
    none = True
    for pictures, _ in plain_pictures(run, chosen, batch, title):
        none = False
        yield pictures
    if none:
        raise DataError("no training picture can be read; look at them with vplface data check")
