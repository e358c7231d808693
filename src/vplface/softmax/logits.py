"""Logits of a tile where they are more than a multiple of the product: other margins, thresholds, sub-centres."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vplface.margins.sample import changes_negatives, negative_of
from vplface.softmax.own import OwnPlaces
from vplface.softmax.problem import SoftmaxProblem
from vplface.softmax.tiles import Tile


class TileLogits:
    """s·N(cosθ_ij) of the classes of a tile, where cosθ_ij of several sub-centres is the largest.

    Args:
        problem: gives s, N and the number of sub-centres.
        own: where samples meet their own class.
        target: t_i of all samples, on which N may depend.

    Attributes:
        plain: whether N(cosθ) = cosθ for one prototype of each class, and no class is absent.
    """

    def __init__(self, problem: SoftmaxProblem, own: OwnPlaces, target: Float[Tensor, " batch"]) -> None:
        self.margin, self.threshold = problem.margin, problem.threshold
        self.subcenters, self.absent = problem.subcenters, problem.absent
        self.own = own
        self.target = target
        self.strength = None if problem.strength is None else problem.strength.detach().to(target.dtype)
        self.changed = changes_negatives(problem.margin, problem.threshold)
        self.plain = self.subcenters == 1 and not self.changed and self.absent is None

    def __call__(self, tile: Tile, cosines: Tensor) -> tuple[Float[Tensor, "tile batch"], Tensor]:
        """The logits, −∞ where j = y_i, whose logit is another, and ρ_j·N'(cosθ_ij).

        Args:
            tile: whose lengths are known.
            cosines: Z·xᵀ, which may be overwritten.
        """
        logits, slope = cosines.to(tile.ratio.dtype), tile.ratio
        if self.plain:
            logits.mul_(self.margin.scale * slope)
            self.own.fill(logits, tile.rows, -torch.inf)
            return logits, slope
        logits *= slope
        of_class = logits.view(-1, self.subcenters, logits.shape[1])
        further = torch.arange(self.subcenters, device=logits.device).view(1, -1, 1) != of_class.argmax(1, keepdim=True)
        if self.changed:
            with torch.enable_grad():
                cosine = logits.requires_grad_()
                others = negative_of(self.margin, cosine, self.target, self.strength, self.threshold)
                (change,) = torch.autograd.grad(others.sum(), cosine)
            logits, slope = others.detach().clone(), change * slope
        logits.mul_(self.margin.scale).view(-1, self.subcenters, logits.shape[1]).masked_fill_(further, -torch.inf)
        if self.absent is not None:
            absent = self.absent[self._classes(tile)].view(-1, 1, 1)
            logits.view(-1, self.subcenters, logits.shape[1]).masked_fill_(absent, -torch.inf)
        if self.subcenters == 1:
            self.own.fill(logits, tile.rows, -torch.inf)
        else:
            self._leave_out_own_classes(logits, tile)
        return logits, slope

    def _leave_out_own_classes(self, logits: Float[Tensor, "tile batch"], tile: Tile) -> None:
        """−∞ for all sub-centres of the own class of a sample."""
        classes = self._classes(tile)
        own = torch.where(self.own.rows >= 0, self.own.rows // self.subcenters, -1)
        numbers = torch.arange(classes.start, classes.stop, device=logits.device)
        of_class = logits.view(-1, self.subcenters, logits.shape[1])
        of_class.masked_fill_((numbers.unsqueeze(1) == own).unsqueeze(1), -torch.inf)

    def _classes(self, tile: Tile) -> slice:
        return slice(tile.rows.start // self.subcenters, tile.rows.stop // self.subcenters)
