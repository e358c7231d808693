"""The loss of a fused step, as a function that autograd can differentiate once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd.function import FunctionCtx

from vplface.softmax.fused.fused_pass import FusedPass


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        embeddings: Tensor,
        weight: Tensor,
        step: FusedPass,
        move: Callable[[], None],
        end: Callable[[], None],
    ) -> Tensor:
        ctx.embeddings = embeddings.detach()  # type: ignore[attr-defined]
        ctx.step, ctx.move, ctx.end = step, move, end  # type: ignore[attr-defined]
        return step.loss()

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        step: FusedPass = ctx.step  # type: ignore[attr-defined]
        if not step.is_current:
            raise RuntimeError(
                "a fused step keeps the exponentials of one batch for one backward pass, and this loss has taken it or"
                " another loss has been formed since; call backward() once, before the next loss is formed, or build"
                ' the head with backend="tiled"'
            )
        of_embeddings, of_weight, *_ = ctx.needs_input_grad  # type: ignore[attr-defined]
        step.backward(gradient, ctx.embeddings, of_embeddings)  # type: ignore[attr-defined]
        if of_weight:
            ctx.move()  # type: ignore[attr-defined]
        ctx.end()  # type: ignore[attr-defined]
        return step.gradient(ctx.embeddings), None, None, None, None  # type: ignore[attr-defined]


def fused_loss(
    embeddings: Shaped[Tensor, "batch dim"],
    weight: Float[Tensor, "classes dim"],
    *,
    step: FusedPass,
    move: Callable[[], None],
    end: Callable[[], None],
) -> Float[Tensor, ""]:
    """The same as ``reference.margin_softmax`` of the unit vectors of ``embeddings``; ``backward()`` moves W.

    Args:
        embeddings: of any length.
        weight: W; it gets no gradient.
        step: whose buffers hold the batch until another loss is formed.
        move: called in the backward pass for the gradient of W.
        end: called when the backward pass has been started.
    """
    loss: Tensor = _FusedLoss.apply(embeddings, weight, step, move, end)  # type: ignore[no-untyped-call]
    return loss
