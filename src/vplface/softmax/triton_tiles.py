"""The operations inside a tile as Triton kernels: each reads and writes every number once.

The products of a tile are left to the vendor's library. Without a GPU the kernels run, slowly, in Triton's interpreter
(TRITON_INTERPRET=1), which is how they are tested.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from vplface.errors import import_extra
from vplface.optim import Momentum
from vplface.softmax.own import OwnPlaces
from vplface.softmax.tiles import SHORTEST, Mixture, Tile

triton: Any = import_extra("triton", "triton")
tl: Any = import_extra("triton.language", "triton")

_ELEMENTS = 4096
"""Elements of a block: rows are taken together until they hold so many."""


@triton.jit
def _mix(weight, memory, share, mixture, length, ratio, classes, dim, shortest, MIXED: tl.constexpr,
         RENORMALISE: tl.constexpr, TYPE: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr):  # fmt: skip
    """Z, ‖W‖ and ρ of a block of classes."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, DIM)
    there = row < classes
    place, inside = row[:, None].to(tl.int64) * dim + column[None, :], there[:, None] & (column < dim)[None, :]
    w = tl.load(weight + place, mask=inside, other=0.0).to(TYPE)
    norm = tl.maximum(tl.sqrt(tl.sum(w * w, 1)), shortest)
    z, rho = w, 1.0 / norm
    if MIXED:
        kept = tl.load(share + row, mask=there, other=1.0)
        m = tl.load(memory + place, mask=inside & (kept < 1.0)[:, None], other=0.0).to(TYPE)
        z = w + ((1.0 / kept - 1.0) * norm)[:, None] * m
        if RENORMALISE:
            rho = tl.where(kept < 1.0, 1.0 / tl.maximum(tl.sqrt(tl.sum(z * z, 1)), shortest), rho)
        else:
            rho = kept / norm
    tl.store(mixture + place, z.to(mixture.dtype.element_ty), mask=inside)
    tl.store(length + row, norm, mask=there)
    tl.store(ratio + row, rho, mask=there)


