"""Logits of a tile where they are more than a multiple of the product: other margins, thresholds, sub-centres."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
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
        left_out = self._left_out(tile, logits)
        if self.changed:
            with torch.enable_grad():
                cosine = logits.requires_grad_()
                others = negative_of(self.margin, cosine, self.target, self.strength, self.threshold)
                (change,) = torch.autograd.grad(others.sum(), cosine)
            logits, slope = others.detach().clone(), change * slope
        logits.mul_(self.margin.scale)
        if left_out is not None:
            self._by_class(logits).masked_fill_(left_out, -torch.inf)
        if self.subcenters == 1:
            self.own.fill(logits, tile.rows, -torch.inf)
        else:
            self._leave_out_own_classes(logits, tile)
        return logits, slope

    def _left_out(
        self, tile: Tile, cosines: Float[Tensor, "tile batch"]
    ) -> Bool[Tensor, "classes subcenters #batch"] | None:
        """Sub-centres that are not the nearest of their class, and absent classes; None for none."""
        absent = None if self.absent is None else self.absent[self._classes(tile)].view(-1, 1, 1)
        if self.subcenters == 1:
            return absent
        numbers = torch.arange(self.subcenters, device=cosines.device).view(1, -1, 1)
        further = numbers != self._by_class(cosines).argmax(1, keepdim=True)
        return further if absent is None else further | absent

    def _leave_out_own_classes(self, logits: Float[Tensor, "tile batch"], tile: Tile) -> None:
        """−∞ for all sub-centres of the own class of a sample."""
        classes = self._classes(tile)
        own = torch.where(self.own.rows >= 0, self.own.rows // self.subcenters, -1)
        numbers = torch.arange(classes.start, classes.stop, device=logits.device)
        self._by_class(logits).masked_fill_((numbers.unsqueeze(1) == own).unsqueeze(1), -torch.inf)

    def _by_class(self, logits: Float[Tensor, "tile batch"]) -> Float[Tensor, "classes subcenters batch"]:
        return logits.view(-1, self.subcenters, logits.shape[1])

    def _classes(self, tile: Tile) -> slice:
        return slice(tile.rows.start // self.subcenters, tile.rows.stop // self.subcenters)
