"""Backbone, head and optimiser as a recipe asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed import ProcessGroup

from vplface.backbones import build, load_weights
from vplface.errors import ConfigError
from vplface.head import PrototypeHead
from vplface.optim import FusedSGD
from vplface.prototypes import Variational
from vplface.terms import Term
from vplface.training.config import Config


def device_of(name: str, local_rank: int = 0) -> torch.device:
    """The device that a configuration names; the best there is for ``auto``."""
    if name != "auto":
        try:
            device = torch.device(name)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
        return device
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank)
    return torch.device("mps" if torch.mps.is_available() else "cpu")


def backbone_of(config: Config, device: torch.device) -> nn.Module:
    """The backbone, with the weights that it starts from.

    Raises:
        DataError: if the weights are at fault.
    """
    backbone = build(config.backbone.name, config.backbone.embedding_dim, **config.backbone.options)
    if config.backbone.weights is not None:
        load_weights(backbone, config.backbone.weights)
    # torch's overloads of Module.to leave out device and memory_format together.
    return backbone.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def head_of(
    config: Config,
    classes: int,
    variational: Variational | None,
    terms: Sequence[Term],
    device: torch.device,
    process_group: ProcessGroup | None = None,
) -> PrototypeHead:
    """The head, with the injection and the terms of the configuration in steps."""
    options = config.optimizer
    fused = FusedSGD(options.lr * options.head_lr_scale, options.momentum, options.weight_decay)
    return PrototypeHead(
        classes,
        config.backbone.embedding_dim,
        margin=config.margin,
        variational=variational,
        terms=terms,
        optimizer=fused if options.fused else None,
        sample_rate=config.sample_rate,
        interclass_threshold=config.interclass_threshold,
        subcenters=config.subcenters,
        process_group=process_group,
        device=device,
        seed=config.seed,
    )


def optimizer_of(config: Config, backbone: nn.Module, head: PrototypeHead) -> torch.optim.Optimizer:
    """The optimiser of both, or of the backbone alone if the head has its own; biases and norms are not decayed."""
    options = config.optimizer
    trained = [p for p in (*backbone.parameters(), *head.parameters()) if p.requires_grad and p is not head.weight]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "lr": options.lr},
        {"params": [p for p in trained if p.ndim <= 1], "lr": options.lr, "weight_decay": 0.0},
    ]
    if head.optimizer is None:
        groups.append({"params": [head.weight], "lr": options.lr * options.head_lr_scale})
    if options.name == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum, weight_decay=options.weight_decay)
    return torch.optim.AdamW(groups, betas=(options.momentum, 0.999), weight_decay=options.weight_decay)
