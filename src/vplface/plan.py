"""What a run will do and cost, before it is started."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vplface.margins import Margin
from vplface.prototypes import expected_coverage
from vplface.softmax.tiled import tile_bytes
from vplface.training.config import Config
from vplface.training.state import Training, prepare


@dataclass(frozen=True)
class Plan:
    """The resolved shape of a run; sizes in bytes.

    Attributes:
        identities: classes.
        pictures: that are trained on.
        steps_per_epoch: optimiser steps.
        steps: of the whole run.
        parameters: of the backbone.
        model_bytes: backbone with its gradient, optimiser state and moving average.
        head_bytes: prototypes with their gradient, if there is one, and optimiser state, and the memory.
        activation_bytes: what a forward pass keeps for the backward pass, for one part of a batch.
        softmax_bytes: exponentials kept from forward to backward for one part of a batch, and the buffers of a tile.
        variational_start: step at which injection begins; None for plain prototypes.
        delta_t: lifetime of a memory in steps.
        coverage: share of classes whose memory will be alive; also for other lifetimes, in steps.
        first_loss: what the loss of an untrained network will be near.
    """

    identities: int
    pictures: int
    steps_per_epoch: int
    steps: int
    parameters: int
    model_bytes: int
    head_bytes: int
    activation_bytes: int
    softmax_bytes: int
    variational_start: int | None
    delta_t: int | None
    coverage: dict[int, float]
    first_loss: float


def plan(config: Config) -> Plan:
    """Open the data, build the networks and work out what training them takes; nothing is written.

    Raises:
        ConfigError: if the configuration cannot be carried out.
        DataError: if pictures or lists are at fault.
    """
    run = prepare(config)
    classes, dim = run.head.num_classes, run.head.embedding_dim
    state = {"sgd": 1 if config.optimizer.momentum else 0, "adamw": 2}[config.optimizer.name]
    parameters = sum(p.numel() for p in run.backbone.parameters())
    part = math.ceil(min(config.batch_size, len(run.pictures)) / config.accumulate)
    variational = run.head.variational
    sizes = np.bincount(run.pictures.labels, minlength=classes)
    return Plan(
        identities=classes,
        pictures=len(run.pictures),
        steps_per_epoch=len(run.batches),
        steps=run.rate.steps,
        parameters=parameters,
        model_bytes=4 * parameters * (2 + state + (run.average is not None)),
        head_bytes=4 * classes * dim * (1 + (not config.optimizer.fused) + state + (variational is not None)),
        activation_bytes=_activation_bytes(run, part),
        softmax_bytes=min(run.head.workspace_bytes, 4 * part * classes)
        + tile_bytes(classes, max(part, dim), run.device),
        variational_start=None if variational is None else variational.start,
        delta_t=None if variational is None else variational.delta_t,
        coverage={
            delta_t: expected_coverage(sizes, run.batches.batch_size, delta_t)
            for delta_t in _lifetimes(len(run.batches) if variational is None else variational.delta_t)
        },
        first_loss=expected_first_loss(config.margin, classes, dim),
    )


def _lifetimes(delta_t: int) -> list[int]:
    """Lifetimes around the given one, each twice as long as the one before."""
    return sorted({max(round(delta_t * factor), 1) for factor in (0.25, 0.5, 1, 2, 4)})


def expected_first_loss(margin: Margin, classes: int, dim: int) -> float:
    """Loss for random directions: −s·t + log(e^{s·t} + (N−1)·e^{s²/2d}), where t is the margin's target at cosθ = 0.

    Cosines of random unit vectors have mean 0 and variance 1/d, so that E e^{s·cosθ} is near e^{s²/2d}.
    """
    target = margin.scale * float(margin.target(torch.zeros(1, dtype=torch.float64)))
    others = math.log(classes - 1) + margin.scale**2 / (2 * dim)
    return float(np.logaddexp(target, others)) - target


def _activation_bytes(run: Training, batch: int) -> int:
    """Bytes that autograd keeps between forward and backward, counted on tensors without data."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    backbone: nn.Module = run.backbone.to("meta").train()
    weights = {p.untyped_storage()._cdata for p in backbone.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = backbone(torch.empty(batch, 3, 112, 112, device="meta"))
    del output
    return sum(size for storage, size in kept.items() if storage not in weights)
