"""Preprocessing, backbone, head and optimiser of a configuration."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from vplface.backbones import build, load_weights
from vplface.backbones.depth import depths, last_depth
from vplface.backbones.meta_init import meta_init
from vplface.config import Config
from vplface.data.pictures import Preprocessing
from vplface.errors import ConfigError
from vplface.head import PrototypeHead
from vplface.optim import FusedSGD
from vplface.prototypes import Variational
from vplface.terms import Term


def device_of(name: str, local_rank: int = 0) -> torch.device:
    """The device that a configuration names; for ``auto`` the best available."""
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


def backbone_of(config: Config, device: torch.device, *, weights: bool = True) -> nn.Module:
    """The backbone, with the weights that it starts from.

    Args:
        config: the configuration.
        device: where the backbone is.
        weights: load the file of weights that the configuration names.

    Raises:
        ConfigError: if there is no such backbone, or it is too large for the memory of this machine.
        DataError: if the weights are missing, damaged or of another network.
    """
    with meta_init(_MOST_PARTS):
        outline = build(config.backbone.name, config.backbone.embedding_dim, **config.backbone.options)
    _require_memory(
        sum(p.nbytes for p in outline.parameters()),
        f"backbone: the weights of {config.backbone.name}",
        "lower backbone.embedding_dim or the sizes in backbone.options",
    )
    backbone = build(config.backbone.name, config.backbone.embedding_dim, **config.backbone.options)
    if weights and config.backbone.weights is not None:
        load_weights(backbone, config.backbone.weights)
    # torch's overloads of Module.to leave out device and memory_format together.
    return backbone.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def preprocessing_of(config: Config) -> Preprocessing:
    """The preprocessing of the backbone's input, which all backbones share unless the configuration has another."""
    return config.backbone.preprocessing or Preprocessing()


def head_of(
    config: Config,
    classes: int,
    variational: Variational | None,
    terms: Sequence[Term],
    device: torch.device,
    process_group: ProcessGroup | None = None,
) -> PrototypeHead:
    """The head, with the injection and the terms of the configuration in steps.

    Raises:
        ConfigError: if it is too large for the memory of this machine.
    """
    options = config.optimizer
    if device.type == "cpu":
        ranks = 1 if process_group is None else process_group.size()
        _require_memory(
            _head_bytes(config, math.ceil(classes / ranks), variational, terms),
            f"the head for {classes:,} classes: prototypes, memory and terms",
            "lower backbone.embedding_dim, subcenters, or the sizes of variational.memory and terms",
        )
    fused = None
    if options.is_fused:
        rate, in_backward = options.lr * options.head_lr_scale, config.update_in_backward
        fused = FusedSGD(rate, options.momentum, options.weight_decay, in_backward=in_backward)
    return PrototypeHead(
        classes,
        config.backbone.embedding_dim,
        margin=config.margin,
        variational=variational,
        terms=terms,
        optimizer=fused,
        sample_rate=config.sample_rate,
        interclass_threshold=config.interclass_threshold,
        subcenters=config.subcenters,
        process_group=process_group,
        device=device,
        seed=config.seed,
    )


def optimizer_of(config: Config, backbone: nn.Module, head: PrototypeHead) -> torch.optim.Optimizer:
    """The optimiser of both, or of the backbone alone if the head has its own; biases and norms are not decayed.

    With ``finetune.layer_decay`` each depth has groups of its own, see :func:`learning_rates`. With ``finetune.l2_sp``
    a ``StartingPoint`` takes the place of the decay of the backbone.
    """
    options = config.optimizer
    of_head = [p for p in head.parameters() if p.requires_grad and p is not head.weight]
    groups: list[dict[str, Any]] = []
    by_rate = _by_learning_rate(config, backbone)
    by_rate[-1][1].extend(of_head)
    decay = options.weight_decay if config.finetune.l2_sp is None else 0.0
    for lr, trained in by_rate:
        groups += [
            {"params": [p for p in trained if p.ndim > 1], "lr": lr, "weight_decay": decay},
            {"params": [p for p in trained if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
        ]
    if head.optimizer is None:
        groups.append({"params": [head.weight], "lr": options.lr * options.head_lr_scale})
    if options.name == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum, weight_decay=options.weight_decay)
    return torch.optim.AdamW(groups, betas=(options.momentum, 0.999), weight_decay=options.weight_decay)


def learning_rates(config: Config, backbone: nn.Module) -> dict[int, float]:
    """The base learning rate at each depth: η·γ^(L + 1 − depth), with ``layer_decay`` γ and L blocks.

    This is the layer-wise decay of ELECTRA (Clark et al., ICLR 2020) and BEiT (Bao et al., ICLR 2022): what comes after
    the blocks learns at the full rate η, as the prototypes do, and each block before it more slowly by a factor γ. The
    depths are those of ``backbones.depth``.
    """
    depth = depths(backbone)
    last, decay = last_depth(depth), config.finetune.layer_decay
    return {place: config.optimizer.lr * decay ** (last - place) for place in sorted({*depth.values(), last})}


def _by_learning_rate(config: Config, backbone: nn.Module) -> list[tuple[float, list[nn.Parameter]]]:
    """Learning rates and the parameters of the backbone that train at each; the last is the full rate."""
    trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    if config.finetune.layer_decay == 1.0:
        return [(config.optimizer.lr, list(trained.values()))]
    depth = depths(backbone)
    rates = learning_rates(config, backbone)
    return [(rate, [p for name, p in trained.items() if depth[name] == place]) for place, rate in rates.items()]


_MOST_PARTS = 20_000
"""Maximum number of parts of a network; the largest have some thousands."""


def _require_memory(needed: int, what: str, advice: str) -> None:
    """Refuse sizes that exceed memory, before the system kills the process."""
    have = _memory()
    if have is not None and needed > have:
        raise ConfigError(f"{what} take {needed / 2**30:,.1f} GiB, of {have / 2**30:,.1f} GiB of memory; {advice}")


def _memory() -> int | None:
    """Bytes of memory of this machine; None if they are unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _head_bytes(config: Config, rows: int, variational: Variational | None, terms: Sequence[Term]) -> int:
    """Bytes of W and of the memory, for a number of classes."""
    dim, device = config.backbone.embedding_dim, torch.device("meta")
    held: list[Tensor] = []
    with device:
        for term in terms:
            bound = term.bind(rows, dim)
            held += [*bound.parameters(), *bound.buffers()]
        if variational is not None:
            held += variational.memory.empty(rows, dim, torch.float32, device, seed=0).values()
    return 4 * rows * config.subcenters * dim + sum(each.nbytes for each in held)
