"""Gradients that autograd cannot differentiate again: asking for their derivative is an error, never a wrong value.

torch's own ``once_differentiable`` refuses only where the gradient that comes in has a graph. That of a loss has none,
so that with ``create_graph=True`` the gradients that go out would be constants to a second backward pass.
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
    ' backend="reference", optimizer=None, no process_group, and a margin and terms that take nothing for a constant'
)


def once_differentiable(why: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For the ``backward`` of a ``torch.autograd.Function`` whose result must not be differentiated again.

    The function has to save every input that may require a gradient (``ctx.save_for_backward``).

    Args:
        why: there is no second derivative; part of the message.
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
    """``tensor``, whose gradient cannot be differentiated again.

    Args:
        tensor: of which something was taken for a constant that depends on what is differentiated.
        why: as above.
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
    """A gradient that depends on ``sources`` in a way that is not known."""

    @staticmethod
    def forward(ctx: FunctionCtx, gradient: Tensor, why: str, *sources: Tensor) -> Tensor:
        ctx.why = why  # type: ignore[attr-defined]
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise RuntimeError(_ADVICE.format(ctx.why))
