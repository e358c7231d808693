"""Sizes of a backbone: weights, buffers, activations and operations, counted without data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vplface.backbones import build
from vplface.data.pictures import SIZE
from vplface.footprint.operations import operation_counter
from vplface.footprint.run_size import FLOAT32, Precision


@dataclass(frozen=True)
class NetworkSize:
    """The size of a backbone.

    Attributes:
        parameters: weights.
        trained: weights that have a gradient.
        buffer_bytes: bytes of its buffers: the statistics of BatchNorm.
        activation_bytes: bytes that a forward pass keeps for the backward pass.
        forward: floating-point operations of the forward pass of a picture, two a multiply-add.
        backward: those of the backward pass of a picture, to the weights that have a gradient.
    """

    parameters: int
    trained: int
    buffer_bytes: int
    activation_bytes: int
    forward: int = 0
    backward: int = 0

    @property
    def state_bytes(self) -> int:
        """Bytes of weights and buffers."""
        return FLOAT32 * self.parameters + self.buffer_bytes


def network_of(
    name: str, dim: int, pictures: int, precision: Precision, frozen: Collection[str] = (), **options: Any
) -> NetworkSize:
    """Count weights, activations and operations of a backbone by running it on tensors without data.

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

    counted = max(pictures, 2)
    with FakeTensorMode():
        backbone = build(name, dim, **options).train()
        for parameter, value in backbone.named_parameters():
            if parameter in frozen:
                value.requires_grad_(False)
        inputs = torch.empty(counted, 3, SIZE, SIZE)
        with operation_counter() as operations:
            with (
                torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
                torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
            ):
                output = backbone(inputs)
            forward = operations.get_total_flops()
            if output.requires_grad:
                output.sum().backward()
    weights = {p.untyped_storage()._cdata for p in backbone.parameters()}
    return NetworkSize(
        parameters=sum(p.numel() for p in backbone.parameters()),
        trained=sum(p.numel() for p in backbone.parameters() if p.requires_grad),
        buffer_bytes=sum(b.nbytes for b in backbone.buffers()),
        activation_bytes=sum(size for storage, size in kept.items() if storage not in weights),
        forward=forward // counted,
        backward=(operations.get_total_flops() - forward) // counted,
    )


@dataclass(frozen=True)
class InferenceSize:
    """The size of a model that only embeds.

    Attributes:
        parameters: weights.
        state_bytes: bytes of weights and buffers.
        peak_bytes: the most that a forward pass holds at once besides, its input left out.
        forward: floating-point operations of a picture, two a multiply-add.
    """

    parameters: int
    state_bytes: int
    peak_bytes: int
    forward: int


def inference_of(name: str, dim: int, pictures: int, **options: Any) -> InferenceSize:
    """Count the size of a backbone in evaluation, in float32, by running it on tensors without data.

    Args:
        name: of the backbone.
        dim: d.
        pictures: of a forward pass.
        options: of that backbone.

    Raises:
        ConfigError: if there is no such backbone.
    """
    with FakeTensorMode():
        backbone = build(name, dim, **options).eval()
        inputs = torch.empty(pictures, 3, SIZE, SIZE)
        with torch.no_grad(), operation_counter() as operations, _LiveBytes() as live:
            backbone(inputs)
    held = [*backbone.parameters(), *backbone.buffers()]
    return InferenceSize(
        parameters=sum(p.numel() for p in backbone.parameters()),
        state_bytes=sum(tensor.nbytes for tensor in held),
        peak_bytes=live.peak,
        forward=operations.get_total_flops() // pictures,
    )


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """A context that measures the most bytes that tensors made in it hold at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and _storage(tensor) not in given | self._live.keys():
                storage = tensor.untyped_storage()
                self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]
        for key in [key for key, (storage, _) in self._live.items() if storage.expired()]:  # type: ignore[no-untyped-call]
            del self._live[key]
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
