"""Worker processes that load the pictures of each step."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vplface.data.augment import Augmentation
from vplface.data.forking import work_alone, worker_processes
from vplface.data.pictures import SIZE, PictureSet, UnreadablePictureError
from vplface.data.samplers import Batches
from vplface.errors import DataError, VplfaceError


@dataclass
class Batch:
    """Pictures, their labels, and what could not be read: "path: reason" for each picture left out."""

    pictures: UInt8[Tensor, "b 112 112 3"]
    labels: Int64[Tensor, " b"]
    unreadable: list[str]


def load_batches(
    pictures: PictureSet,
    batches: Batches,
    augmentation: Augmentation | None,
    seed: int,
    first_step: int,
    last_step: int,
    workers: int,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Load the batches of the steps first_step, ..., last_step − 1, in that order.

    A picture's augmentation is drawn from (seed, epoch, index of the picture), so that the content of a batch does
    not depend on the number of workers. Unreadable pictures are left out of their batch and named in it.

    Args:
        pictures: what to load from.
        batches: which pictures each step takes; made for ``len(pictures)`` pictures.
        augmentation: the random changes; None for none.
        seed: of the augmentation.
        first_step: the first step to load.
        last_step: the step to stop before.
        workers: worker processes; 0 loads in this one.
        part: (r, R) loads the r-th of R contiguous slices of each batch, the first B mod R of which are one longer.

    Raises:
        ValueError: if ``batches`` was made for another number of pictures.
        DataError: if no picture of a batch can be read.
        VplfaceError: if a worker process dies.
    """
    if batches.n != len(pictures):
        raise ValueError(f"the batches are made for {batches.n} pictures, the set has {len(pictures)}")
    steps = range(first_step, last_step)
    return _load(_Steps(pictures, batches, augmentation, seed, part), steps, workers, tolerant=True)


def load_all(
    pictures: PictureSet, indices: Int64[np.ndarray, " n"] | Sequence[int], batch_size: int, workers: int
) -> Iterator[Batch]:
    """Load the pictures of the given indices in order, unchanged; the last batch may be smaller.

    Raises:
        ValueError: if ``batch_size`` is below 1.
        DataError: if a picture cannot be read, for an evaluation on fewer pictures would be another evaluation.
        VplfaceError: if a worker process dies.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
    slices = _Slices(pictures, chosen, batch_size)
    return _load(slices, range(-(-len(chosen) // batch_size)), workers, tolerant=False)


@dataclass
class _Steps(Dataset[Batch]):
    """Item t is the part of the batch of step t."""

    pictures: PictureSet
    batches: Batches
    augmentation: Augmentation | None
    seed: int
    part: tuple[int, int] = (0, 1)

    def __getitem__(self, step: int) -> Batch:
        epoch, indices = self.batches.batch(step)
        rank, ranks = self.part
        return _collect(self.pictures, np.array_split(indices, ranks)[rank], self.augmentation, self.seed, epoch)


@dataclass
class _Slices(Dataset[Batch]):
    """Item k is the k-th slice of the indices."""

    pictures: PictureSet
    indices: Int64[np.ndarray, " n"]
    batch_size: int

    def __getitem__(self, position: int) -> Batch:
        chosen = self.indices[position * self.batch_size : (position + 1) * self.batch_size]
        return _collect(self.pictures, chosen)


class _Streams:
    """A stream of random numbers for each picture of an epoch.

    A stream begins at a place of its own in what Philox counts through. One generator is moved there, because to make
    one takes a third of the time that it takes to decode a picture.
    """

    def __init__(self, seed: int, epoch: int) -> None:
        self._numbers = np.random.Philox(key=[seed, epoch])
        self._start = self._numbers.state
        self._generator = np.random.Generator(self._numbers)

    def of(self, index: int) -> np.random.Generator:
        """The generator at the beginning of a picture's stream; good until the next is asked for."""
        self._start["state"]["counter"][3] = index
        self._numbers.state = self._start
        return self._generator


def _collect(
    pictures: PictureSet,
    indices: Int64[np.ndarray, " b"],
    augmentation: Augmentation | None = None,
    seed: int = 0,
    epoch: int = 0,
) -> Batch:
    streams = _Streams(seed, epoch)
    batch = np.empty((len(indices), SIZE, SIZE, 3), np.uint8)
    read: list[int] = []
    unreadable = []
    for place, index in enumerate(indices.tolist()):
        try:
            picture = pictures.picture(index)
        except UnreadablePictureError as error:
            unreadable.append(str(error))
            continue
        row = batch[len(read)]
        if augmentation is not None:
            picture = augmentation(picture, streams.of(index), row)
        if picture is not row:
            row[:] = picture
        read.append(place)
    labels = pictures.labels[indices[read]]
    return Batch(torch.from_numpy(batch[: len(read)]), torch.from_numpy(labels), unreadable)


def _load(dataset: Dataset[Batch], items: range, workers: int, *, tolerant: bool) -> Iterator[Batch]:
    workers = min(workers, len(items))
    with worker_processes() as context:
        loader = DataLoader(
            dataset,
            batch_size=None,  # an item is a whole batch, so that one tensor crosses to this process, not one a picture
            sampler=items,
            num_workers=workers,
            collate_fn=_unchanged,
            worker_init_fn=_start_worker,
            multiprocessing_context=context if workers else None,
            prefetch_factor=3 if workers else None,
            generator=torch.Generator(),  # else the loader would draw its seed from the global generator
        )
        iterator = iter(loader)
    try:
        while True:
            try:
                batch = next(iterator, None)
            except BaseException as error:
                # Its frames hold the loader, and with it workers that a program that ends would wait for.
                traceback.clear_frames(error.__traceback__)
                if not (isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")):
                    raise
                raise VplfaceError(
                    "a process that loads pictures has died, most likely for want of memory: use fewer workers or "
                    "smaller batches, and in a container allow more shared memory (docker run --shm-size=8g)"
                ) from error
            if batch is None:
                return
            if batch.unreadable and not (tolerant and len(batch.labels)):
                raise DataError(_complaint(batch.unreadable, len(batch.labels)))
            yield batch
    finally:
        del iterator  # ends the workers, also when the caller stops early


def _complaint(unreadable: list[str], readable: int) -> str:
    shown = "\n  ".join(unreadable[:5]) + ("\n  ..." if len(unreadable) > 5 else "")
    return f"{len(unreadable)} of {len(unreadable) + readable} pictures of a batch cannot be read:\n  {shown}"


def _unchanged(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    # Signals to stop are the main process's to answer; a worker ends when its queue is closed.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # The thread that hands tensors over reports a main process that stopped listening, which is no news by then.
    sys.excepthook = _report_unless_hung_up
    work_alone()
    torch.set_num_threads(1)


def _report_unless_hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)
