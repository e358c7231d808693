"""The margin softmax, a tile of classes at a time: no B×N logits, no copy of W, no gradient of W as a whole.

In the notation of ``reference``, with Z_j any multiple of u_j and ρ_j = u_j/Z_j, sample i and class j ≠ y_i:

    first visit    e_ji = exp(s·ρ_j·Z_j·x_i)    R_i = Σ_j e_ji    S_i = R_i + exp(s·t_i)
    loss           mean of log(S_i) − s·t_i,  t_i the cosine of sample i with its own class after the margin
    second visit   f_i = s/(B·S_i), and −R_i·dt_i/dcosθ_i in place of e_ji where j = y_i:
                   dx_i = f_i·Σ_j e_ji·ρ_j·Z_j                  dL/dZ_j = ρ_j·Σ_i e_ji·f_i·x_i = h_j
                   dW_j = h_j less its components along Z_j (u has unit length) and then along W_j (so has v)

Another function of the cosine, N(cosθ_ij), may stand in place of the cosine with another class, or −∞: then
e_ji = exp(s·N(ρ_j·Z_j·x_i)), and on the second visit N'·e_ji stands where e_ji does. The gradient of the strength m_i
of a margin is −f_i·R_i·dt_i/dm_i.

A further logit n_i of a sample adds exp(n_i) to R_i once, not once a rank; its gradient is exp(n_i)/(B·S_i).

Between the visits as many ρ_j·e_ji are kept as the workspace holds; the others are computed again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.linalg import vecdot, vector_norm
from torch.nn.functional import normalize

from vplface.margins import Margin
from vplface.margins.sample import changes_negatives, negative_of, sample_margin
from vplface.once import once_differentiable
from vplface.optim import Momentum, Update
from vplface.prototypes import Injection
from vplface.ranks import Ranks
from vplface.softmax.product import operand_type, product
from vplface.softmax.workspace import Workspace

TILE = {"cpu": 3 * 2**18}
"""Elements of a tile of W, by kind of device: on a CPU a few tiles should fit its cache."""
LARGE_TILE = 2**25
"""The same on every other device, which has to be kept busy."""
BOUNDED = 80.0
"""Sums of exponentials up to e^±80 are within the range of float32, and products with them too."""
SHORTEST = 1e-12
"""The length below which a vector has no direction (the ε of torch's normalize)."""
_TILE_BUFFERS = 6


def tile_bytes(classes: int, width: int, device: torch.device) -> int:
    """Approximate bytes of the temporary tensors of a tile; ``width`` is the larger of d and B."""
    return _TILE_BUFFERS * 4 * width * min(tile_size(width, device), classes)


def tile_size(width: int, device: torch.device) -> int:
    """Number of classes in a tile; ``width`` is the larger of d and B."""
    return max(TILE.get(device.type, LARGE_TILE) // width, 1)


@dataclass
class Filter:
    """Leaves classes out of the gradients to which no sample of a batch gives any probability worth speaking of.

    A class is left out where p_ij ≤ bound/N for every sample i, so no sample loses more than ``bound``.

    Attributes:
        bound: ε, of the probability of a sample that may be left out of its gradients.
        skipped: the most that a sample lost in the last backward pass.
    """

    bound: float
    skipped: float = 0.0


def margin_softmax(
    features: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    weight: Float[Tensor, "classes ... dim"],
    margin: Margin,
    injection: Injection | None = None,
    *,
    strength: Float[Tensor, " batch"] | None = None,
    threshold: float | None = None,
    negatives: Float[Tensor, " batch"] | None = None,
    workspace: Workspace,
    update: Update | None = None,
    momentum: Callable[[], Momentum | None] | None = None,
    filtering: Filter | None = None,
    ranks: Ranks | None = None,
    implementation: type[TiledSoftmax] | None = None,
) -> Float[Tensor, ""]:
    """The same as ``reference.margin_softmax``.

    Products run in bfloat16 under autocast to it or where W is of that type, else in the type of W, but not below
    float32; nothing else ever runs below float32.

    Args:
        features: x, unit rows.
        labels: y, row numbers of ``weight``; −1 where the class lives on another rank.
        weight: W, rows of any length; [N, d], or [N, K, d] with K sub-centres of each class.
        margin: changes the target cosine and gives the scale s.
        injection: memory to mix into the prototypes; None for the plain softmax.
        strength: m_i of each sample, for a margin that has one.
        threshold: other classes with a larger cosine are left out of the softmax of a sample; None for none.
        negatives: one more logit for each sample, at most s + log B; −∞ for nothing, None for no sample.
        workspace: where exponentials are kept between the visits.
        update: what to do with the gradient of W, tile by tile, instead of leaving it in ``weight.grad``.
        momentum: what ``update`` does, for an implementation that can do it itself; asked in the backward pass.
        filtering: which classes may be left out of the gradients; None for none.
        ranks: who holds the other classes; None if there are none.
        implementation: the class that computes it; None for torch's own operations.
    """
    operands = operand_type(weight)
    subcenters = 1 if weight.ndim == 2 else weight.shape[1]
    if weight.ndim == 3:
        injection = None if injection is None else injection.of_subcenters(weight.detach())
        update, momentum = _of_rows(update, momentum, subcenters)
        weight = weight.flatten(0, 1)
    with torch.autocast(weight.device.type, enabled=False):
        visits = (implementation or TiledSoftmax)(
            features,
            labels,
            weight,
            margin,
            injection,
            workspace,
            operands,
            momentum,
            filtering,
            ranks,
            negatives,
            strength,
            threshold,
            subcenters,
        )
        tensors = features, weight, negatives, strength
        loss: Tensor = _MarginSoftmax.apply(*tensors, visits, update)  # type: ignore[no-untyped-call]
    return loss


class _MarginSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        features: Tensor,
        weight: Tensor,
        negatives: Tensor | None,
        strength: Tensor | None,
        softmax: TiledSoftmax,
        update: Update | None,
    ) -> Tensor:
        ctx.save_for_backward(features, weight, negatives, strength)  # type: ignore[arg-type]  # None may be saved
        ctx.softmax, ctx.update = softmax, update  # type: ignore[attr-defined]
        return softmax.loss()

    @staticmethod
    @once_differentiable("the softmax forms it a tile of classes at a time, outside of autograd")
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        softmax: TiledSoftmax = ctx.softmax  # type: ignore[attr-defined]
        update: Update | None = ctx.update  # type: ignore[attr-defined]
        features, weight, *_ = ctx.saved_tensors  # type: ignore[attr-defined]
        wanted = ctx.needs_input_grad  # type: ignore[attr-defined]
        whole = torch.empty_like(weight) if wanted[1] and update is None else None
        write_gradient = whole.__setitem__ if whole is not None else update if wanted[1] else None
        with torch.autocast(weight.device.type, enabled=False):
            with nullcontext() if softmax.injection is None else softmax.injection.as_seen():
                of_features = softmax.gradients(gradient, wanted[0], write_gradient)
            of_negatives = softmax.gradient_of_negatives(gradient) if wanted[2] else None
            of_strength = softmax.gradient_of_strength(gradient) if wanted[3] else None
        if not _graph_is_kept():
            ctx.softmax = None  # type: ignore[attr-defined]  # which a loss that somebody keeps would hold on to
        return of_features.to(features.dtype) if wanted[0] else None, whole, of_negatives, of_strength, None, None


def _graph_is_kept() -> bool:
    """Whether another backward pass over the same graph may follow; True where torch does not say."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or bool(ask())


class Tile(NamedTuple):
    """Classes side by side; ``mixture`` and ``operand`` lie in buffers that the next tile overwrites."""

    rows: slice
    weight: Float[Tensor, "tile dim"]
    mixture: Float[Tensor, "tile dim"]  # Z; W itself where no memory is alive
    operand: Float[Tensor, "tile dim"]  # Z in the type of products
    ratio: Float[Tensor, "tile 1"]  # ρ
    own: tuple[Tensor, Tensor]  # classes of the tile and samples where j = y_i
    memory: Float[Tensor, "tile dim"] | None = None  # what is injected, for an implementation that looks at it again


class TiledSoftmax:
    """A batch on its two visits to every class.

    What is done inside a tile is in ``_mix``, ``_exponentials``, ``_project`` and ``_step``; subclasses do it faster.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        weight: Tensor,
        margin: Margin,
        injection: Injection | None,
        workspace: Workspace,
        operand_type: torch.dtype,
        momentum: Callable[[], Momentum | None] | None,
        filtering: Filter | None,
        ranks: Ranks | None,
        negatives: Tensor | None,
        strength: Tensor | None,
        threshold: float | None,
        subcenters: int,
    ) -> None:
        self.weight = weight.detach()
        self.type = torch.promote_types(weight.dtype, torch.float32)
        self.operand_type = operand_type
        self.features = features.detach().to(self.type)
        self.subcenters = subcenters
        self.operand = self.features.to(operand_type)
        self.scale = margin.scale
        self.injection = injection
        self.workspace = workspace
        self.momentum = momentum
        self.filtering = filtering
        self.ranks = ranks
        self.negatives = None if negatives is None else negatives.detach().to(self.type)
        self.classes = len(weight) // subcenters if ranks is None else ranks.classes
        self.strength = None if strength is None else strength.detach().to(self.type)
        self.labels = _nearest_of_own(self.features, labels, self.weight, injection, subcenters)
        self.target, self.slope, self.slope_of_strength = _own_cosines(
            self.features, self.labels, self.weight, margin, injection, self.strength
        )
        if ranks is not None:
            self.target = ranks.sum(self.target)

        labels = self.labels
        (classes, dim), batch = weight.shape, len(labels)
        size = tile_size(max(dim, batch), weight.device)
        size = max(size // subcenters, 1) * subcenters
        self.tiles = [slice(first, min(first + size, classes)) for first in range(0, classes, size)]
        order = labels.argsort(stable=True)
        starts = torch.tensor([rows.start for rows in self.tiles], dtype=labels.dtype, device=labels.device)
        bounds = [*torch.searchsorted(labels[order], starts).tolist(), batch]
        self.own = [
            (labels[samples] - rows.start, samples)
            for rows, samples in zip(self.tiles, (order[a:b] for a, b in itertools.pairwise(bounds)), strict=True)
        ]
        self.length, self.ratio = (torch.empty(classes, 1, dtype=self.type, device=weight.device) for _ in range(2))
        self.share: Tensor | None = None  # 1−λ where a memory is alive, else 1
        self.mixed = [False] * len(self.tiles)
        if injection is not None:
            self.share = (1.0 - injection.lam * (injection.timer > 0).to(self.type)).unsqueeze(1)
            self.share.clamp_min_(1e-15)  # λ = 1 leaves nothing of v, to rounding
            self.mix_ratio = self.share.reciprocal().sub_(1.0)  # λ/(1−λ); ‖W‖·λ/(1−λ) once the first visit is over
            alive = [part.any() for part in torch.split(self.mix_ratio, size)]
            self.mixed = torch.stack(alive).tolist() if self.tiles else []

        self.negative: Callable[[Tensor], Tensor] | None = None
        self.plain = subcenters == 1 and not changes_negatives(margin, threshold)
        if changes_negatives(margin, threshold):
            columns = self.target, self.strength
            self.negative = lambda cosines: negative_of(margin, cosines, *columns, threshold)
        # Logits lie in [−s·bound, s·bound]: most often the sum of their exponentials needs no maximum taken out first.
        compared = self.classes + (0 if negatives is None else batch)
        self.bounded = self.scale * sample_margin(margin).bound + math.log(compared) <= BOUNDED
        self.top = self.features.new_full((batch,), 0.0 if self.bounded else -self.scale)
        fitting = workspace.limit // (size * batch * operand_type.itemsize) * size
        keep = min(fitting, classes) if self.bounded and torch.is_grad_enabled() else 0
        self.kept = workspace.take("kept", (keep, batch), operand_type, weight.device)
        workspace.user = self

    def loss(self) -> Float[Tensor, ""]:
        """Compute the loss on the first visit to all classes."""
        self.sum_exp_others = torch.zeros_like(self.target)
        for tile in self._visit(first=True):
            self._accumulate(tile, self.kept[tile.rows] if tile.rows.stop <= len(self.kept) else None)
        if self.ranks is not None:
            if not self.bounded:
                top = self.ranks.largest(self.top)
                self.sum_exp_others *= (self.top - top).exp_()
                self.top = top
            self.sum_exp_others = self.ranks.sum(self.sum_exp_others)
        if self.negatives is not None:
            if not self.bounded:
                top = torch.maximum(self.top, self.negatives)
                self.sum_exp_others *= (self.top - top).exp_()
                self.top = top
            self.sum_exp_others += (self.negatives - self.top).exp_()
        excess = self.sum_exp_others.log() + self.top - self.scale * self.target
        return torch.logaddexp(excess, torch.zeros_like(excess)).mean()

    def gradients(
        self, gradient: Tensor, of_features: bool, write_gradient: Update | None
    ) -> Float[Tensor, "batch dim"]:
        """The second visit. Returns dL/dx, 0 unless it is wanted; dL/dW goes to ``write_gradient``, tile by tile."""
        if self.workspace.user is not self:  # another forward pass has been here since
            self.kept = self.kept[:0]
        total = self._total()
        factor = (gradient * self.scale / len(total) / total).unsqueeze(1)
        weighted = (factor * self.features).to(self.operand_type).t()
        grad_target = -self.sum_exp_others * self.slope
        self.mixture_factor, self.weight_factor = -self.ratio.square(), -self.length.square().reciprocal_()
        result, skipped = torch.zeros_like(self.features), torch.zeros_like(self.sum_exp_others)
        for tile in self._visit(first=False):
            grad_logits = self.kept[tile.rows] if tile.rows.stop <= len(self.kept) else self._grad_logits(tile)
            operand, chosen = tile.operand, None
            if self.filtering is not None:
                share = grad_logits / tile.ratio / total
                chosen = self._worthwhile(share, tile.own[0], self.filtering.bound)
                skipped += share.sum(0) - share[chosen].sum(0)
                operand = operand[chosen]
            classes, samples = tile.own
            grad_logits[tile.own] = (grad_target[samples] * tile.ratio[classes, 0]).to(grad_logits.dtype)
            if chosen is not None:
                grad_logits = grad_logits[chosen]
            if of_features:
                result += product(grad_logits.t(), operand.t())
            if write_gradient is None:
                continue
            grad_mixture = product(grad_logits, weighted)
            if chosen is not None:
                grad_mixture = torch.zeros_like(tile.weight, dtype=grad_mixture.dtype).index_copy_(
                    0, chosen, grad_mixture
                )
            self._move(tile, grad_mixture, write_gradient)
        if self.filtering is not None:
            skipped = skipped if self.ranks is None else self.ranks.sum(skipped)
            self.filtering.skipped = max(float(skipped.max()), 0.0)
        return result * factor

    def gradient_of_negatives(self, gradient: Tensor) -> Float[Tensor, " batch"] | None:
        """The gradient dL/dn of the further logits."""
        if self.negatives is None:
            return None
        return gradient * (self.negatives - self.top).exp_() / self._total() / len(self.negatives)

    def gradient_of_strength(self, gradient: Tensor) -> Float[Tensor, " batch"]:
        """dL/dm; 0 for samples whose class is elsewhere."""
        factor = -gradient * self.scale / len(self.sum_exp_others)
        return factor * self.sum_exp_others / self._total() * self.slope_of_strength

    def _total(self) -> Float[Tensor, " batch"]:
        """S·exp(−top), which only where all other classes are left out might be too small to divide by."""
        total = self.sum_exp_others + (self.scale * self.target - self.top).exp_()
        return total.clamp_min_(math.exp(-BOUNDED))

    def _visit(self, first: bool) -> Iterator[Tile]:
        """Every tile; the first visit leaves ‖W‖ and ρ for the second."""
        for rows, own, mixed in zip(self.tiles, self.own, self.mixed, strict=True):
            yield self._mix(rows, own, mixed, first)

    def _mix(self, rows: slice, own: tuple[Tensor, Tensor], mixed: bool, first: bool) -> Tile:
        weight = self.weight[rows].to(self.type)
        length, ratio = self.length[rows], self.ratio[rows]
        if first:
            vector_norm(weight, dim=1, keepdim=True, out=length).clamp_min_(SHORTEST)
            torch.reciprocal(length, out=ratio)
        mixture = weight
        if mixed and self.injection is not None and self.share is not None:
            # ((1−λ)·v + λ·M)·‖W‖/(1−λ)
            memory, mix_ratio = self.injection.memory_rows(rows).to(self.type), self.mix_ratio[rows]
            if first:
                mix_ratio *= length
            mixture = torch.addcmul(weight, memory, mix_ratio, out=self._buffer("mixture", weight, self.type))
            if first and self.injection.renormalise:
                vector_norm(mixture, dim=1, keepdim=True, out=ratio).clamp_min_(SHORTEST).reciprocal_()
            elif first:
                ratio *= self.share[rows]
        operand = mixture
        if mixture.dtype != self.operand_type:
            operand = self._buffer("operand", mixture, self.operand_type).copy_(mixture)
        return Tile(rows, weight, mixture, operand, ratio, own)

    def _logits(self, tile: Tile) -> tuple[Float[Tensor, "tile batch"], Tensor]:
        """s·N(cosθ_ij) of a tile, −∞ where j = y_i, whose logit is another; and ρ_j·N'(cosθ_ij)."""
        logits, slope = product(tile.operand, self.operand).to(self.type), tile.ratio
        if self.plain:
            logits.mul_(self.scale * slope)[tile.own] = -math.inf
            return logits, slope
        logits *= slope
        of_class = logits.view(-1, self.subcenters, logits.shape[1])
        further = torch.arange(self.subcenters, device=logits.device).view(1, -1, 1) != of_class.argmax(1, keepdim=True)
        if self.negative is not None:
            with torch.enable_grad():
                others = self.negative(logits.requires_grad_())
                (change,) = torch.autograd.grad(others.sum(), logits)
            logits, slope = others.detach().clone(), change * slope
        of_class = logits.mul_(self.scale).view(-1, self.subcenters, logits.shape[1])
        of_class.masked_fill_(further, -math.inf)
        classes, samples = tile.own
        of_class[classes // self.subcenters, :, samples] = -math.inf
        return logits, slope

    def _accumulate(self, tile: Tile, kept: Tensor | None) -> None:
        """Add a tile to ``sum_exp_others``; keep ρ_j·e_ji."""
        if self.bounded:
            self.sum_exp_others += self._exponentials(tile, kept)
            return
        logits, _ = self._logits(tile)
        top = torch.maximum(self.top, logits.amax(0))
        self.sum_exp_others *= (self.top - top).exp_()
        self.top = top
        self.sum_exp_others += logits.sub_(top).exp_().sum(0)

    def _grad_logits(self, tile: Tile) -> Float[Tensor, "tile batch"]:
        """ρ_j·N'·e_ji of a tile that was not kept."""
        if not self.bounded:
            logits, slope = self._logits(tile)
            return logits.sub_(self.top).exp_().mul_(slope).to(self.operand_type)
        shape = len(tile.operand), len(self.target)
        grad_logits = self.workspace.take("grad_logits", shape, self.operand_type, tile.operand.device)
        self._exponentials(tile, grad_logits)
        return grad_logits

    def _exponentials(self, tile: Tile, grad_logits: Tensor | None) -> Float[Tensor, " batch"]:
        """Σ_j e_ji of a tile where logits are bounded; ρ_j·N'·e_ji goes to ``grad_logits``."""
        logits, slope = self._logits(tile)
        exponentials = logits.exp_()
        if grad_logits is not None:
            torch.mul(exponentials, slope, out=grad_logits)
        return exponentials.sum(0)

    def _move(self, tile: Tile, grad_mixture: Float[Tensor, "tile dim"], write_gradient: Update) -> None:
        """Take a step inside a tile, or hand over its dL/dW."""
        rule = None if self.momentum is None else self.momentum()
        if rule is not None and self._step(tile, grad_mixture, rule):
            torch.autograd.graph.increment_version(self.weight)
        else:
            write_gradient(tile.rows, self._project(tile, grad_mixture))

    def _step(self, tile: Tile, grad_mixture: Float[Tensor, "tile dim"], rule: Momentum) -> bool:
        """Move W and its momentum with dL/dW where the implementation can; whether it has."""
        return False

    def _project(self, tile: Tile, grad_mixture: Float[Tensor, "tile dim"]) -> Float[Tensor, "tile dim"]:
        """From h to dL/dW."""
        gradient = grad_mixture.to(self.type)
        if tile.mixture is not tile.weight and self.injection is not None and self.injection.renormalise:
            _remove(tile.mixture, gradient, self.mixture_factor[tile.rows])
        _remove(tile.weight, gradient, self.weight_factor[tile.rows])
        return gradient

    def _worthwhile(self, share: Tensor, own: Tensor, bound: float) -> Int[Tensor, " chosen"]:
        """Classes of a tile with p_ij > ε/N for some sample i of another class, or with samples of their own."""
        heavy = share.amax(1) > bound / self.classes
        heavy[own] = True
        return heavy.nonzero().squeeze(1)

    def _buffer(self, name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
        return self.workspace.take(name, tuple(like.shape), dtype, like.device)


def _remove(direction: Tensor, vectors: Tensor, coefficient: Tensor) -> None:
    """Take from each vector, in place, its component along a direction; the coefficient is −1/‖direction‖²."""
    vectors.addcmul_(direction, vecdot(vectors, direction).unsqueeze(1).mul_(coefficient))


def _of_rows(
    update: Update | None, momentum: Callable[[], Momentum | None] | None, subcenters: int
) -> tuple[Update | None, Callable[[], Momentum | None] | None]:
    """Update and momentum of classes of [K, d], for tiles of rows that are their sub-centres one after the other."""

    def move(rows: slice, gradient: Tensor) -> None:
        assert update is not None
        classes = slice(rows.start // subcenters, rows.stop // subcenters)
        update(classes, gradient.view(-1, subcenters, gradient.shape[1]))

    def rule() -> Momentum | None:
        found = None if momentum is None else momentum()
        return None if found is None else replace(found, buffer=found.buffer.flatten(0, 1))

    return None if update is None else move, None if momentum is None else rule


def _nearest_of_own(
    features: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    weight: Float[Tensor, "rows dim"],
    injection: Injection | None,
    subcenters: int,
) -> Int[Tensor, " batch"]:
    """The row of the sub-centre of its own class that is nearest to each sample; −1 if the class is elsewhere."""
    if subcenters == 1:
        return labels
    samples = (labels >= 0).nonzero().squeeze(1)
    rows = labels[samples].unsqueeze(1) * subcenters + torch.arange(subcenters, device=labels.device)
    prototypes = normalize(weight[rows.flatten()].to(features.dtype), dim=1)
    if injection is not None:
        prototypes = injection(prototypes, rows.flatten())
    cosines = torch.bmm(prototypes.view(*rows.shape, weight.shape[1]), features[samples].unsqueeze(2)).squeeze(2)
    own = rows.gather(1, cosines.argmax(1, keepdim=True)).squeeze(1)
    return torch.full_like(labels, -1).index_put((samples,), own)


def _own_cosines(
    features: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    weight: Float[Tensor, "classes dim"],
    margin: Margin,
    injection: Injection | None,
    strength: Float[Tensor, " batch"] | None,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """t_i, the cosine of each sample with its own class after the margin, dt_i/dcosθ_i, dt_i/dm_i; 0 if elsewhere."""
    samples = (labels >= 0).nonzero().squeeze(1)
    rows = labels[samples]
    prototypes = normalize(weight[rows].to(features.dtype), dim=1)
    if injection is not None:
        prototypes = injection(prototypes, rows)
    with torch.enable_grad():
        cosine = (features[samples] * prototypes).sum(1).requires_grad_()
        own = None if strength is None else strength[samples].requires_grad_()
        target = sample_margin(margin).target(cosine, own)
        leaves = [cosine] if own is None else [cosine, own]
        slopes = torch.autograd.grad(target.sum(), leaves, allow_unused=True, materialize_grads=True)
    nothing = features.new_zeros(len(features))
    found = [nothing.index_put((samples,), each) for each in (target.detach(), *slopes)]
    return found[0], found[1], found[2] if strength is not None else nothing
