"""Binary classification over all classes, the loss of a margin with ``binary_loss``: definition and tiled computation.

The logits z_ij are those of a margin and a bias b; the loss of sample i is

    w/s·( λ·log(1 + exp(−z_iy)) + (1 − λ)·Σ_{j≠y} log(1 + exp(z_ij)) )

with dL/dcosθ_ij = w(1 − λ)/B·σ(z_ij)·N' for other classes and −wλ/B·σ(−z_iy)·t' for the own. So on the second visit
σ(z_ij) stands where the softmax has e_ji, λ/(1 − λ)·σ(−z_iy) where it has R_i, and w(1 − λ)/B where it has f_i.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vplface.margins import Margin
from vplface.margins.sample import BinaryLoss, sample_margin
from vplface.prototypes import Injection
from vplface.ranks import Ranks
from vplface.softmax.reference import class_logits
from vplface.softmax.tiled import Tile, TiledSoftmax


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


class TiledBinaryLoss(TiledSoftmax):
    """A batch on its two visits to every class, each with a question of its own."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.bounded = True  # no sum of exponentials, no maximum
        assert self.strength is not None
        self.options, self.bias = _options(arguments[3]), self.strength

    def loss(self) -> Float[Tensor, ""]:
        """Compute the loss on the first visit to all classes."""
        others, self.sum_sigmoids = torch.zeros_like(self.target), torch.zeros_like(self.target)
        for tile in self._visit(first=True):
            others += self._exponentials(tile, self.kept[tile.rows] if tile.rows.stop <= len(self.kept) else None)
            self.sum_sigmoids += self.sigmoids
        others = others if self.ranks is None else self.ranks.sum(others)
        z, share = self.scale * self.target + self.bias, self.options.own_share
        self.sum_exp_others = share / (1.0 - share) * torch.sigmoid(-z)
        loss = share * torch.logaddexp(-z, torch.zeros_like(z)) + (1.0 - share) * others
        return self.options.weight / self.scale * loss.mean()

    def gradient_of_strength(self, gradient: Tensor) -> Float[Tensor, " batch"]:
        """dL/db of each sample, of the classes here."""
        factor = gradient * self.options.weight * (1.0 - self.options.own_share) / self.scale / len(self.sum_exp_others)
        return factor * (self.sum_sigmoids - self.sum_exp_others * (self.labels >= 0))

    def _total(self) -> Float[Tensor, " batch"]:
        """The S_i for which f_i = s/(B·S_i) is w(1 − λ)/B."""
        return torch.full_like(self.sum_exp_others, self.scale / (self.options.weight * (1.0 - self.options.own_share)))

    def _exponentials(self, tile: Tile, grad_logits: Tensor | None) -> Float[Tensor, " batch"]:
        """Σ_j log(1 + exp(z_ij)) of a tile; ρ_j·N'·σ(z_ij) goes to ``grad_logits``, Σ_j σ(z_ij) to ``sigmoids``."""
        logits, slope = self._logits(tile)
        logits += self.bias
        sigmoid = torch.sigmoid(logits)
        self.sigmoids = sigmoid.sum(0)
        if grad_logits is not None:
            torch.mul(sigmoid, slope, out=grad_logits)
        return torch.logaddexp(logits, logits.new_zeros(())).sum(0)
