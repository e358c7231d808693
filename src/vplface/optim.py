"""Momentum SGD that updates prototypes during backward, a tile of classes at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

Update: TypeAlias = Callable[[slice, Tensor], None]
"""Takes rows of W and their gradient, which may be overwritten."""


@dataclass(frozen=True)
class Momentum:
    """SGD with momentum in a form that the computation of a tile can apply: m ← μ·m + g + ω·w,  w ← w − η·m.

    Attributes:
        buffer: m, [N, d], or [N, K, d] with K sub-centres.
        lr: η.
        momentum: μ.
        weight_decay: ω.
    """

    buffer: Float[Tensor, "classes ... dim"]
    lr: float
    momentum: float
    weight_decay: float


@dataclass(frozen=True)
class FusedSGD:
    """SGD with momentum for ``PrototypeHead(optimizer=...)``, applied during backward.

    For a tile of rows of W, with their gradient g:  m ← μ·m + g + ω·w,  w ← w − η·m.  This is torch.optim.SGD, but
    no gradient of W ever exists as a whole. What needs one is refused: clipping by a norm over W, a GradScaler (known
    by its scale, at the first backward pass), a second optimiser for W, several backward passes a step.

    Attributes:
        lr: η > 0.
        momentum: μ in [0, 1).
        weight_decay: ω ≥ 0.

    Raises:
        ValueError: if a value lies outside its range.
    """

    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if not 0.0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")
        if not 0.0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")

    def bind(self, weight: nn.Parameter) -> PrototypeSGD:
        """The optimiser of one head's W."""
        return PrototypeSGD([weight], vars(self).copy())


class PrototypeSGD(torch.optim.Optimizer):
    """The optimizer ``head.optimizer``: schedules drive its learning rate, its state holds the momentum of W.

    W has moved when ``backward()`` returns; ``step()`` only checks. Its state_dict has the form of torch.optim.SGD's.
    """

    @property
    def _weight(self) -> nn.Parameter:
        weight: nn.Parameter = self.param_groups[0]["params"][0]
        return weight

    @property
    def _buffer(self) -> Tensor:
        """The momentum of W, from the first step that needs it."""
        state = self.state[self._weight]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(self._weight, requires_grad=False)
        buffer: Tensor = state["momentum_buffer"]
        return buffer

    def update(
        self, rows: slice, gradient: Float[Tensor, "rows ... dim"], among: Int[Tensor, " drawn"] | None = None
    ) -> None:
        """Move rows of W against their gradient, which may be overwritten.

        Args:
            rows: of W, or of those numbered by ``among``.
            gradient: of these rows.
            among: the rows that take part in this step; None for all. The others keep their momentum and do not decay.
        """
        group = self.param_groups[0]
        lr, momentum, weight_decay = group["lr"], group["momentum"], group["weight_decay"]
        with torch.no_grad():
            chosen = rows if among is None else among[rows]
            weight = self._weight[chosen]
            buffer = self._buffer[chosen] if momentum else None
            # What torch.optim.SGD(fused=True) calls. On the CPU it garbles the momentum of 16-bit types (torch 2.13).
            if weight.dtype in (torch.float32, torch.float64):
                torch._fused_sgd_(
                    [weight],
                    [gradient],
                    [] if buffer is None else [buffer],
                    weight_decay=weight_decay,
                    momentum=momentum,
                    lr=lr,
                    dampening=0.0,
                    nesterov=False,
                    maximize=False,
                    is_first_step=False,
                )
            else:
                step = gradient.to(weight.dtype).add_(weight, alpha=weight_decay)
                if buffer is not None:
                    step = buffer.mul_(momentum).add_(step)
                weight.add_(step, alpha=-lr)
            if among is not None:  # what was moved are copies
                self._weight[chosen] = weight
                if buffer is not None:
                    self._buffer[chosen] = buffer
        torch.autograd.graph.increment_version(self._weight)

    def rule(self) -> Momentum | None:
        """The rule by which ``update`` moves all rows in this step; None where only torch can apply it."""
        group = self.param_groups[0]
        if not group["momentum"] or self._weight.dtype not in (torch.float32, torch.float64):
            return None
        return Momentum(self._buffer, group["lr"], group["momentum"], group["weight_decay"])

    def consume(self) -> None:
        """Replace the gradient of W by a placeholder that refuses every use and says why.

        Raises:
            RuntimeError: if W has a gradient, which would be ignored.
        """
        self._require_no_gradient()
        self._weight.grad = _ConsumedGradient(self._weight)
        if self.param_groups[0]["momentum"]:
            _ = self._buffer  # which exists before several threads move rows

    def rebind(self, weight: nn.Parameter) -> None:
        """Move ``weight`` from now on, which has taken the place of W in the head; the momentum stays."""
        state = self.state.pop(self._weight, {})
        if state.get("momentum_buffer") is not None:
            state["momentum_buffer"] = state["momentum_buffer"].to(weight.device, weight.dtype)
        self.param_groups[0]["params"][0] = weight
        self.state[weight] = state

    def follow(self, move: Callable[[Tensor], Tensor]) -> None:
        """Move the momentum where W went, to another device or type."""
        state = self.state[self._weight]
        if state.get("momentum_buffer") is not None:
            state["momentum_buffer"] = move(state["momentum_buffer"])

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch's has two overloads
        """Check that nobody else gave W a gradient; W itself has moved during backward.

        Raises:
            RuntimeError: if W has a gradient, which would be ignored.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._require_no_gradient()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget that W has moved."""
        self._weight.grad = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse any parameter but W."""
        if self.param_groups:
            raise ValueError("FusedSGD moves the prototypes of its head and nothing else")
        super().add_param_group(param_group)

    def _require_no_gradient(self) -> None:
        if self._weight.grad is not None and not isinstance(self._weight.grad, _ConsumedGradient):
            raise RuntimeError(
                "W has a gradient that did not come from the head's loss, and FusedSGD would ignore it; add such terms"
                " with optimizer=None and torch.optim.SGD"
            )


class _ConsumedGradient(torch.Tensor):
    """Stands where W's gradient would, takes no memory, and refuses every use of it."""

    @staticmethod
    def __new__(cls, weight: Tensor) -> _ConsumedGradient:
        return torch.Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype, device=weight.device)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return "<W's gradient: used up by FusedSGD during backward>"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(
            f"{func}: the prototypes have no gradient, FusedSGD used it up during backward. So it cannot be clipped,"
            " scaled (GradScaler), accumulated, or given to another optimiser; build the head with optimizer=None for"
            " that, or leave the prototypes out"
        )


class _HandOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, weight: Tensor, take: Update) -> Tensor:
        ctx.take = take  # type: ignore[attr-defined]
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[None, None]:
        ctx.take(slice(0, len(gradient)), gradient)  # type: ignore[attr-defined]
        return None, None


def hand_over_gradient(weight: Tensor, take: Update) -> Tensor:
    """``weight``, whose gradient is given to ``take`` and goes no further."""
    result: Tensor = _HandOver.apply(weight, take)  # type: ignore[no-untyped-call]
    return result
