"""Sizes of a backbone: weights, buffers and activations, counted without data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vplface.backbones import build
from vplface.footprint.run_size import FLOAT32, Precision


@dataclass(frozen=True)
class NetworkSize:
    """The size of a backbone.

    Attributes:
        parameters: weights.
        trained: weights that have a gradient.
        buffer_bytes: bytes of its buffers: the statistics of BatchNorm.
        activation_bytes: bytes that a forward pass keeps for the backward pass.
    """

    parameters: int
    trained: int
    buffer_bytes: int
    activation_bytes: int

    @property
    def state_bytes(self) -> int:
        """Bytes of weights and buffers."""
        return FLOAT32 * self.parameters + self.buffer_bytes


def network_of(
    name: str, dim: int, pictures: int, precision: Precision, frozen: Collection[str] = (), **options: Any
) -> NetworkSize:
    """Count the weights and activations of a backbone by running it on tensors without data.

    Args:
        name: of the backbone.
        dim: d.
        pictures: of a forward pass; at least two are counted, which BatchNorm needs.
        precision: type of autocast.
        frozen: names of parameters without a gradient.
        options: of that backbone.

    Raises:
        ConfigError: if there is no such backbone.
    """
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with FakeTensorMode():
        backbone = build(name, dim, **options).train()
        for parameter, value in backbone.named_parameters():
            if parameter in frozen:
                value.requires_grad_(False)
        inputs = torch.empty(max(pictures, 2), 3, 112, 112)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            output = backbone(inputs)
    del output
    weights = {p.untyped_storage()._cdata for p in backbone.parameters()}
    return NetworkSize(
        parameters=sum(p.numel() for p in backbone.parameters()),
        trained=sum(p.numel() for p in backbone.parameters() if p.requires_grad),
        buffer_bytes=sum(b.nbytes for b in backbone.buffers()),
        activation_bytes=sum(size for storage, size in kept.items() if storage not in weights),
    )
