"""Functions of the angle between a sample and its class, with gradients that stay finite where the two coincide.

d sinθ/d cosθ = −cosθ/sinθ diverges as θ → 0 or π, although the gradient that reaches the sample does not: it is this
quotient times the tangent u − cosθ·x, whose length is sinθ. So sinθ is floored in this quotient only.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx


class _Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, cosine: Tensor) -> Tensor:
        sine = ((1.0 - cosine) * (1.0 + cosine)).clamp_min(0.0).sqrt()
        ctx.save_for_backward(cosine, sine)
        return sine

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        saved: tuple[Tensor, Tensor] = ctx.saved_tensors  # type: ignore[attr-defined]
        cosine, sine = saved
        floor = torch.finfo(cosine.dtype).eps ** 0.5
        return -gradient * cosine / sine.clamp_min(floor)


def sine(cosine: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sinθ ≥ 0 from cosθ, which may slightly exceed ±1 by rounding."""
    result: Tensor = _Sine.apply(cosine)  # type: ignore[no-untyped-call]
    return result


def angle(cosine: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """θ in [0, π] from cosθ, which may slightly exceed ±1 by rounding."""
    return torch.atan2(sine(cosine), cosine)


def add_angle(cosine: Float[Tensor, " batch"], margin: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """cos(θ + m), or cosθ − m·sin m past θ = π − m; ``ArcFace``'s target for a margin m of each sample."""
    angular = cosine * margin.cos() - sine(cosine) * margin.sin()
    return torch.where(cosine >= -margin.cos(), angular, cosine - margin * margin.sin())
