"""Identity functions that act on the gradient which passes through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from vplface.once import once_differentiable


def scale_gradient(tensor: Tensor, factor: float) -> Tensor:
    """``tensor``, whose gradient becomes ``factor`` times as large."""
    if factor == 1.0 or not tensor.requires_grad:
        return tensor
    scaled: Tensor = _ScaleGradient.apply(tensor, factor)  # type: ignore[no-untyped-call]
    return scaled


def before_backward(loss: Tensor, call: Callable[[Tensor], None]) -> Tensor:
    """``loss``, whose backward pass begins with ``call`` of its gradient."""
    result: Tensor = _BeforeBackward.apply(loss, call)  # type: ignore[no-untyped-call]
    return result


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(tensor)
        ctx.factor = factor  # type: ignore[attr-defined]
        return tensor.view_as(tensor)

    @staticmethod
    @once_differentiable("it is not the gradient of the loss, but the share of one rank or one batch")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class _BeforeBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, loss: Tensor, call: Callable[[Tensor], None]) -> Tensor:
        ctx.call = call  # type: ignore[attr-defined]
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.call(gradient)  # type: ignore[attr-defined]
        return gradient, None
