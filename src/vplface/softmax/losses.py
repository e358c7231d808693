"""The loss over the classes, from sums over tiles: the softmax, and the interface of what may stand in its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from vplface.margins.sample import sample_margin
from vplface.ranks import Ranks
from vplface.softmax.logits import TileLogits
from vplface.softmax.own import OwnPlaces, TargetCosines
from vplface.softmax.problem import SoftmaxProblem
from vplface.softmax.tiles import Tile, TileOperations

BOUNDED = 80.0
"""Sums of exponentials up to e^±80 are within the range of float32, and products with them too."""


@dataclass
class Sums:
    """Sums of a loss over the classes of a piece.

    Attributes:
        values: one or more sums for each sample.
        top: the largest logit so far, which is taken out of exponentials; 0 where they need none.
    """

    values: Float[Tensor, "sums batch"]
    top: Float[Tensor, " batch"]


class TileLoss(Protocol):
    """A loss over all classes, whose sums and gradients are formed a tile at a time.

    With p_ji the derivative of the loss of sample i by its logit with class j, and a common factor f_i taken out:
    ``grad_logits`` gives ρ_j·N'·p_ji/f_i of other classes and ``own_gradient`` the same, without ρ_j, of the own class.

    Attributes:
        keeps: whether ``grad_logits`` of the forward pass may be kept for the backward pass.
    """

    keeps: bool

    def empty(self) -> Sums:
        """Sums over no class."""

    def add(self, sums: Sums, tile: Tile, cosines: Tensor, kept: Tensor | None) -> None:
        """Add a tile to the sums; ``grad_logits`` goes to ``kept``."""

    def finish(self, parts: Sequence[Sums], ranks: Ranks | None) -> Float[Tensor, ""]:
        """The loss, from the sums of all pieces here and on other ranks."""

    def grad_logits(self, tile: Tile, cosines: Tensor, dtype: torch.dtype) -> Float[Tensor, "tile batch"]:
        """ρ_j·N'·p_ji/f_i of a tile, 0 where j = y_i."""

    def factor(self, gradient: Tensor) -> Float[Tensor, " batch"]:
        """f_i, times the gradient of the loss."""

    @property
    def own_gradient(self) -> Float[Tensor, " batch"]:
        """p_iy/f_i·dt_i/dcosθ_i, which stands in the place of ``grad_logits`` where j = y_i."""

    @property
    def total(self) -> Float[Tensor, " batch"]:
        """The number by which ``grad_logits`` of other classes is divided to be a probability."""

    def gradient_of_negatives(self, gradient: Tensor) -> Float[Tensor, " batch"] | None:
        """dL/dn_i of the further logits; None without any."""

    def gradient_of_strength(self, gradient: Tensor) -> Float[Tensor, " batch"]:
        """dL/dm_i, or dL/db of each sample, of the classes here."""