@triton.jit
def _exponentiate(cosines, ratio, labels, grad_logits, sums, start, classes, batch, scale,
                  KEEP: tl.constexpr, TYPE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """e_ji, summed over a block of classes, and ρ_j·e_ji; 0 where j = y_i."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    place, inside = (
        row[:, None].to(tl.int64) * batch + column[None, :],
        (row < classes)[:, None] & (column < batch)[None, :],
    )
    rho = tl.load(ratio + row, mask=row < classes, other=0.0)
    label = tl.load(labels + column, mask=column < batch, other=-1)
    logit = tl.load(cosines + place, mask=inside, other=0.0).to(TYPE) * (scale * rho)[:, None]
    e = tl.where(inside & (row[:, None] + start != label[None, :]), tl.exp(logit), 0.0)
    tl.store(sums + tl.program_id(0) * batch + column, tl.sum(e, 0), mask=column < batch)
    if KEEP:
        tl.store(grad_logits + place, (e * rho[:, None]).to(grad_logits.dtype.element_ty), mask=inside)


@triton.jit
def _project(grad_mixture, weight, memory, share, gradient, length, ratio, stopped, classes, dim, rate, momentum, decay,
             MIXED: tl.constexpr, MOVE: tl.constexpr, STOP: tl.constexpr, TYPE: tl.constexpr,
             ROWS: tl.constexpr, DIM: tl.constexpr):  # fmt: skip
    """dL/dW of a block of classes from h; or, to MOVE, m ← μ·m + dL/dW + ω·w, w ← w − η·m, with m at ``gradient``.

    To STOP, nothing moves if ``stopped`` is 1.
    """
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, DIM)
    there = row < classes
    if STOP:
        there = there & (tl.load(stopped + 0 * row) == 0.0)
    place, inside = row[:, None].to(tl.int64) * dim + column[None, :], there[:, None] & (column < dim)[None, :]
    h = tl.load(grad_mixture + place, mask=inside, other=0.0).to(TYPE)
    w = tl.load(weight + place, mask=inside, other=0.0).to(TYPE)
    norm = tl.load(length + row, mask=there, other=1.0)
    if MIXED:
        kept = tl.load(share + row, mask=there, other=1.0)
        m = tl.load(memory + place, mask=inside & (kept < 1.0)[:, None], other=0.0).to(TYPE)
        rho = tl.load(ratio + row, mask=there, other=1.0)
        z = w + ((1.0 / kept - 1.0) * norm)[:, None] * m
        h -= (tl.sum(h * z, 1) * rho * rho)[:, None] * z
    h -= (tl.sum(h * w, 1) / (norm * norm))[:, None] * w
    if MOVE:
        h += momentum * tl.load(gradient + place, mask=inside, other=0.0) + decay * w
        tl.store(weight + place, w - rate * h, mask=inside)
    tl.store(gradient + place, h, mask=inside)


class TritonTiles:
    """The operations inside a tile, in three Triton kernels."""

    name: ClassVar[str] = "triton"
    parallel: ClassVar[bool] = False  # one launch of Triton's interpreter at a time

    def mix(self, tile: Tile, dtype: torch.dtype, *, first: bool) -> Mixture:
        """Z of a tile; see ``TileOperations``."""
        operand = tile.scratch("operand", tuple(tile.weight.shape), dtype)
        block, columns = _block(tile.weight)
        memory, share = tile.memory_and_share
        _mix[(triton.cdiv(len(tile.weight), block),)](
            tile.weight,
            memory,
            share,
            operand,
            tile.length,
            tile.ratio,
            *tile.weight.shape,
            SHORTEST,
            MIXED=tile.memory is not None,
            RENORMALISE=tile.renormalise,
            TYPE=_type(tile),
            ROWS=block,
            DIM=columns,
        )
        return Mixture(None, operand)

    def exponentials(
        self, tile: Tile, cosines: Tensor, own: OwnPlaces, scale: float, kept: Tensor | None
    ) -> Float[Tensor, " batch"]:
        """Σ_j e_ji; see ``TileOperations``."""
        block, columns = _block(cosines, widest=256)
        blocks = triton.cdiv(len(cosines), block)
        sums = tile.ratio.new_empty(blocks, cosines.shape[1])
        _exponentiate[(blocks, triton.cdiv(cosines.shape[1], columns))](
            cosines,
            tile.ratio,
            own.rows,
            cosines if kept is None else kept,
            sums,
            tile.rows.start,
            *cosines.shape,
            scale,
            KEEP=kept is not None,
            TYPE=_type(tile),
            ROWS=block,
            COLUMNS=columns,
        )
        return sums.sum(0)

    def project(
        self, tile: Tile, mixture: Mixture, grad_mixture: Float[Tensor, "tile dim"]
    ) -> Float[Tensor, "tile dim"]:
        """dL/dW from h; see ``TileOperations``."""
        gradient = torch.empty_like(grad_mixture, dtype=tile.ratio.dtype)
        _launch_projection(tile, grad_mixture, gradient)
        return gradient

    def move(self, tile: Tile, mixture: Mixture, grad_mixture: Float[Tensor, "tile dim"], rule: Momentum) -> bool:
        """Move W and its momentum; see ``TileOperations``."""
        _launch_projection(tile, grad_mixture, rule.buffer[tile.rows], rule)
        return True


def _launch_projection(tile: Tile, grad_mixture: Tensor, gradient: Tensor, rule: Momentum | None = None) -> None:
    grad_mixture = grad_mixture.contiguous()
    block, columns = _block(grad_mixture)
    memory, share = tile.memory_and_share
    rates = (0.0, 0.0, 0.0) if rule is None else (rule.lr, rule.momentum, rule.weight_decay)
    stopped = None if rule is None else rule.stopped
    _project[(triton.cdiv(len(grad_mixture), block),)](
        grad_mixture,
        tile.weight,
        memory,
        share,
        gradient,
        tile.length,
        tile.ratio,
        tile.ratio if stopped is None else stopped,
        *grad_mixture.shape,
        *rates,
        MIXED=tile.memory is not None and tile.renormalise,
        MOVE=rule is not None,
        STOP=stopped is not None,
        TYPE=_type(tile),
        ROWS=block,
        DIM=columns,
    )


def _type(tile: Tile) -> Any:
    return tl.float64 if tile.ratio.dtype == torch.float64 else tl.float32


def _block(matrix: Tensor, widest: int = 2**20) -> tuple[int, int]:
    """Rows and columns of a block: whole rows, unless they are wider than a block may be."""
    columns = min(triton.next_power_of_2(matrix.shape[1]), widest)
    return max(_ELEMENTS // columns, 1), columns
