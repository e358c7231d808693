"""The margin softmax, a tile of classes at a time: no B×N logits, no copy of W, no gradient of W as a whole.

In the notation of ``reference``, with Z_j any multiple of u_j and ρ_j = u_j/Z_j, sample i and class j ≠ y_i:

    forward    e_ji = exp(s·ρ_j·Z_j·x_i)    R_i = Σ_j e_ji    S_i = R_i + exp(s·t_i)
    loss       mean of log(S_i) − s·t_i,  t_i the cosine of sample i with its own class after the margin
    backward   f_i = s/(B·S_i), and −R_i·dt_i/dcosθ_i in place of e_ji where j = y_i:
               dx_i = f_i·Σ_j e_ji·ρ_j·Z_j                  dL/dZ_j = ρ_j·Σ_i e_ji·f_i·x_i = h_j
               dW_j = h_j less its components along Z_j (u has unit length) and then along W_j (so has v)

Another function of the cosine, N(cosθ_ij), may stand in place of the cosine with another class, or −∞: then
e_ji = exp(s·N(ρ_j·Z_j·x_i)), and in the backward pass N'·e_ji stands where e_ji does. ``losses`` has the sums,
``tiles`` the operations inside a tile. As many ρ_j·e_ji are kept from forward to backward as the workspace holds; the
others are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx

from vplface import devices
from vplface.margins.sample import sample_margin
from vplface.once import once_differentiable
from vplface.optim import Momentum, Update
from vplface.parallel import map_pieces
from vplface.softmax.binary import BinaryCrossEntropy
from vplface.softmax.logits import TileLogits
from vplface.softmax.losses import CrossEntropy, Sums, TileLoss
from vplface.softmax.own import OwnPlaces, own_rows, target_cosines
from vplface.softmax.problem import SoftmaxProblem
from vplface.softmax.product import operand_type, product
from vplface.softmax.tiles import Mixture, Tile, TileOperations, TorchTiles, tile_size
from vplface.softmax.workspace import Workspace

PIECES = 32
"""Runs of tiles that threads take from a queue, and the sums over each of them; the same for any number of threads."""


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
    problem: SoftmaxProblem,
    *,
    workspace: Workspace,
    operations: TileOperations | None = None,
    update: Update | None = None,
    momentum: Callable[[], Momentum | None] | None = None,
    filtering: Filter | None = None,
) -> Float[Tensor, ""]:
    """The same as ``reference.margin_softmax``, or as ``binary.binary_loss`` for a margin that changes the loss.

    Products run in bfloat16 under autocast to it or where W is of that type, else in the type of W, but not below
    float32; nothing else ever runs below float32.

    Args:
        problem: the inputs.
        workspace: where exponentials are kept from forward to backward.
        operations: inside a tile; None for torch's own.
        update: what to do with the gradient of W, tile by tile, instead of leaving it in ``weight.grad``. Several
            threads may call it at once, for different rows.
        momentum: what ``update`` does, for an implementation that can do it itself; asked in the backward pass.
        filtering: which classes may be left out of the gradients; None for none.
    """
    operands = operand_type(problem.weight)
    if problem.weight.ndim == 3:
        update, momentum = _of_rows(update, momentum, problem.subcenters)
    with devices.without_autocast(problem.weight.device):
        softmax = TiledSoftmax(problem, operands, workspace, operations or TorchTiles(), filtering)
        tensors = problem.features, problem.weight.flatten(0, -2), problem.negatives, problem.strength
        loss: Tensor = _MarginSoftmax.apply(*tensors, softmax, update, momentum)  # type: ignore[no-untyped-call]
    return loss


class _MarginSoftmax(torch.autograd.Function):
    # size: the tensors that are differentiated, and who forms the gradients
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        features: Tensor,
        weight: Tensor,
        negatives: Tensor | None,
        strength: Tensor | None,
        softmax: TiledSoftmax,
        update: Update | None,
        momentum: Callable[[], Momentum | None] | None,
    ) -> Tensor:
        ctx.save_for_backward(features, weight, negatives, strength)  # type: ignore[arg-type]  # None may be saved
        ctx.softmax, ctx.update, ctx.momentum = softmax, update, momentum  # type: ignore[attr-defined]
        return softmax.forward()

    @staticmethod
    @once_differentiable("the softmax forms it a tile of classes at a time, outside of autograd")
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        softmax: TiledSoftmax = ctx.softmax  # type: ignore[attr-defined]
        update, momentum = ctx.update, ctx.momentum  # type: ignore[attr-defined]
        features, weight, *_ = ctx.saved_tensors  # type: ignore[attr-defined]
        wanted = ctx.needs_input_grad  # type: ignore[attr-defined]
        whole = torch.empty_like(weight) if wanted[1] and update is None else None
        write_gradient = whole.__setitem__ if whole is not None else update if wanted[1] else None
        rule = momentum() if wanted[1] and update is not None and momentum is not None else None
        with devices.without_autocast(weight.device):
            with nullcontext() if softmax.injection is None else softmax.injection.as_seen():
                of_features = softmax.backward(gradient, wanted[0], write_gradient, rule)
            of_negatives = softmax.loss.gradient_of_negatives(gradient) if wanted[2] else None
            of_strength = softmax.loss.gradient_of_strength(gradient) if wanted[3] else None
        if not _graph_is_kept():
            ctx.softmax = None  # type: ignore[attr-defined]  # which a loss that somebody keeps would hold on to
        return of_features.to(features.dtype) if wanted[0] else None, whole, of_negatives, of_strength, None, None, None


def _graph_is_kept() -> bool:
    """Whether another backward pass over the same graph may follow; True where torch does not say."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or bool(ask())