class CrossEntropy:
    """The softmax: with R_i = Σ_{j≠y} e_ji and S_i = R_i + exp(s·t_i), the mean of log(S_i) − s·t_i.

    Then f_i = s/(B·S_i), and −R_i·dt_i/dcosθ_i stands in place of e_ji where j = y_i. A further logit n_i adds exp(n_i)
    to R_i once, not once a rank. The gradient of the strength m_i of a margin is −f_i·R_i·dt_i/dm_i, that of a further
    logit exp(n_i)/(B·S_i).

    Args:
        problem: the inputs.
        cosines: own cosines of the samples; those of other ranks are added by ``finish``, unless they are there.
        own: where samples meet their own class.
        logits: of a tile, where they are not plain.
        operations: inside a tile.
    """

    def __init__(
        self,
        problem: SoftmaxProblem,
        cosines: TargetCosines,
        own: OwnPlaces,
        logits: TileLogits,
        operations: TileOperations,
    ) -> None:
        self.scale = problem.margin.scale
        self.own_cosines = cosines
        self.own = own
        self.logits = logits
        self.operations = operations
        self.target = logits.target
        self.target_is_whole = logits.changed or problem.ranks is None
        kind = cosines.target.dtype
        self.negatives = None if problem.negatives is None else problem.negatives.detach().to(kind)
        # Logits lie in [−s·bound, s·bound]: most often the sum of their exponentials needs no maximum taken out first.
        compared = problem.classes + (0 if self.negatives is None else len(cosines.target))
        self.keeps = self.scale * sample_margin(problem.margin).bound + math.log(compared) <= BOUNDED

    def empty(self) -> Sums:
        """Sums over no class."""
        top = torch.full_like(self.target, 0.0 if self.keeps else -self.scale)
        return Sums(torch.zeros_like(top).unsqueeze(0), top)

    def add(self, sums: Sums, tile: Tile, cosines: Tensor, kept: Tensor | None) -> None:
        """Add Σ_j e_ji of a tile, less the largest logit where it is not bounded."""
        if self.keeps and self.logits.plain:
            sums.values += self.operations.exponentials(tile, cosines, self.own, self.scale, kept)
            return
        logits, slope = self.logits(tile, cosines)
        if self.keeps:
            exponentials = logits.exp_()
            if kept is not None:
                torch.mul(exponentials, slope, out=kept)
            sums.values += exponentials.sum(0)
            return
        top = torch.maximum(sums.top, logits.amax(0))
        sums.values = sums.values * (sums.top - top).exp_() + logits.sub_(top).exp_().sum(0)
        sums.top = top

    def finish(self, parts: Sequence[Sums], ranks: Ranks | None) -> Float[Tensor, ""]:
        """The loss, from the sums of all pieces here and on other ranks."""
        top = torch.stack([self.empty().top, *(part.top for part in parts)]).amax(0)
        if not self.keeps:
            top = top if ranks is None else ranks.largest(top)
            top = top if self.negatives is None else torch.maximum(top, self.negatives)
        rest = torch.zeros_like(self.target)
        for part in parts:
            rest += part.values[0] * (part.top - top).exp_() if not self.keeps else part.values[0]
        if ranks is not None and self.target_is_whole:
            rest = ranks.sum(rest)
        elif ranks is not None:
            both = ranks.sum(torch.stack([rest, self.target]))
            rest, self.target = both[0], both[1]
        if self.negatives is not None:
            rest += (self.negatives - top).exp_()
        self.rest, self.top = rest, top
        excess = rest.log() + top - self.scale * self.target
        return torch.logaddexp(excess, torch.zeros_like(excess)).mean()

    def grad_logits(self, tile: Tile, cosines: Tensor, dtype: torch.dtype) -> Float[Tensor, "tile batch"]:
        """ρ_j·N'·e_ji of a tile, 0 where j = y_i."""
        if self.keeps and self.logits.plain:
            buffer = tile.scratch("grad_logits", tuple(cosines.shape), dtype)
            self.operations.exponentials(tile, cosines, self.own, self.scale, buffer)
            return buffer
        logits, slope = self.logits(tile, cosines)
        return logits.sub_(self.top).exp_().mul_(slope).to(dtype)

    def factor(self, gradient: Tensor) -> Float[Tensor, " batch"]:
        """f_i, times the gradient of the loss."""
        return gradient * self.scale / len(self.rest) / self.total

    @property
    def own_gradient(self) -> Float[Tensor, " batch"]:
        """In place of e_ji where j = y_i: −R_i·dt_i/dcosθ_i."""
        return -self.rest * self.own_cosines.slope

    @property
    def total(self) -> Float[Tensor, " batch"]:
        """S·exp(−top), which only where all other classes are left out might be too small to divide by."""
        total = self.rest + (self.scale * self.target - self.top).exp_()
        return total.clamp_min_(math.exp(-BOUNDED))

    def gradient_of_negatives(self, gradient: Tensor) -> Float[Tensor, " batch"] | None:
        """The gradient of the further logits, exp(n_i)/(B·S_i)."""
        if self.negatives is None:
            return None
        return gradient * (self.negatives - self.top).exp_() / self.total / len(self.negatives)

    def gradient_of_strength(self, gradient: Tensor) -> Float[Tensor, " batch"]:
        """−f_i·R_i·dt_i/dm_i; 0 for samples whose class is elsewhere."""
        return -self.factor(gradient) * self.rest * self.own_cosines.slope_of_strength
