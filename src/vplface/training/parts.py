"""The number of pictures in a forward pass: processes share a batch, and each may take its slice in parts."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vplface.backbones import build
from vplface.config import Config
from vplface.data.samplers import Batches
from vplface.errors import ConfigError


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


def _takes_one(config: Config) -> bool:
    """Whether the backbone can be trained on one picture, from a forward pass over tensors without data."""
    chosen = config.backbone
    try:
        with torch.random.fork_rng(devices=[]), FakeTensorMode():
            build(chosen.name, chosen.embedding_dim, **chosen.options).train()(torch.empty(1, 3, 112, 112))
    except ValueError:  # BatchNorm's
        return False
    return True
