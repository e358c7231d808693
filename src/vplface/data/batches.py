"""Loading of batches of pictures, in this process or in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from vplface.data.augment import Augmentation
from vplface.data.pictures import SIZE, PictureSet, UnreadablePictureError
from vplface.data.samplers import Batches
from vplface.data.workers import Task, map_in_order
from vplface.errors import DataError

PICTURE_BYTES = SIZE * SIZE * 3
"""Size of a picture in memory."""


@dataclass
class Batch:
    """Pictures of a set.

    Attributes:
        pictures: augmented.
        labels: of them.
        unreadable: "path: reason" for each picture that was left out.
        indices: the number of each picture in its set, on the CPU; empty where nobody asks.
    """

    pictures: UInt8[Tensor, "b 112 112 3"]
    labels: Int64[Tensor, " b"]
    unreadable: list[str]
    indices: Int64[Tensor, " b_or_none"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; a copy from pinned memory is asynchronous."""
        return replace(
            self,
            pictures=self.pictures.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Batch:
        """A copy of the batch in pinned memory, for asynchronous copies to a GPU."""
        return replace(self, pictures=self.pictures.pin_memory(), labels=self.labels.pin_memory())


# size: each is independent of the others, and one caller gives them all
def load_batches(
    pictures: PictureSet,
    batches: Batches,
    augmentation: Augmentation | None,
    seed: int,
    first_step: int,
    last_step: int,
    workers: int,
    part: tuple[int, int] = (0, 1),
    min_pictures: int = 1,
    should_stop: Callable[[float], bool] = lambda seconds: False,
) -> Iterator[Batch]:
    """Load the batches of the steps first_step, ..., last_step − 1, in that order.

    A picture's augmentation depends on (seed, epoch, index of the picture), so the content of a batch does not depend
    on the number of workers. Unreadable pictures are left out and listed in the batch. If fewer than ``min_pictures``
    remain, the first readable pictures of the same slices of the next steps are added, augmented as there.

    Args:
        pictures: set to load from.
        batches: indices of the pictures of each step, for ``len(pictures)`` pictures.
        augmentation: random augmentation, or None.
        seed: seed of the augmentation.
        first_step: first step to load.
        last_step: step to stop before.
        workers: number of worker processes; 0 loads in this process.
        part: (r, R) loads the r-th of R contiguous slices of each batch, the first B mod R of which are one longer.
        min_pictures: lowest number of pictures in a batch (or its slice), not above its nominal size.
        should_stop: called every half second with the seconds waited for worker processes; True ends the iteration.

    Raises:
        ValueError: ``batches`` is for another number of pictures.
        DataError: no picture of a batch can be read, or too few of an epoch.
        VplfaceError: a worker process dies, is stopped, or cannot be started.
    """
    if batches.n != len(pictures):
        raise ValueError(f"the batches are made for {batches.n} pictures, the set has {len(pictures)}")
    steps = range(first_step, last_step)
    task = _Steps(pictures, batches, augmentation, seed, part, min_pictures)
    return _load(task, steps, -(-batches.batch_size // part[1]), workers, should_stop, tolerant=True)


def load_all(
    pictures: PictureSet, indices: Int64[np.ndarray, " n"] | Sequence[int], batch_size: int, workers: int
) -> Iterator[Batch]:
    """Load the pictures at the given indices in order, without augmentation; the last batch may be smaller.

    Raises:
        ValueError: ``batch_size`` is below 1.
        DataError: a picture cannot be read; an evaluation must not skip pictures.
        VplfaceError: a worker process dies, is stopped, or cannot be started.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
    slices = _Slices(pictures, chosen, batch_size)
    longest = min(batch_size, len(chosen))
    return _load(slices, range(-(-len(chosen) // batch_size)), longest, workers, lambda seconds: False, tolerant=False)


@dataclass
class _Steps:
    """Task whose item t is this rank's part of the batch of step t."""

    pictures: PictureSet
    batches: Batches
    augmentation: Augmentation | None
    seed: int
    part: tuple[int, int] = (0, 1)
    min_pictures: int = 1

    def __call__(self, item: int, buffer: UInt8[np.ndarray, " bytes"]) -> tuple[int, Any]:
        """Load a batch, as :class:`vplface.data.workers.Task` says."""
        collection = _Collection(self.pictures, buffer, self.augmentation, self.seed)
        collection.add(*self._slice(item), len(buffer) // PICTURE_BYTES)
        if collection.labels:
            for step in range(item + 1, item + 2 + self.min_pictures * len(self.batches)):
                if len(collection.labels) >= self.min_pictures:
                    break
                collection.add(*self._slice(step), self.min_pictures)
            else:
                raise DataError(_too_few_message(collection, self.min_pictures))
        return collection.result()

    def _slice(self, step: int) -> tuple[int, Int64[np.ndarray, " b"]]:
        epoch, indices = self.batches.batch(step)
        rank, ranks = self.part
        return epoch, np.array_split(indices, ranks)[rank]


@dataclass
class _Slices:
    """Task whose item k is the k-th slice of the indices."""

    pictures: PictureSet
    indices: Int64[np.ndarray, " n"]
    batch_size: int

    def __call__(self, item: int, buffer: UInt8[np.ndarray, " bytes"]) -> tuple[int, Any]:
        """Load a slice, as :class:`vplface.data.workers.Task` says."""
        collection = _Collection(self.pictures, buffer)
        collection.add(
            0, self.indices[item * self.batch_size : (item + 1) * self.batch_size], len(buffer) // PICTURE_BYTES
        )
        return collection.result()


class _RandomStreams:
    """Random number stream for each picture of an epoch.

    Each stream starts at its own position of Philox's counter. One generator is moved there, because creating one takes
    a third of the time of decoding a picture.
    """

    def __init__(self, seed: int, epoch: int) -> None:
        self._numbers = np.random.Philox(key=[seed, epoch])
        self._start = self._numbers.state
        self._generator = np.random.Generator(self._numbers)

    def of(self, index: int) -> np.random.Generator:
        """Generator at the start of a picture's stream; valid until the next call."""
        self._start["state"]["counter"][3] = index
        self._numbers.state = self._start
        return self._generator


class _Collection:
    """Readable pictures of a batch, written to its buffer, and the errors of unreadable ones."""

    def __init__(
        self,
        pictures: PictureSet,
        buffer: UInt8[np.ndarray, " bytes"],
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.labels: list[int] = []
        self.indices: list[int] = []
        self.unreadable: list[str] = []
        self._pictures, self._augmentation, self._seed = pictures, augmentation, seed
        self._slots = buffer.reshape(-1, SIZE, SIZE, 3)

    def add(self, epoch: int, indices: Int64[np.ndarray, " b"], limit: int) -> None:
        """Read and augment pictures until the batch has ``limit``."""
        streams = _RandomStreams(self._seed, epoch)
        for index in indices.tolist():
            if len(self.labels) >= limit:
                return
            try:
                picture = self._pictures.picture(index)
            except UnreadablePictureError as error:
                self.unreadable.append(str(error))
                continue
            slot = self._slots[len(self.labels)]
            if self._augmentation is not None:
                picture = self._augmentation(picture, streams.of(index), slot)
            if picture is not slot:
                slot[:] = picture
            self.labels.append(int(self._pictures.labels[index]))
            self.indices.append(index)

    def result(self) -> tuple[int, Any]:
        """Result of the task: number of bytes, then labels, numbers and unreadable pictures."""
        labels, indices = (np.array(numbers, np.int64) for numbers in (self.labels, self.indices))
        return len(self.labels) * PICTURE_BYTES, (labels, indices, self.unreadable)


def _too_few_message(collection: _Collection, min_pictures: int) -> str:
    shown = "\n  ".join(collection.unreadable[:5])
    return (
        f"a step takes at least {min_pictures} pictures, and only {len(collection.labels)} of its epoch can be read:\n"
        f"  {shown}\n  ..."
    )


def _load(
    task: Task, items: range, longest: int, workers: int, should_stop: Callable[[float], bool], *, tolerant: bool
) -> Iterator[Batch]:
    workers = min(workers, len(items))
    inline = (_run_inline(task, item, longest * PICTURE_BYTES) for item in items)
    with closing(
        map_in_order(task, items, longest * PICTURE_BYTES, workers, should_stop) if workers else inline
    ) as results:
        for pixels, (labels, indices, unreadable) in results:
            if unreadable and not (tolerant and len(labels)):
                raise DataError(_unreadable_message(unreadable, len(labels)))
            pictures = torch.from_numpy(pixels.reshape(-1, SIZE, SIZE, 3))
            yield Batch(pictures, torch.from_numpy(labels), unreadable, torch.from_numpy(indices))


def _run_inline(task: Task, item: int, buffer_bytes: int) -> tuple[UInt8[np.ndarray, " bytes"], Any]:
    memory = np.empty(buffer_bytes, np.uint8)
    size, rest = task(item, memory)
    return memory[:size], rest


def _unreadable_message(unreadable: list[str], readable: int) -> str:
    shown = "\n  ".join(unreadable[:5]) + ("\n  ..." if len(unreadable) > 5 else "")
    return f"{len(unreadable)} of {len(unreadable) + readable} pictures of a batch cannot be read:\n  {shown}"
