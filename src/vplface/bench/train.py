"""The step of a training run: pictures, backbone, head and both updates."""

from __future__ import annotations

from itertools import cycle

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vplface.backbones import build
from vplface.bench.head_arms import head_of, own
from vplface.bench.problem import MOMENTUM, WEIGHT_DECAY, Setting, Step, problem_of
from vplface.data.pictures import SIZE, Preprocessing

BATCHES = 8
"""Number of different batches, which are repeated in turn: a single batch would be learned in one step."""

LR = 0.01
"""Learning rate of the backbone; low, so that rounding does not grow from step to step."""


def training(setting: Setting, group: dist.ProcessGroup | None, slices: int = 1, *, backbone: str = "tiny") -> Step:
    """One step over random pictures that are in memory as bytes, for ``processes.scale``.

    Args:
        setting: its size.
        group: processes that share batch and classes.
        slices: in which the backbone gets the batch, each with batch statistics of its own.
        backbone: a key of ``BACKBONES``.

    Raises:
        ConfigError: if there is no such backbone.
    """
    torch.manual_seed(0)
    network = build(backbone, setting.dim).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's
    trained: nn.Module = network
    if group is not None:
        trained = DistributedDataParallel(network, process_group=group)
    problem = problem_of(setting)
    head, rows = head_of(problem, group), own(setting.batch, group)
    of_network = torch.optim.SGD(network.parameters(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)
    optimizers = [each for each in (of_network, head.optimizer) if each is not None]
    generator = torch.Generator().manual_seed(0)
    batches = cycle([_batch(setting, rows, generator) for _ in range(BATCHES)])
    autocast, prepare_input = problem.autocast(), Preprocessing()
    del problem

    def step() -> float:
        pictures, labels = next(batches)
        for optimizer in optimizers:
            optimizer.zero_grad()
        with autocast:
            parts = [trained(prepare_input(part)) for part in pictures.tensor_split(slices)]
            loss = head(torch.cat(parts), labels)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return float(loss.detach())

    return step


def _batch(setting: Setting, rows: slice, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    pictures = torch.randint(256, (setting.batch, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(setting.classes, (setting.batch,), generator=generator)
    return pictures[rows].clone(), labels[rows].clone()
