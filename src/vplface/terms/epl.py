"""EPL: a second softmax over empirical prototypes, moving means of the features of each class.

Fan, Wen, Jia, Shen, Zhou, Li, "EPL: Empirical Prototype Learning for Deep Face Recognition", arXiv 2405.12447.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from vplface import devices
from vplface.once import once
from vplface.prototypes import Injection
from vplface.prototypes.injection import Injections
from vplface.prototypes.memory import read_rows, rows_here, write_rows
from vplface.terms.term import Batch, BoundTerm, require_positive, require_steps


@dataclass(frozen=True)
class EPL:
    """The loss against empirical prototypes P, which are constants, added to the classification loss.

        L = mean over i of −log( exp(s·t_i) / (exp(s·t_i) + Σ_{j≠y_i} exp(s·cosθ_ij)) ),  cosθ_ij of x_i and P_j
        t_i = cosθ_i − m·[cosθ_i]₊ , the margin a constant: large for ordinary samples, small for hard ones
        P_y ← α·P_y + (1 − α)·x,  α = σ(cosθ of x and P_y): an ordinary sample moves P_y less, but more often

    P follows every sample in the order of the global batch from the first step on, and begins as the first sample of
    its class; until then the (constant) prototype v is used in its place. P has a row where W has one, so ranks
    hold those of their classes, and ``sample_rate`` draws both together.

    The rule for P, the kind of margin and a start after some epochs are the paper's. We could not read its scale of
    the margin for certain. Ours: m, the share of a cosine; no margin on negative cosines; one weight for both losses.

    Attributes:
        margin: m in [0, 1]. Ours: 0.5, for a cosine of .7 the .35 of CosFace.
        start: steps before the loss is added. The paper starts in epoch 4; ours: 8000 steps.
        weight: of this loss beside the classification loss. Ours: 1.
    """

    margin: float = 0.5
    start: int = 8000
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.margin <= 1.0:
            raise ValueError(f"margin must be a share in [0, 1], got {self.margin}")
        require_steps("start", self.start)
        require_positive("weight", self.weight)

    def bind(self, classes: int, dim: int) -> _EPL:
        """Bind the term to a head, with empirical prototypes of its classes: d·4 + 1 bytes for each."""
        return _EPL(self, classes, dim)


@dataclass(frozen=True)
class _AdaptiveMargin:
    """t = cosθ − m·[cosθ]₊ with d t/d cosθ = 1."""

    scale: float
    share: float

    def target(self, cosine: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        margined = cosine - self.share * cosine.detach().clamp_min(0.0)
        return once(margined, "EPL treats its margin and its prototypes as constants")


class _EPL(BoundTerm):
    per_class = ("empirical", "seen")
    needs_prototype = True
    empirical: Tensor
    seen: Tensor

    def __init__(self, options: EPL, classes: int, dim: int) -> None:
        super().__init__()
        self.options = options
        self.register_buffer("empirical", torch.zeros(classes, dim))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.uint8))
        self._injections = Injections()
        self._step = -1  # whose parts have sent their turns
        self._sent: list[devices.SentNumber] = []

    def loss(self, batch: Batch) -> Float[Tensor, ""] | None:
        if devices.reading_waits(batch.labels.device):
            self._send_turns(batch)
        if batch.step < self.options.start:
            return None
        injection = Injection(self.empirical, self.seen, lam=1.0)  # P_j in place of v_j where there is one
        self._injections.add(injection)
        loss = batch.softmax(injection, _AdaptiveMargin(batch.scale, self.options.margin))
        self.value = loss.detach()
        return self.options.weight * loss

    def remember(self, features: Tensor, labels: Tensor, rows: Tensor) -> None:
        self._injections.preserve(rows)
        rows, features = rows_here(rows, features.to(self.empirical.dtype))
        # The first samples of all classes in the batch, then the second ones, ...
        ordered, order = rows.sort(stable=True)
        turn, features = _turns(ordered), features[order]
        for number in range(self._largest_turn(turn) + 1):
            row, x = rows_here(torch.where(turn == number, ordered, -1), features)
            before, seen = read_rows(self.empirical, row), read_rows(self.seen, row)
            share = torch.sigmoid(cosine_similarity(x, before)).unsqueeze(1) * seen.unsqueeze(1)
            write_rows(self.empirical, row, share * before + (1.0 - share) * x)
            write_rows(self.seen, row, torch.ones_like(seen))

    def _send_turns(self, batch: Batch) -> None:
        """Send to the host how often a class occurs in a part of a step, which ``remember`` needs."""
        if batch.step != self._step:
            self._step, self._sent = batch.step, []
        self._sent.append(devices.SentNumber(_turns(batch.labels.sort().values).amax(0, keepdim=True)))

    def _largest_turn(self, turn: Int[Tensor, " samples"]) -> int:
        """The largest turn, or more; −1 without samples."""
        sent, self._sent = self._sent, []
        if sent:
            return sum((each.read() or 0) + 1 for each in sent) - 1
        return int(turn.max()) if len(turn) else -1

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_sent": []}
        del state["_injections"]  # those of losses that stay here
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch
        self._injections = Injections()


def _turns(ordered: Int[Tensor, " samples"]) -> Int[Tensor, " samples"]:
    """How many samples of the same class come before each, of classes in ascending order."""
    return torch.arange(len(ordered), device=ordered.device) - torch.searchsorted(ordered, ordered)
