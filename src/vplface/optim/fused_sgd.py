"""Momentum SGD that updates prototypes a tile of classes at a time, during backward or in its step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from vplface.optim.held_gradient import HeldGradient
from vplface.parallel import map_pieces
from vplface.prototypes.memory import write_rows

Update: TypeAlias = Callable[[slice, Tensor], None]
"""Takes rows of W and their gradient, which may be overwritten.

A backward pass gives every row once, in tiles of any order, from any thread.
"""
_PIECE, _LARGE_PIECE = 2**18, 2**25


def piece_size(device: torch.device) -> int:
    """Elements of W that ``step()`` updates together: on a CPU they fit its cache, other devices have to be kept busy.

    Args:
        device: of W.
    """
    return _PIECE if device.type == "cpu" else _LARGE_PIECE


@dataclass(frozen=True)
class Momentum:
    """SGD with momentum in a form that the computation of a tile can apply: m ← μ·m + g + ω·w,  w ← w − η·m.

    Attributes:
        buffer: m, [N, d], or [N, K, d] with K sub-centres.
        lr: η.
        momentum: μ.
        weight_decay: ω.
        stopped: 1 if nothing must change, else 0, on the device; None for 0.
    """

    buffer: Float[Tensor, "classes ... dim"]
    lr: float
    momentum: float
    weight_decay: float
    stopped: Float[Tensor, 1] | None = None


@dataclass(frozen=True)
class FusedSGD:
    """SGD with momentum for ``PrototypeHead(optimizer=...)``, applied during backward or in one pass over W.

    For a tile of rows of W, with their gradient g:  m ← μ·m + g + ω·w,  w ← w − η·m.  This is torch.optim.SGD.

    By default ``backward()`` updates W, so that no gradient of W ever exists as a whole. What needs one is refused:
    clipping by a norm over W, several backward passes a step.

    With ``in_backward=False`` ``head.optimizer.step()`` updates W. Until then the gradient is held in one buffer, as
    large as W, or as the rows that ``sample_rate`` draws; several backward passes add up. Its norm is computed as it is
    written, and ``vplface.clip_grad_norm_`` leaves its scaling to ``step()``, which passes over W once.

    A GradScaler (known by its scale, at the first backward pass) and a second optimiser for W are refused either way.

    Args:
        lr: η > 0.
        momentum: μ in [0, 1).
        weight_decay: ω ≥ 0.
        in_backward: update W in ``backward()``; False: in ``step()``.

    Raises:
        ValueError: if a value lies outside its range.
    """

    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    in_backward: bool = True

    def __post_init__(self) -> None:
        if not 0.0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")
        if not 0.0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")

    def bind(self, weight: nn.Parameter) -> PrototypeSGD:
        """The optimiser of one head's W."""
        options = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay}
        return PrototypeSGD([weight], options, self.in_backward)


