"""The own class of each sample: its row of W, its cosine after the margin, and its places in a tile of logits."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from vplface.margins.margin import Margin
from vplface.margins.sample import sample_margin
from vplface.prototypes import Injection


class TargetCosines(NamedTuple):
    """The cosine of each sample with its own class, after the margin; 0 where the class lives on another rank.

    Attributes:
        target: t_i.
        slope: dt_i/dcosθ_i.
        slope_of_strength: dt_i/dm_i; 0 without a strength.
    """

    target: Float[Tensor, " batch"]
    slope: Float[Tensor, " batch"]
    slope_of_strength: Float[Tensor, " batch"]


def own_rows(
    features: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    weight: Float[Tensor, "rows dim"],
    injection: Injection | None,
    subcenters: int,
) -> Int[Tensor, " batch"]:
    """The row of the sub-centre of its own class that is nearest to each sample; −1 if the class is elsewhere.

    Args:
        features: x, unit rows.
        labels: class numbers; −1 if elsewhere.
        weight: W, the sub-centres of a class one after the other.
        injection: of these rows.
        subcenters: K.
    """
    if subcenters == 1 or not len(weight):
        return labels
    rows = labels.clamp_min(0).unsqueeze(1) * subcenters + torch.arange(subcenters, device=labels.device)
    prototypes = _prototypes(weight, injection, rows.flatten(), features.dtype)
    cosines = torch.bmm(prototypes.view(*rows.shape, weight.shape[1]), features.unsqueeze(2)).squeeze(2)
    nearest = rows.gather(1, cosines.argmax(1, keepdim=True)).squeeze(1)
    return torch.where(labels >= 0, nearest, -1)


def target_cosines(
    features: Float[Tensor, "batch dim"],
    rows: Int[Tensor, " batch"],
    weight: Float[Tensor, "classes dim"],
    margin: Margin,
    injection: Injection | None,
    strength: Float[Tensor, " batch"] | None,
) -> TargetCosines:
    """The cosine of each sample with the row of its own class, through the margin.

    Args:
        features: x, unit rows.
        rows: of W; −1 where the class is elsewhere.
        weight: W.
        margin: a function of the cosine and the strength.
        injection: of these rows.
        strength: m_i of each sample.
    """
    nothing = features.new_zeros(len(features))
    if not len(weight):
        return TargetCosines(nothing, nothing, nothing)
    prototypes = _prototypes(weight, injection, rows.clamp_min(0), features.dtype)
    with torch.enable_grad():
        cosine = (features * prototypes).sum(1).requires_grad_()
        own = None if strength is None else strength.detach().clone().requires_grad_()
        target = sample_margin(margin).target(cosine, own)
        leaves = [cosine] if own is None else [cosine, own]
        slopes = torch.autograd.grad(target.sum(), leaves, allow_unused=True, materialize_grads=True)
    found = [torch.where(rows >= 0, each, 0.0) for each in (target.detach(), *slopes)]
    return TargetCosines(found[0], found[1], nothing if strength is None else found[2])


def _prototypes(
    weight: Float[Tensor, "classes dim"], injection: Injection | None, rows: Int[Tensor, " rows"], dtype: torch.dtype
) -> Float[Tensor, "rows dim"]:
    prototypes = normalize(weight[rows].to(dtype), dim=1)
    return prototypes if injection is None else injection(prototypes, rows)


class OwnPlaces:
    """The places, in a matrix of classes by samples, where a sample meets its own class.

    On a CPU the samples are sorted by class once, and each tile writes to the places that it has. Elsewhere that would
    make the host wait for the device: each tile goes over all samples instead. Each sample has a column to itself.

    Args:
        rows: of W, of each sample; −1 where the class is elsewhere.
    """

    def __init__(self, rows: Int[Tensor, " batch"]) -> None:
        self.rows = rows
        self._order: Tensor | None = None
        if rows.device.type == "cpu":
            self._sorted, self._order = rows.sort(stable=True)
            self._bounds = self._sorted.tolist()

    def fill(self, matrix: Float[Tensor, "tile batch"], tile: slice, values: Float[Tensor, " batch"] | float) -> None:
        """Write a number of each sample to its place, where the tile has one.

        Args:
            matrix: of the classes of the tile.
            tile: rows of W.
            values: one number for all, or a number for each sample.
        """
        if self._order is not None:
            chosen = slice(bisect_left(self._bounds, tile.start), bisect_left(self._bounds, tile.stop))
            samples = self._order[chosen]
            given = values[samples].to(matrix.dtype) if isinstance(values, Tensor) else matrix.new_tensor(values)
            matrix.index_put_((self._sorted[chosen] - tile.start, samples), given)
            return
        there = (self.rows >= tile.start) & (self.rows < tile.stop)
        place = torch.where(there, self.rows - tile.start, 0).unsqueeze(0)
        wanted = values if isinstance(values, Tensor) else torch.full_like(self.rows, values, dtype=matrix.dtype)
        matrix.scatter_(0, place, torch.where(there, wanted.to(matrix.dtype), matrix.gather(0, place)[0]).unsqueeze(0))
