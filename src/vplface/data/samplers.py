"""Samplers: the pictures of each step's batch, as a function of step and seed.

A resumed run needs only its step, and every rank and worker can compute the whole order and take its slice.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Int64


class Batches(Protocol):
    """Batches of an endless run.

    Attributes:
        n: number of pictures in the set.
        batch_size: largest number of pictures in a batch.
        smallest: smallest number of pictures in a batch.
    """

    n: int
    batch_size: int
    smallest: int

    def __len__(self) -> int:
        """Batches in an epoch."""

    def batch(self, step: int) -> tuple[int, Int64[np.ndarray, " b"]]:
        """The epoch that a step (from 0) falls into, and the indices of its pictures.

        Raises:
            ValueError: if ``step`` is below 0.
        """


class Sampler(Protocol):
    """Sampling method with its options."""

    def batches(self, labels: Int64[np.ndarray, " n"], batch_size: int, seed: int) -> Batches:
        """The batches of a run over pictures with these labels.

        Raises:
            ValueError: if the options do not fit the batch size.
        """


@dataclass(frozen=True)
class Shuffled:
    """Every epoch is a permutation of all pictures."""

    def batches(self, labels: Int64[np.ndarray, " n"], batch_size: int, seed: int) -> Batches:
        """Create :class:`ShuffledBatches` for these labels."""
        return ShuffledBatches(len(labels), batch_size, seed)


@dataclass(frozen=True)
class Balanced:
    """Every class equally often, in groups.

    Attributes:
        per_class: pictures of a class in a batch.
    """

    per_class: int = 4

    def __post_init__(self) -> None:
        _require("per_class", self.per_class)

    def batches(self, labels: Int64[np.ndarray, " n"], batch_size: int, seed: int) -> Batches:
        """Create :class:`BalancedBatches` for these labels."""
        return BalancedBatches(labels, batch_size, seed, self.per_class)


@dataclass(frozen=True)
class Proximity:
    """Every epoch is a permutation in which the pictures of a class follow each other closely, but not in one batch.

    Attributes:
        within: steps from one picture of a class to the next, at most.
    """

    within: int = 100

    def __post_init__(self) -> None:
        _require("within", self.within)

    def batches(self, labels: Int64[np.ndarray, " n"], batch_size: int, seed: int) -> Batches:
        """Create :class:`ProximityBatches` for these labels."""
        return ProximityBatches(labels, batch_size, seed, self.within)


@dataclass(frozen=True)
class Sharded:
    """Every epoch is a permutation under which reads stay local.

    Attributes:
        shard: number of consecutive pictures in a shard.
        window: number of shards among which pictures are shuffled.
    """

    shard: int = 10_000
    window: int = 8

    def __post_init__(self) -> None:
        _require("shard", self.shard)
        _require("window", self.window)

    def batches(self, labels: Int64[np.ndarray, " n"], batch_size: int, seed: int) -> Batches:
        """Create :class:`ShardedBatches` for these labels."""
        return ShardedBatches(len(labels), batch_size, seed, self.shard, self.window)


SAMPLERS: dict[str, type] = {
    "shuffled": Shuffled,
    "balanced": Balanced,
    "proximity": Proximity,
    "sharded": Sharded,
}


class _Permuted(abc.ABC):
    """Batches cut from a new permutation of the pictures in every epoch."""

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        if n < 1 or batch_size < 1 or seed < 0:
            raise ValueError(f"n and batch_size must be at least 1 and seed at least 0, got {n}, {batch_size}, {seed}")
        self.n = n
        self.batch_size = self.smallest = min(batch_size, n)
        self.seed = seed
        self._epoch = -1
        self._order: Int64[np.ndarray, " m"] = np.zeros(0, np.int64)
        self._bounds: Int64[np.ndarray, " bounds"] = np.zeros(1, np.int64)

    @abc.abstractmethod
    def __len__(self) -> int:
        """Batches in an epoch."""

    @abc.abstractmethod
    def _draw(self, rng: np.random.Generator) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " bounds"]]:
        """Order of the pictures in an epoch, and the bounds of its batches."""

    def batch(self, step: int) -> tuple[int, Int64[np.ndarray, " b"]]:
        """The epoch that a step (from 0) falls into, and the indices of its pictures."""
        epoch, position = _divide(step, len(self))
        if epoch != self._epoch:
            self._order, self._bounds = self._draw(np.random.default_rng((self.seed, epoch)))
            self._epoch = epoch
        return epoch, self._order[self._bounds[position] : self._bounds[position + 1]].copy()


class ShuffledBatches(_Permuted):
    """Shuffled batches: every epoch is a permutation of all n pictures, cut into batches.

    The batch of a step depends on the step and the seed only, which suffice to resume. The incomplete batch at the end
    of an epoch is dropped; if n < batch_size, an epoch is one batch of n.
    """

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.n // self.batch_size

    def _draw(self, rng: np.random.Generator) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " bounds"]]:
        return rng.permutation(self.n), np.arange(len(self) + 1) * self.batch_size


class ShardedBatches(_Permuted):
    """Shards in random order, pictures shuffled within a window of several of them.

    A shard is a run of ``shard`` consecutive pictures, which lie together in tar shards, RecordIO and parquet files;
    the last may be shorter. Pictures of the same window come in any order, those of different windows never mix. So
    at any time only ``window`` places of the storage are read. One window over all is the plain shuffle. The incomplete
    batch at the end of an epoch is dropped.
    """

    def __init__(self, n: int, batch_size: int, seed: int, shard: int = 10_000, window: int = 8) -> None:
        super().__init__(n, batch_size, seed)
        self.shard = _require("shard", shard)
        self.window = _require("window", window)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.n // self.batch_size

    def _draw(self, rng: np.random.Generator) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " bounds"]]:
        turn = rng.permutation(-(-self.n // self.shard))
        window_of = np.repeat(turn // self.window, min(self.shard, self.n))[: self.n]
        order = np.argsort(window_of + rng.random(self.n), kind="stable")
        return order, np.arange(len(self) + 1) * self.batch_size


class ProximityBatches(_Permuted):
    """Classes come in bursts: a class returns within a number of steps, but never in the same batch.

    Every epoch shows every picture exactly once, in S ≥ n/B batches whose sizes differ by one at most. With
    w = ⌊(within + 1)/2⌋ or a little less, an epoch consists of R = S/w rounds of w steps. A class with n_j pictures
    is in n_j consecutive rounds, once each, and in a random step of each, so that

    - no batch holds two pictures of a class, if n_j ≤ S; else ⌈n_j/S⌉ at most, of necessity;
    - the next picture of a class comes 1 to 2w − 1 ≤ within steps later.

    There is one exception. Classes are laid end to end, in random order, into lanes of R rounds. Where those that are
    left cannot fill the end of a lane, one is split: its burst breaks off at the end of the epoch, and the rest of it
    stands at the epoch's beginning. Less than ⌈n/R⌉ classes are split, each once, none with n_j ≥ R, and none at all
    where n_j are equal and divide R. Classes of one picture fill the remaining places first, as far as they go.
    """

    def __init__(self, labels: Int64[np.ndarray, " n"], batch_size: int, seed: int, within: int = 100) -> None:
        super().__init__(len(labels), batch_size, seed)
        self.within = _require("within", within)
        fewest = -(-self.n // self.batch_size)
        self._rounds = -(-fewest // ((within + 1) // 2))
        self._steps_per_round = -(-fewest // self._rounds)
        if len(self) > self.n:  # some batches would be empty
            self._rounds, self._steps_per_round = fewest, 1
        self.batch_size, self.smallest = -(-self.n // len(self)), self.n // len(self)
        self._by_class = np.argsort(labels, kind="stable")
        self._sizes = np.unique(labels, return_counts=True)[1]

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._rounds * self._steps_per_round

    def _draw(self, rng: np.random.Generator) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " bounds"]]:
        rounds, width = self._rounds, self._steps_per_round
        classes = _fill_lanes(rng.permutation(len(self._sizes)), self._sizes, rounds)
        # Pictures class by class: place q is in lane q // R and round q mod R.
        turn = np.argsort(classes)
        pictures = self._by_class[np.argsort(np.repeat(turn, self._sizes) * self.n + rng.permutation(self.n))]
        sizes = self._sizes[classes]
        first = np.repeat(np.cumsum(sizes) - sizes, sizes)
        place = np.arange(self.n)
        round_of = place % rounds
        # Within a round classes are shuffled, and dealt to its steps in turn. Pictures of a class that comes more than
        # once in a round share a key, so that they are neighbours and are dealt to different steps.
        key = rng.permutation(self.n)[first + (place - first) % rounds]
        shown = np.argsort(round_of * self.n + key, kind="stable")
        in_round = np.bincount(round_of, minlength=rounds)
        dealt = place - np.repeat(np.cumsum(in_round) - in_round, in_round)
        step = np.repeat(np.arange(rounds) * width, in_round) + dealt * _stride(width) % width
        bounds = np.concatenate([[0], np.cumsum(np.bincount(step, minlength=rounds * width))])
        return pictures[shown[np.argsort(step * self.n + place)]], bounds


def _stride(width: int) -> int:
    """Number coprime to ``width``, near its golden section, so that its first multiples are far apart modulo it."""
    return next(stride for stride in range(round(0.618 * width), 2 * width + 2) if math.gcd(stride, width) == 1)


def _fill_lanes(
    classes: Int64[np.ndarray, " c"], sizes: Int64[np.ndarray, " c"], length: int
) -> Int64[np.ndarray, " c"]:
    """Reorder classes so that few of them, laid end to end, cross a multiple of ``length``.

    The order is kept, except that a class which would cross one is preceded by later classes that fill the gap exactly,
    the largest that fit, if there are any.
    """
    size_of = sizes.tolist()
    waiting: dict[int, list[int]] = {}
    for each in classes[::-1].tolist():
        waiting.setdefault(size_of[each], []).append(each)
    laid = bytearray(len(classes))
    order: list[int] = []
    space = length
    for each in classes.tolist():
        if laid[each]:
            continue
        if space < size_of[each] < length:
            fillers: list[int] = []
            missing = space
            for size in range(space, 0, -1):
                alike = waiting.get(size, [])
                while alike and (laid[alike[-1]] or size <= missing):
                    filler = alike.pop()
                    if not laid[filler]:
                        fillers.append(filler)
                        missing -= size
                if not missing:
                    break
            if missing:
                for filler in reversed(fillers):
                    waiting[size_of[filler]].append(filler)
            else:
                order += fillers
                space = length
                for filler in fillers:
                    laid[filler] = True
        order.append(each)
        laid[each] = True
        space = length - (length - space + size_of[each]) % length
    return np.array(order, dtype=np.int64)


class BalancedBatches:
    """Every batch holds M pictures of each of P = ⌊B/M⌋ classes, every class equally often.

    An epoch is a pass over the classes, not over the pictures: classes in random order, P a step. The rest, less
    than P of them, is dropped, and differs between epochs. From epoch to epoch a class goes through its
    pictures M at a time, in a new random order after each pass through them, which leaves out less than M pictures.
    A class of fewer than M pictures shows them repeatedly. With fewer than P classes all of them are in every batch.
    """

    def __init__(self, labels: Int64[np.ndarray, " n"], batch_size: int, seed: int, per_class: int = 4) -> None:
        _require("per_class", per_class)
        if len(labels) < 1 or seed < 0:
            raise ValueError(f"there must be a picture and seed at least 0, got {len(labels)}, {seed}")
        if batch_size < per_class:
            raise ValueError(f"a batch of {batch_size} cannot hold {per_class} pictures of a class")
        self.n = len(labels)
        self.per_class = per_class
        self.seed = seed
        self._by_class = np.argsort(labels, kind="stable")
        self._sizes = np.unique(labels, return_counts=True)[1]
        self._first = np.cumsum(self._sizes) - self._sizes
        self._classes_per_batch = min(batch_size // per_class, len(self._sizes))
        self.batch_size = self.smallest = self._classes_per_batch * per_class
        self._epoch = -1
        self._order: Int64[np.ndarray, " classes"] = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._sizes) // self._classes_per_batch

    def batch(self, step: int) -> tuple[int, Int64[np.ndarray, " b"]]:
        """The epoch that a step (from 0) falls into, and the indices of its pictures, class by class."""
        epoch, position = _divide(step, len(self))
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self._sizes))
            self._epoch = epoch
        chosen = self._order[position * self._classes_per_batch : (position + 1) * self._classes_per_batch]
        return epoch, self._by_class[np.concatenate([self._group(each, epoch) for each in chosen.tolist()])]

    def _group(self, each: int, epoch: int) -> Int64[np.ndarray, " per_class"]:
        size = int(self._sizes[each])
        time_through, group = divmod(epoch, max(size // self.per_class, 1))
        order = np.random.default_rng((self.seed, time_through, each)).permutation(size)
        group_of: Int64[np.ndarray, " per_class"] = np.resize(order[group * self.per_class :], self.per_class)
        return group_of + int(self._first[each])


def visits(
    batches: Batches, first_step: int, last_step: int
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """The step and the index of every picture that the steps first_step, ..., last_step − 1 see."""
    seen = [batches.batch(step)[1] for step in range(first_step, last_step)]
    return np.repeat(np.arange(first_step, last_step), [len(indices) for indices in seen]), np.concatenate(seen)


def _divide(step: int, steps_per_epoch: int) -> tuple[int, int]:
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step}")
    return divmod(step, steps_per_epoch)


def _require(option: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{option} must be a whole number of at least 1, got {value!r}")
    return value
