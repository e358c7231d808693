"""Bytes of the buffers that a fused step keeps, from the sizes of a head and its batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vplface.packed_rows import Kind
from vplface.packed_rows import buffer_bytes as packed_bytes
from vplface.softmax.fused.tiles import ceil_div, pitch_of, tiles_for

_NUMBER = torch.float32.itemsize


@dataclass(frozen=True)
class BufferBytes:
    """Bytes of the buffers of a fused step.

    Attributes:
        mixture: Z, [N, d] in the type of the products.
        exponentials: E, [N, B] in the type of the products, with rows of ``pitch_of(B)`` numbers.
        others: partial sums, numbers of each class, samples, and what ranks exchange.
    """

    mixture: int
    exponentials: int
    others: int


@dataclass(frozen=True)
class StepSize:
    """The size of a fused step.

    Attributes:
        classes: N of this rank, which has the most.
        dim: d.
        own: samples of a forward pass, of this rank.
        ranks: that share the classes.
        operands: type of the products.
        parts: forward passes of a step.
        separate: whether other embeddings than those compared are remembered.
        holds: whether the gradient of W is held, and clipped, with the norms of its tiles.
    """

    classes: int
    dim: int
    own: int
    ranks: int
    operands: torch.dtype
    parts: int
    separate: bool
    holds: bool

    @property
    def tile_norms(self) -> int:
        """Norms of tiles of the gradient of W."""
        return ceil_div(self.classes, tiles_for(torch.device("meta"), self.operands).move.rows) if self.holds else 0

    @property
    def buffers(self) -> BufferBytes:
        """Bytes of the buffers, on a GPU of compute capability 9.0; others have more or fewer partial sums."""
        tiles, product, batch = tiles_for(torch.device("meta"), self.operands), self.operands.itemsize, self.batch
        samples = self.parts * batch * (self.dim * (2 if self.separate else 1) + 1)  # x, other embeddings; classes
        samples += batch * (6 + tiles.lanes(batch) + tiles.splits(batch, self.dim) * self.dim)  # scalars; partial sums
        products = 2 * batch * self.dim * product  # x and f·x
        scalars = 4 * self.classes + self.tile_norms
        return BufferBytes(
            mixture=self.classes * self.dim * product,
            exponentials=self.classes * pitch_of(batch) * product,
            others=_NUMBER * (samples + scalars) + products + self._exchanged,
        )

    @property
    def batch(self) -> int:
        """Samples of a forward pass, of all ranks."""
        return self.own * self.ranks

    @property
    def _exchanged(self) -> int:
        """Bytes of the buffers of collectives."""
        if self.ranks == 1:
            return 0
        embeddings, labels = Kind(torch.float32, self.dim, True), Kind(torch.int64, 0, False)
        packed = packed_bytes(self.own, [embeddings, labels, *[embeddings] * self.separate])
        sums = 2 * self.batch + (self.batch + self.own) * self.dim + self.tile_norms * self.ranks
        return packed * (1 + self.ranks) + _NUMBER * sums
