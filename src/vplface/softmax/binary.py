"""Binary classification over all classes, the loss of a margin with ``binary_loss``: definition, and sums over tiles.

The logits z_ij are those of a margin and a bias b; the loss of sample i is

    w/s·( λ·log(1 + exp(−z_iy)) + (1 − λ)·Σ_{j≠y} log(1 + exp(z_ij)) )

with dL/dcosθ_ij = w(1 − λ)/B·σ(z_ij)·N' for other classes and −wλ/B·σ(−z_iy)·t' for the own. So in the backward pass
σ(z_ij) stands where the softmax has e_ji, λ/(1 − λ)·σ(−z_iy) where it has R_i, and w(1 − λ)/B where it has f_i.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vplface.margins import Margin
from vplface.margins.sample import BinaryLoss, sample_margin
from vplface.prototypes import Injection
from vplface.ranks import Ranks
from vplface.softmax.logits import TileLogits
from vplface.softmax.losses import Sums
from vplface.softmax.own import TargetCosines
from vplface.softmax.problem import SoftmaxProblem
from vplface.softmax.reference import class_logits
from vplface.softmax.tiles import Tile


def binary_loss(
    features: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    weight: Float[Tensor, "classes ... dim"],
    margin: Margin,
    injection: Injection | None = None,
    *,
    strength: Float[Tensor, " batch"],
    threshold: float | None = None,
    ranks: Ranks | None = None,
) -> Float[Tensor, ""]:
    """Mean loss of a batch in plain autograd; the arguments are those of ``reference.margin_softmax``.

    Args:
        features: x.
        labels: y.
        weight: W.
        margin: gives the logits without b, and w and λ by its ``binary_loss``.
        injection: memory.
        strength: b of each sample. Its gradient is that of the classes here.
        threshold: of other classes.
        ranks: who holds them.
    """
    options = _options(margin)
    logits, own = class_logits(
        features, labels, weight, margin, injection, strength=None, threshold=threshold, ranks=ranks
    )
    logits = logits + strength.to(logits.dtype).unsqueeze(1)
    zero = logits.new_zeros(())
    others = torch.logaddexp(logits.index_put(own, logits.new_tensor(-torch.inf)), zero).sum(1)
    same = zero.new_zeros(len(logits)).index_put((own[0],), torch.logaddexp(-logits[own], zero))
    loss = options.own_share * same + (1.0 - options.own_share) * others
    return options.weight / margin.scale * (loss if ranks is None else ranks.sum(loss)).mean()


def _options(margin: Margin) -> BinaryLoss:
    options = sample_margin(margin).binary_loss
    if options is None:
        raise TypeError(f"{type(margin).__name__} has no binary_loss")
    return options


class BinaryCrossEntropy:
    """The binary loss from sums over tiles: Σ_j log(1 + exp(z_ij)) and Σ_j σ(z_ij), both over j ≠ y_i.

    Inside a tile it has torch's operations alone; only mixing and moving W are those of the implementation.

    Args:
        problem: the inputs; the bias is its strength.
        cosines: own cosines of the samples; those of other ranks are added by ``finish``, unless they are there.
        logits: of a tile, without the bias.
    """

    keeps = True

    def __init__(self, problem: SoftmaxProblem, cosines: TargetCosines, logits: TileLogits) -> None:
        assert problem.strength is not None
        self.options = _options(problem.margin)
        self.scale = problem.margin.scale
        self.bias = problem.strength.detach().to(cosines.target.dtype)
        self.own_cosines = cosines
        self.logits = logits
        self.target = logits.target
        self.target_is_whole = logits.changed or problem.ranks is None

    def empty(self) -> Sums:
        """Sums over no class."""
        top = torch.zeros_like(self.target)
        return Sums(torch.stack([top, top]), top)

    def add(self, sums: Sums, tile: Tile, cosines: Tensor, kept: Tensor | None) -> None:
        """Add Σ_j log(1 + exp(z_ij)) and Σ_j σ(z_ij) of a tile; ρ_j·N'·σ(z_ij) goes to ``kept``."""
        logits, slope = self._logits(tile, cosines)
        sigmoid = torch.sigmoid(logits)
        if kept is not None:
            torch.mul(sigmoid, slope, out=kept)
        sums.values += torch.stack([torch.logaddexp(logits, logits.new_zeros(())).sum(0), sigmoid.sum(0)])

    def finish(self, parts: Sequence[Sums], ranks: Ranks | None) -> Float[Tensor, ""]:
        """The loss, from the sums of all pieces here and on other ranks."""
        values = torch.stack([self.empty().values, *(part.values for part in parts)]).sum(0)
        others, self.sum_sigmoids = values[0], values[1]
        if ranks is not None and self.target_is_whole:
            others = ranks.sum(others)
        elif ranks is not None:
            both = ranks.sum(torch.stack([others, self.target]))
            others, self.target = both[0], both[1]
        z, share = self.scale * self.target + self.bias, self.options.own_share
        self.own_sigmoid = share / (1.0 - share) * torch.sigmoid(-z)
        loss = share * torch.logaddexp(-z, torch.zeros_like(z)) + (1.0 - share) * others
        return self.options.weight / self.scale * loss.mean()

    def grad_logits(self, tile: Tile, cosines: Tensor, dtype: torch.dtype) -> Float[Tensor, "tile batch"]:
        """ρ_j·N'·σ(z_ij) of a tile, 0 where j = y_i."""
        logits, slope = self._logits(tile, cosines)
        return torch.sigmoid(logits).mul_(slope).to(dtype)

    def factor(self, gradient: Tensor) -> Float[Tensor, " batch"]:
        """w(1 − λ)/B, times the gradient of the loss."""
        return (gradient * self.options.weight * (1.0 - self.options.own_share) / len(self.target)).expand_as(
            self.target
        )

    @property
    def own_gradient(self) -> Float[Tensor, " batch"]:
        """In place of σ(z_ij) where j = y_i: −λ/(1 − λ)·σ(−z_iy)·dt_i/dcosθ_i."""
        return -self.own_sigmoid * self.own_cosines.slope

    @property
    def total(self) -> Float[Tensor, " batch"]:
        """One, for each class has a probability of its own."""
        return torch.ones_like(self.target)

    def gradient_of_negatives(self, gradient: Tensor) -> None:
        """There are no further logits."""

    def gradient_of_strength(self, gradient: Tensor) -> Float[Tensor, " batch"]:
        """dL/db of each sample, of the classes here."""
        return self.factor(gradient) / self.scale * (self.sum_sigmoids - self.own_sigmoid * (self.logits.own.rows >= 0))

    def _logits(self, tile: Tile, cosines: Tensor) -> tuple[Float[Tensor, "tile batch"], Tensor]:
        logits, slope = self.logits(tile, cosines)
        logits += self.bias
        return logits, slope
