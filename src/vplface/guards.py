"""Checks that refuse what torch allows and would silently ruin the training of prototypes."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

LARGEST_LOSS_WEIGHT = 2.0**10
"""Loss weights stay below this; the scales of a GradScaler start above it."""


class DataParallelGuard:
    """Refuses DistributedDataParallel around a head if its broadcasts or averages would corrupt the head.

    The last wrapper that passed the check is not checked again. Copies start without it.
    """

    def __init__(self) -> None:
        self._harmless: Callable[[], object] = _no_wrapper

    def check(self, weight: nn.Parameter, *, sharded: bool, fused: bool, variational: bool) -> None:
        """Check the wrapper whose forward is active, if any.

        Args:
            weight: W of the head.
            sharded: whether ranks share the classes.
            fused: whether ``FusedSGD`` updates W.
            variational: whether the head has a memory.

        Raises:
            RuntimeError: naming the problem.
        """
        wrapper = getattr(DistributedDataParallel, "_active_ddp_module", None)
        if wrapper is None or wrapper is self._harmless():
            return
        fault = None
        if all(each is not weight for each in wrapper.parameters()):
            pass
        elif sharded:
            fault = "has given all ranks the classes of the first, and averages gradients of different classes"
        elif fused:
            fault = "cannot average gradients that FusedSGD consumes in backward(), so that the ranks diverge"
        elif variational and getattr(wrapper, "broadcast_buffers", False):
            fault = "overwrites the memory of each rank with that of the first, unless broadcast_buffers=False"
        if fault is not None:
            raise RuntimeError(
                f"this head is in a module that DistributedDataParallel wraps, which {fault}; wrap only the"
                " backbone, and give the head the process group: PrototypeHead(..., process_group=dist.group.WORLD)"
            )
        self._harmless = weakref.ref(wrapper)

    def __reduce__(self) -> tuple[Any, ...]:
        return DataParallelGuard, ()


class FusedBackwardGuard:
    """Refuses backward passes in which ``FusedSGD`` would update W by anything but the gradient of the loss."""

    def __init__(self) -> None:
        self._unscaled = False  # no GradScaler was seen at the first backward pass, and none comes later

    def check(self, weight: Tensor, version: int, gradient: Tensor | None) -> None:
        """Check a backward pass that is about to begin.

        Args:
            weight: W.
            version: that of W when the loss was formed.
            gradient: dL/dloss; None where the scale of the loss is checked on the device.

        Raises:
            RuntimeError: for a second derivative, a loss that a GradScaler has scaled, or a W that has changed since.
        """
        if torch.is_grad_enabled():
            raise RuntimeError(
                "FusedSGD takes the gradient of W in backward(), so there is no second derivative (create_graph=True);"
                ' build the head with optimizer=None and backend="reference"'
            )
        if gradient is not None:
            if not self._unscaled and abs(gradient.item()) >= LARGEST_LOSS_WEIGHT:
                raise RuntimeError(scaled_loss(f"{gradient.item():g}"))
            self._unscaled = True
        if weight._version != version:
            raise RuntimeError(
                "W has changed since this loss was computed. FusedSGD updates W in the backward pass of a loss, or in"
                " step() if in_backward=False; compute the next loss after that, or build the head with optimizer=None"
            )


def scaled_loss(factor: str) -> str:
    """The message that refuses a loss multiplied by ``factor``."""
    return (
        f"the loss was multiplied by {factor} before backward(), as a GradScaler does, but FusedSGD takes the"
        " gradient of W in backward(), before the loss is unscaled; train in bfloat16, or build the head with"
        " optimizer=None"
    )


def _no_wrapper() -> None:
    """Stand-in for a dead weak reference."""
