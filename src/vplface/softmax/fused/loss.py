"""The loss of a fused step, as a function that autograd can differentiate once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx

from vplface.softmax.fused.fused_pass import FusedPass


class _FusedLoss(torch.autograd.Function):
    # size: a tensor for each input of the loss, and two calls
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        embeddings: Tensor,
        weight: Tensor,
        labels: Tensor,
        memory_embeddings: Tensor | None,
        step: FusedPass,
        move: Callable[[], None],
        end: Callable[[], None],
    ) -> Tensor:
        ctx.step, ctx.move, ctx.end, ctx.type = step, move, end, embeddings.dtype  # type: ignore[attr-defined]
        return step.loss(embeddings, labels, memory_embeddings)

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
        result = step.gradient(gradient, ctx.type if of_embeddings else None)  # type: ignore[attr-defined]
        if of_weight:
            ctx.move()  # type: ignore[attr-defined]
        ctx.end()  # type: ignore[attr-defined]
        return result, None, None, None, None, None, None


# size: a tensor for each input of the loss, and two calls
def fused_loss(
    embeddings: Float[Tensor, "batch dim"],
    weight: Float[Tensor, "classes dim"],
    labels: Int[Tensor, " batch"],
    memory_embeddings: Float[Tensor, "batch dim"] | None,
    *,
    step: FusedPass,
    move: Callable[[], None],
    end: Callable[[], None],
) -> Float[Tensor, ""]:
    """The same as ``reference.margin_softmax`` of the unit vectors of ``embeddings``; ``backward()`` moves W.

    Args:
        embeddings: of any length.
        weight: W; it gets no gradient.
        labels: class ids.
        memory_embeddings: what is remembered instead of ``embeddings``, if anything.
        step: whose buffers hold the batch until another loss is formed.
        move: called in the backward pass for the gradient of W.
        end: called when the backward pass has been started.
    """
    loss: Tensor = _FusedLoss.apply(  # type: ignore[no-untyped-call]
        embeddings, weight, labels, memory_embeddings, step, move, end
    )
    return loss