class TiledSoftmax:
    """A batch in its forward and backward pass over all classes.

    Args:
        problem: the inputs.
        operands: type of products.
        workspace: where exponentials are kept between the passes.
        operations: inside a tile.
        filtering: which classes may be left out of the gradients.
    """

    def __init__(
        self,
        problem: SoftmaxProblem,
        operands: torch.dtype,
        workspace: Workspace,
        operations: TileOperations,
        filtering: Filter | None,
    ) -> None:
        weight = problem.weight.detach()
        self.injection = problem.injection
        if weight.ndim == 3:
            self.injection = None if self.injection is None else self.injection.of_subcenters(weight)
            weight = weight.flatten(0, 1)
        self.weight, self.operands, self.operations = weight, operands, operations
        self.workspace, self.filtering = workspace, filtering
        self.ranks, self.classes = problem.ranks, problem.classes
        self.type = torch.promote_types(weight.dtype, torch.float32)
        self.features = problem.features.detach().to(self.type)
        self.operand = self.features.to(operands)
        self._lay_out_tiles(problem.subcenters)
        self.own = OwnPlaces(own_rows(self.features, problem.labels, weight, self.injection, problem.subcenters))
        self.loss = self._loss(problem)
        self.kept = self._room()

    def forward(self) -> Float[Tensor, ""]:
        """Compute the loss of the batch."""
        return self.loss.finish(map_pieces(self._forward_piece, self.pieces), self.ranks)

    def _forward_piece(self, piece: list[slice], thread: int) -> Sums:
        sums = self.loss.empty()
        for tile in self._tiles(piece, thread):
            mixture = self.operations.mix(tile, self.operands, first=True)
            self.loss.add(sums, tile, product(mixture.operand, self.operand), self._kept(tile))
        return sums

    def backward(
        self, gradient: Tensor, of_features: bool, write_gradient: Update | None, rule: Momentum | None
    ) -> Float[Tensor, "batch dim"]:
        """Form the gradients. Returns dL/dx, 0 unless it is wanted; dL/dW goes to ``write_gradient``, tile by tile.

        Args:
            gradient: of the loss.
            of_features: whether dL/dx is wanted.
            write_gradient: takes dL/dW; None if it is not wanted.
            rule: what ``write_gradient`` does, for operations that can do it themselves.
        """
        if self.workspace.user is not self:  # another forward pass has been here since
            self.kept = self.features.new_empty(0, len(self.features))
        factor = self.loss.factor(gradient).unsqueeze(1)
        weighted = (factor * self.features).to(self.operands).t()
        own_gradient = self._own_ratio() * self.loss.own_gradient

        def work(piece: list[slice], thread: int) -> tuple[Tensor, Tensor]:
            pulled, skipped = torch.zeros_like(self.features), torch.zeros_like(own_gradient)
            for tile in self._tiles(piece, thread):
                mixture, grad_logits = self._grad_logits(tile)
                chosen, left_out = self._worthwhile(tile, grad_logits)
                self.own.fill(grad_logits, tile.rows, own_gradient)
                skipped += left_out
                if of_features:
                    pulled += product(chosen(grad_logits).t(), chosen(mixture.operand).t())
                if write_gradient is not None:
                    grad_mixture = chosen.back(product(chosen(grad_logits), weighted))
                    self._move(tile, mixture, grad_mixture, write_gradient, rule)
            return pulled, skipped

        parts = map_pieces(work, self.pieces)
        if rule is not None:
            torch.autograd.graph.increment_version(self.weight)
        if self.filtering is not None:
            skipped = sum((skipped for _, skipped in parts), torch.zeros_like(own_gradient))
            skipped = skipped if self.ranks is None else self.ranks.sum(skipped)
            self.filtering.skipped = max(float(skipped.max()), 0.0)
        pulled = torch.zeros_like(self.features)
        for part, _ in parts:
            pulled += part
        return pulled.mul_(factor)

    def _move(
        self,
        tile: Tile,
        mixture: Mixture,
        grad_mixture: Float[Tensor, "tile dim"],
        write_gradient: Update,
        rule: Momentum | None,
    ) -> None:
        """Take a step inside a tile, or hand over its dL/dW."""
        if rule is None or not self.operations.move(tile, mixture, grad_mixture, rule):
            write_gradient(tile.rows, self.operations.project(tile, mixture, grad_mixture))

    def _grad_logits(self, tile: Tile) -> tuple[Mixture, Float[Tensor, "tile batch"]]:
        """Z, and ``grad_logits`` of the loss, as kept or computed again."""
        mixture = self.operations.mix(tile, self.operands, first=False)
        kept = self._kept(tile)
        if kept is None:
            kept = self.loss.grad_logits(tile, product(mixture.operand, self.operand), self.operands)
        return mixture, kept

    def _worthwhile(self, tile: Tile, grad_logits: Tensor) -> tuple[_Rows, Tensor]:
        """The classes of a tile that take part in the gradients, and what each sample loses by that."""
        if self.filtering is None:
            return _Rows(None, len(grad_logits)), self.features.new_zeros(())
        share = grad_logits / tile.ratio / self.loss.total
        self.own.fill(share, tile.rows, torch.inf)
        light = share.amax(1) <= self.filtering.bound / self.classes
        return _Rows((~light).nonzero().squeeze(1), len(share)), share[light].sum(0)

    def _lay_out_tiles(self, subcenters: int) -> None:
        """Divide the rows of W into tiles and these into pieces; lengths and the like of all rows."""
        rows, width = len(self.weight), max(self.features.shape)
        size = max(tile_size(rows, width, self.weight.device) // subcenters, 1) * subcenters
        tiles = [slice(first, min(first + size, rows)) for first in range(0, rows, size)]
        at_once = self.operations.parallel and self.weight.device.type == "cpu"
        several = -(-len(tiles) // PIECES) if at_once else max(len(tiles), 1)
        self.tile_size = size
        self.pieces = [tiles[first : first + several] for first in range(0, len(tiles), max(several, 1))]
        self.length, self.ratio = (self.features.new_empty(rows, 1) for _ in range(2))
        self.share: Tensor | None = None
        self.alive = [False] * len(tiles)
        if self.injection is not None:
            alive = self.injection.timer > 0
            self.share = (1.0 - self.injection.lam * alive.to(self.type)).unsqueeze(1)
            self.share.clamp_min_(1e-15)  # λ = 1 leaves nothing of v, to rounding
            if alive.device.type != "cpu":  # the host would wait for the answer
                self.alive = [True] * len(tiles)
            elif tiles:
                self.alive = np.logical_or.reduceat(alive.numpy(), [tile.start for tile in tiles]).tolist()

    def _loss(self, problem: SoftmaxProblem) -> TileLoss:
        """The loss that the margin asks for."""
        margin = problem.margin
        binary = sample_margin(margin).changes_loss
        strength = None if problem.strength is None or binary else problem.strength.detach().to(self.type)
        own = target_cosines(self.features, self.own.rows, self.weight, margin, self.injection, strength)
        target = own.target
        logits = TileLogits(replace(problem, strength=strength), self.own, target)
        if problem.ranks is not None and logits.changed:
            logits.target = problem.ranks.sum(target)
        if binary:
            return BinaryCrossEntropy(problem, own, logits)
        return CrossEntropy(problem, own, self.own, logits, self.operations)

    def _room(self) -> Tensor:
        """A part of the workspace, for as many whole tiles as it holds."""
        batch = len(self.features)
        fitting = self.workspace.limit // (self.tile_size * batch * self.operands.itemsize) * self.tile_size
        keep = min(fitting, len(self.weight)) if self.loss.keeps and torch.is_grad_enabled() else 0
        self.workspace.user = self
        return self.workspace.take("kept", (keep, batch), self.operands, self.weight.device)

    def _tiles(self, piece: list[slice], thread: int) -> Iterator[Tile]:
        def scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return self.workspace.take(f"{name} {thread}", shape, dtype, self.weight.device)

        renormalise = self.injection is not None and self.injection.renormalise
        for rows in piece:
            alive = self.injection is not None and self.alive[rows.start // self.tile_size]
            memory = self.injection.memory_rows(rows) if self.injection is not None and alive else None
            share = None if self.share is None else self.share[rows]
            yield Tile(
                rows, self.weight[rows], self.length[rows], self.ratio[rows], share, memory, renormalise, scratch
            )

    def _kept(self, tile: Tile) -> Tensor | None:
        return self.kept[tile.rows] if tile.rows.stop <= len(self.kept) else None

    def _own_ratio(self) -> Float[Tensor, " batch"]:
        """ρ of the own class of each sample; of no use where that is elsewhere."""
        if not len(self.ratio):
            return self.features.new_zeros(len(self.features))
        return self.ratio[self.own.rows.clamp_min(0), 0]


class _Rows:
    """Some rows of a tile, or all.

    Args:
        chosen: their numbers; None for all.
        total: rows of the tile.
    """

    def __init__(self, chosen: Int[Tensor, " chosen"] | None, total: int) -> None:
        self.chosen = chosen
        self.total = total

    def __call__(self, matrix: Tensor) -> Tensor:
        """These rows of a matrix."""
        return matrix if self.chosen is None else matrix[self.chosen]

    def back(self, rows: Tensor) -> Tensor:
        """The rows in their places in the tile, and 0 in the places of the others."""
        if self.chosen is None:
            return rows
        return rows.new_zeros(self.total, *rows.shape[1:]).index_copy_(0, self.chosen, rows)


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
