"""Gradients that raise an error when they are differentiated again.

torch's own ``once_differentiable`` raises only if the incoming gradient has a graph. That of a loss has none, so with
``create_graph=True`` a second backward pass would silently treat the outgoing gradients as constants.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx

_ADVICE = (
    "this gradient has no second derivative: {}. For gradient penalties, Hessians and the like build the head with"
    ' backend="reference", optimizer=None, no process_group, and a margin and terms without constants'
)


def once_differentiable(why: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator for the ``backward`` of a ``torch.autograd.Function`` whose result must not be differentiated again.

    The function must save every input that may require a gradient (``ctx.save_for_backward``).

    Args:
        why: reason for the missing second derivative, part of the error message.
    """

    def decorate(backward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(backward)
        def checked(ctx: Any, *gradients: Tensor) -> Any:
            with torch.no_grad():
                results = backward(ctx, *gradients)
            if not torch.is_grad_enabled():  # no graph is made of this pass
                return results
            sources = [each for each in (*gradients, *ctx.saved_tensors) if each is not None and each.requires_grad]
            several = results if isinstance(results, tuple) else (results,)
            final = tuple(None if each is None else _Final.apply(each, why, *sources) for each in several)  # type: ignore[no-untyped-call]
            return final if isinstance(results, tuple) else final[0]

        return checked

    return decorate


def once(tensor: Float[Tensor, "*shape"], why: str) -> Float[Tensor, "*shape"]:
    """Identity whose gradient raises an error when it is differentiated again.

    Args:
        tensor: tensor from which a value was computed and then treated as a constant.
        why: see :func:`once_differentiable`.
    """
    if not (tensor.requires_grad and torch.is_grad_enabled()):
        return tensor
    result: Tensor = _Once.apply(tensor, why)  # type: ignore[no-untyped-call]
    return result


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor, why: str) -> Tensor:
        ctx.save_for_backward(tensor)
        ctx.why = why  # type: ignore[attr-defined]
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if not torch.is_grad_enabled():
            return gradient, None
        return _Final.apply(gradient, ctx.why, gradient, *ctx.saved_tensors), None  # type: ignore[no-untyped-call]


class _Final(torch.autograd.Function):
    """Gradient that depends on ``sources``, without a derivative."""

    @staticmethod
    def forward(ctx: FunctionCtx, gradient: Tensor, why: str, *sources: Tensor) -> Tensor:
        ctx.why = why  # type: ignore[attr-defined]
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise RuntimeError(_ADVICE.format(ctx.why))