class WholeStep(Protocol):
    """The step of all rows of W at once: writes their gradient, clips it, and updates W and its momentum."""

    def hold(self, target: Float[Tensor, "classes dim"], adds: bool) -> Float[Tensor, " parts"]:
        """Write the gradient to ``target``, or add it to what is there; the norms of its parts."""

    def clip(
        self, max_norm: float, others: Float[Tensor, ""] | None, before: Float[Tensor, ""] | None
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """‖g‖ of what is held, times the factor ``before``, and of ``others``; and the factor from now on."""

    def update(self, gradient: Float[Tensor, "classes dim"], factor: Float[Tensor, ""] | None, rule: Momentum) -> None:
        """m ← μ·m + c·g + ω·w, w ← w − η·m, with the factor c, or 1."""


class PrototypeSGD(torch.optim.Optimizer):
    """The optimizer ``head.optimizer``: schedules drive its learning rate, its state holds the momentum of W.

    Its state_dict has the form of torch.optim.SGD's.

    Args:
        weights: W alone.
        options: lr, momentum and weight_decay.
        in_backward: ``backward()`` updates W, and ``step()`` only checks; False: ``step()`` updates W.
    """

    _held: HeldGradient | None = None  # copies start without it, as they do without gradients
    _whole: WholeStep | None = None  # which has written the last part of the gradient that is held
    _stopped: Tensor | None = None

    def __init__(self, weights: list[nn.Parameter], options: dict[str, Any], in_backward: bool = True) -> None:
        super().__init__(weights, options)
        self.in_backward = in_backward

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
        """Update rows of W by their gradient, which may be overwritten; or hold the gradient until ``step()``.

        Args:
            rows: of W, or of those numbered by ``among``.
            gradient: of these rows.
            among: rows that take part in this step, −1 for none; None for all. Others keep momentum and do not decay.
        """
        if self._held is not None:
            with torch.no_grad():
                self._held.write(self._weight, rows, gradient, among)
            return
        self._move(rows, gradient, among)
        torch.autograd.graph.increment_version(self._weight)

    def hold(self, whole: WholeStep) -> None:
        """Hold the gradient of all rows that ``whole`` writes, which then also clips it and takes the step."""
        assert self._held is not None
        self._held.write_all(self._weight, whole.hold)
        self._whole = whole

    def _move(self, rows: slice, gradient: Tensor, among: Tensor | None) -> None:
        group = self.param_groups[0]
        lr, momentum, weight_decay = group["lr"], group["momentum"], group["weight_decay"]
        with torch.no_grad():
            chosen = rows if among is None else among[rows]
            weight = self._weight[chosen]
            buffer = self._buffer[chosen] if momentum else None
            moving = [weight] if buffer is None else [weight, buffer]
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
                    found_inf=self._stopped,
                )
            else:
                stopped, before = self._stopped, [each.clone() for each in moving if self._stopped is not None]
                step = gradient.to(weight.dtype).add_(weight, alpha=weight_decay)
                if buffer is not None:
                    step = buffer.mul_(momentum).add_(step)
                weight.add_(step, alpha=-lr)
                if stopped is not None:
                    for now, older in zip(moving, before, strict=True):
                        now.copy_(torch.where(stopped > 0, older, now))
            if among is not None:  # what was moved are copies
                write_rows(self._weight, among[rows], weight)
                if buffer is not None:
                    write_rows(self._buffer, among[rows], buffer)

    def grad_norm(self) -> Float[Tensor, ""] | None:
        """Norm of the gradient that is held, of the rows here, on the device of W; None before a backward pass.

        Raises:
            RuntimeError: if ``backward()`` updates W, or W has a gradient that did not come from the head's loss.
        """
        if self.in_backward:
            raise RuntimeError(
                "FusedSGD has updated the prototypes in backward(), before a norm over all gradients is known; build"
                " it with in_backward=False"
            )
        self._require_no_gradient()
        if self._weight.grad is None or self._held is None:
            return None
        norm = self._held.norm()
        return self._weight.new_zeros((), requires_grad=False) if norm is None else norm

    def clip_whole_(self, max_norm: float, others: Float[Tensor, ""] | None) -> Float[Tensor, ""] | None:
        """Clip the gradient that is held, where what has written it does so on its own; None where it does not.

        Args:
            max_norm: of all gradients together.
            others: norm of other gradients.

        Returns:
            Norm of all gradients, before they are clipped.
        """
        self._require_no_gradient()
        if self._weight.grad is None or self._held is None or self._whole is None:
            return None
        norm, self._held.factor = self._whole.clip(max_norm, others, self._held.factor)
        return norm

    def scale_grad_(self, factor: Float[Tensor, ""]) -> None:
        """Multiply the gradient that is held by a factor; ``step()`` applies it, without a pass of its own."""
        if self._held is not None:
            self._held.scale(factor.to(self._weight.device))

    def rule(self) -> Momentum | None:
        """The rule by which ``update`` moves all rows in this step; None where only torch can apply it."""
        group = self.param_groups[0]
        movable = self._weight.dtype in (torch.float32, torch.float64)
        if not self.in_backward or not group["momentum"] or not movable:
            return None
        return Momentum(self._buffer, group["lr"], group["momentum"], group["weight_decay"], self._stopped)

    def begin_backward(self, stopped: Float[Tensor, 1] | None = None) -> None:
        """Prepare for a backward pass: a placeholder that refuses every use and says why stands for the gradient of W.

        Args:
            stopped: on the device of W, 1 if this step must change nothing, else 0; None for 0.

        Raises:
            RuntimeError: if W has a gradient, which would be ignored.
        """
        self._require_no_gradient()
        self._stopped = stopped
        if self.in_backward:
            self._weight.grad = _ConsumedGradient(self._weight)
            if self.param_groups[0]["momentum"] and self._weight.requires_grad:
                _ = self._buffer  # which threads must not create together
            return
        if self._held is None:
            self._held = HeldGradient()
        if self._weight.grad is None:  # zero_grad() was called, of this optimiser or of a module
            self._held.clear()
            self._weight.grad = _HiddenGradient(self._weight)
        self._held.begin_pass()
        self._whole = None

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
        """Update W by the gradient that is held; where ``backward()`` has updated W, only check.

        Raises:
            RuntimeError: if W has a gradient that did not come from the head's loss, which would be ignored.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._require_no_gradient()
        held = None if self._weight.grad is None or self._held is None else self._held.total()
        if held is not None and self._held is not None:
            self._take_step(*held, self._held.factor)
        return loss

    @torch.no_grad()
    def _take_step(self, among: Tensor | None, gradient: Tensor, factor: Tensor | None) -> None:
        """m ← μ·m + c·g + ω·w, w ← w − η·m, with the factor c, a few rows at a time."""
        if self._whole is not None:
            group = self.param_groups[0]
            rule = Momentum(self._buffer, group["lr"], group["momentum"], group["weight_decay"])
            self._whole.update(gradient, factor, rule)
            torch.autograd.graph.increment_version(self._weight)
            return
        size = max(piece_size(gradient.device) // max(gradient[:1].numel(), 1), 1)
        pieces = [slice(first, min(first + size, len(gradient))) for first in range(0, len(gradient), size)]
        if self.param_groups[0]["momentum"]:
            _ = self._buffer  # which threads must not create together

        def move(rows: slice, thread: int = 0) -> None:
            self._move(rows, gradient[rows] * (1.0 if factor is None else factor), among)

        if gradient.device.type == "cpu":
            map_pieces(move, pieces)
        else:
            for rows in pieces:
                move(rows)
        torch.autograd.graph.increment_version(self._weight)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradient that is held, and that W has moved."""
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

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "in_backward": self.in_backward}


class _ConsumedGradient(torch.Tensor):
    """Stands where W's gradient would, takes no memory, and refuses every use of it."""

    _state = "used up by FusedSGD during backward"
    _advice = (
        "the prototypes have no gradient, FusedSGD used it up during backward. So it cannot be clipped, scaled"
        " (GradScaler), accumulated, or given to another optimiser; build the head with optimizer=None for that, with"
        " FusedSGD(..., in_backward=False) to clip or accumulate it, or leave the prototypes out"
    )

    @staticmethod
    def __new__(cls, weight: Tensor) -> _ConsumedGradient:
        return torch.Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype, device=weight.device)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"<W's gradient: {self._state}>"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{func}: {cls._advice}")


class _HiddenGradient(_ConsumedGradient):
    """The same for a gradient that is held until ``step()``."""

    _state = "held by FusedSGD until step()"
    _advice = (
        "FusedSGD holds the gradient of the prototypes until step(). vplface.clip_grad_norm_(..., head=head) clips it;"
        " to scale it (GradScaler), change it, or give it to another optimiser build the head with optimizer=None, or"
        " leave the prototypes out"
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
