"""The pictures of each step, loaded in this process or in others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from vplface.data.augment import Augmentation
from vplface.data.pictures import SIZE, PictureSet, UnreadablePictureError
from vplface.data.samplers import Batches
from vplface.data.workers import Task, in_order
from vplface.errors import DataError

BYTES = SIZE * SIZE * 3
"""Of a picture in memory."""


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
    least: int = 1,
    give_up: Callable[[float], bool] = lambda seconds: False,
) -> Iterator[Batch]:
    """Load the batches of the steps first_step, ..., last_step − 1, in that order.

    A picture's augmentation is drawn from (seed, epoch, index of the picture), so that the content of a batch does
    not depend on the number of workers. Unreadable pictures are left out of their batch and named in it. If fewer than
    ``least`` are left, the first readable pictures of the same slices of the next steps fill it up, augmented as there.

    Args:
        pictures: what to load from.
        batches: which pictures each step takes; made for ``len(pictures)`` pictures.
        augmentation: the random changes; None for none.
        seed: of the augmentation.
        first_step: the first step to load.
        last_step: the step to stop before.
        workers: worker processes; 0 loads in this one.
        part: (r, R) loads the r-th of R contiguous slices of each batch, the first B mod R of which are one longer.
        least: pictures that a batch (or its slice) must have; at most as many as it has with all of them readable.
        give_up: called every half second with the seconds that worker processes have been waited for; if it returns
            True, there are no more batches.

    Raises:
        ValueError: if ``batches`` was made for another number of pictures.
        DataError: if no picture of a batch can be read, or too few of an epoch.
        VplfaceError: if a worker process dies, is stopped, or cannot be started.
    """
    if batches.n != len(pictures):
        raise ValueError(f"the batches are made for {batches.n} pictures, the set has {len(pictures)}")
    steps = range(first_step, last_step)
    task = _Steps(pictures, batches, augmentation, seed, part, least)
    return _load(task, steps, -(-batches.batch_size // part[1]), workers, give_up, tolerant=True)


def load_all(
    pictures: PictureSet, indices: Int64[np.ndarray, " n"] | Sequence[int], batch_size: int, workers: int
) -> Iterator[Batch]:
    """Load the pictures of the given indices in order, unchanged; the last batch may be smaller.

    Raises:
        ValueError: if ``batch_size`` is below 1.
        DataError: if a picture cannot be read, for an evaluation on fewer pictures would be another evaluation.
        VplfaceError: if a worker process dies, is stopped, or cannot be started.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
    slices = _Slices(pictures, chosen, batch_size)
    room = min(batch_size, len(chosen))
    return _load(slices, range(-(-len(chosen) // batch_size)), room, workers, lambda seconds: False, tolerant=False)


@dataclass
class _Steps:
    """Item t is the part of the batch of step t."""

    pictures: PictureSet
    batches: Batches
    augmentation: Augmentation | None
    seed: int
    part: tuple[int, int] = (0, 1)
    least: int = 1

    def __call__(self, item: int, room: UInt8[np.ndarray, " room"]) -> tuple[int, Any]:
        """See :class:`vplface.data.workers.Task`."""
        collection = _Collection(self.pictures, room, self.augmentation, self.seed)
        collection.add(*self._slice(item), len(room) // BYTES)
        if collection.labels:
            for step in range(item + 1, item + 2 + self.least * len(self.batches)):
                if len(collection.labels) >= self.least:
                    break
                collection.add(*self._slice(step), self.least)
            else:
                raise DataError(_too_few(collection, self.least))
        return collection.result()

    def _slice(self, step: int) -> tuple[int, Int64[np.ndarray, " b"]]:
        epoch, indices = self.batches.batch(step)
        rank, ranks = self.part
        return epoch, np.array_split(indices, ranks)[rank]


@dataclass
class _Slices:
    """Item k is the k-th slice of the indices."""

    pictures: PictureSet
    indices: Int64[np.ndarray, " n"]
    batch_size: int

    def __call__(self, item: int, room: UInt8[np.ndarray, " room"]) -> tuple[int, Any]:
        """See :class:`vplface.data.workers.Task`."""
        collection = _Collection(self.pictures, room)
        collection.add(0, self.indices[item * self.batch_size : (item + 1) * self.batch_size], len(room) // BYTES)
        return collection.result()


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


class _Collection:
    """Readable pictures one after the other in the memory of a batch, and what could not be read."""

    def __init__(
        self,
        pictures: PictureSet,
        room: UInt8[np.ndarray, " room"],
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.labels: list[int] = []
        self.unreadable: list[str] = []
        self._pictures, self._augmentation, self._seed = pictures, augmentation, seed
        self._places = room.reshape(-1, SIZE, SIZE, 3)

    def add(self, epoch: int, indices: Int64[np.ndarray, " b"], most: int) -> None:
        """Read pictures as they are in an epoch, until there are ``most`` altogether."""
        streams = _Streams(self._seed, epoch)
        for index in indices.tolist():
            if len(self.labels) >= most:
                return
            try:
                picture = self._pictures.picture(index)
            except UnreadablePictureError as error:
                self.unreadable.append(str(error))
                continue
            place = self._places[len(self.labels)]
            if self._augmentation is not None:
                picture = self._augmentation(picture, streams.of(index), place)
            if picture is not place:
                place[:] = picture
            self.labels.append(int(self._pictures.labels[index]))

    def result(self) -> tuple[int, Any]:
        """What a :class:`vplface.data.workers.Task` returns: how many bytes, and labels and unreadable pictures."""
        return len(self.labels) * BYTES, (np.array(self.labels, np.int64), self.unreadable)


def _too_few(collection: _Collection, least: int) -> str:
    shown = "\n  ".join(collection.unreadable[:5])
    return (
        f"a step takes at least {least} pictures, and only {len(collection.labels)} of its epoch can be read:\n"
        f"  {shown}\n  ..."
    )


def _load(
    task: Task, items: range, room: int, workers: int, give_up: Callable[[float], bool], *, tolerant: bool
) -> Iterator[Batch]:
    workers = min(workers, len(items))
    alone = (_alone(task, item, room * BYTES) for item in items)
    with closing(in_order(task, items, room * BYTES, workers, give_up) if workers else alone) as found:
        for pixels, (labels, unreadable) in found:
            if unreadable and not (tolerant and len(labels)):
                raise DataError(_complaint(unreadable, len(labels)))
            yield Batch(torch.from_numpy(pixels.reshape(-1, SIZE, SIZE, 3)), torch.from_numpy(labels), unreadable)


def _alone(task: Task, item: int, room: int) -> tuple[UInt8[np.ndarray, " bytes"], tuple[Any, list[str]]]:
    memory = np.empty(room, np.uint8)
    size, rest = task(item, memory)
    return memory[:size], rest


def _complaint(unreadable: list[str], readable: int) -> str:
    shown = "\n  ".join(unreadable[:5]) + ("\n  ..." if len(unreadable) > 5 else "")
    return f"{len(unreadable)} of {len(unreadable) + readable} pictures of a batch cannot be read:\n  {shown}"
