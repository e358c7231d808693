"""The number of pictures in a forward pass: processes share a batch, and each may take its slice in parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vplface.backbones import build
from vplface.config import Config
from vplface.data.samplers import Batches
from vplface.errors import ConfigError
from vplface.training.distributed import DistributedContext


def require_parts(config: Config, batches: Batches, processes: int) -> None:
    """Refuse a configuration under which a forward pass has no pictures, or one picture where BatchNorm needs two.

    Args:
        config: the configuration.
        batches: its batches.
        processes: the number of processes that share each batch.

    Raises:
        ConfigError: naming the keys of the configuration.
    """
    parts = config.accumulate
    slice_of = batches.smallest // processes
    shared = f" over {processes} processes" if processes > 1 else ""
    if slice_of < (parts if processes > 1 else 1):
        in_parts = f" in {parts} parts each" if parts > 1 else ""
        raise ConfigError(
            f"a batch of {batches.smallest} cannot be shared by {processes} processes{in_parts}; raise batch_size"
            + (" or lower accumulate" if parts > 1 else "")
        )
    if slice_of < 2 * parts and not _takes_one(config):
        raise ConfigError(
            f"batch_size={config.batch_size} with accumulate={parts} leaves a forward pass of one picture (batches of"
            f" {batches.smallest}{shared}), and the BatchNorm of backbone {config.backbone.name} takes at least two;"
            " raise batch_size" + (" or lower accumulate" if parts > 1 else "")
        )


def fewest(config: Config, batches: Batches, processes: int) -> int:
    """The least number of pictures in the slice of a process: two for each part, or one where a batch is too small.

    Args:
        config: a configuration that :func:`require_parts` accepts.
        batches: its batches.
        processes: the number of processes that share each batch.
    """
    slice_of = batches.smallest // processes
    return min(slice_of, config.accumulate * (2 if slice_of >= 2 * config.accumulate else 1))


def most(config: Config, batches: Batches, processes: int) -> int:
    """The most pictures of a process in a forward pass.

    Args:
        config: the configuration.
        batches: its batches.
        processes: the number of processes that share each batch.
    """
    return -(-batches.batch_size // (processes * config.accumulate))


class PartSizes:
    """The pictures of each process in each part of a batch, on their way between the hosts.

    Args:
        own: of this process, by part. Every process has as many parts.
        context: the processes.
    """

    def __init__(self, own: Sequence[int], context: DistributedContext) -> None:
        self._parts = len(own)
        numbers = [0.0] * (context.size * self._parts)
        first = context.rank * self._parts
        numbers[first : first + self._parts] = own
        self._pending = context.begin_sum(numbers)

    def of(self, part: int) -> list[int]:
        """The pictures of each process in a part; waits for the other hosts."""
        return self._every[part :: self._parts]

    def share(self, part: int) -> float:
        """The share of the pictures of all processes that are in a part."""
        return sum(self.of(part)) / sum(self._every)

    @cached_property
    def _every(self) -> list[int]:
        return [int(number) for number in self._pending.wait()]


def _takes_one(config: Config) -> bool:
    """Whether the backbone can be trained on one picture, from a forward pass over tensors without data."""
    chosen = config.backbone
    try:
        with torch.random.fork_rng(devices=[]), FakeTensorMode():
            build(chosen.name, chosen.embedding_dim, **chosen.options).train()(torch.empty(1, 3, 112, 112))
    except ValueError:  # BatchNorm's
        return False
    return True
