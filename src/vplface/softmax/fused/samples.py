"""Samples of a step as kernels read them: those of one process, or those of all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vplface.exchange import Agreement, Gathered, header_of
from vplface.packed_rows import columns_in
from vplface.ranks import Ranks
from vplface.softmax.fused import kernels


@dataclass(frozen=True)
class Samples:
    """The samples of each rank in a block of ``room`` rows; one process is one rank.

    Attributes:
        embeddings: of any length, contiguous within a rank.
        labels: global class ids.
        memory_embeddings: what is remembered instead of ``embeddings``, if anything.
        own: samples of this process.
        header: samples of each rank, and whether it refuses them; None for one process.
        ranks: that share the classes; None for one process.
        has_gradient: whether ranks exchange dL/dx; for one process that is asked in the backward pass.
    """

    embeddings: Float[Tensor, "ranks room dim"]
    labels: Int[Tensor, "ranks room"]
    memory_embeddings: Float[Tensor, "ranks room dim"] | None
    own: int
    header: Int[Tensor, "ranks numbers"] | None = None
    ranks: Ranks | None = None
    has_gradient: bool = False

    @property
    def room(self) -> int:
        """Rows of a rank."""
        return self.labels.shape[1]

    @property
    def first(self) -> int:
        """Row of the first sample of this process."""
        return 0 if self.ranks is None else self.ranks.rank * self.room

    def __len__(self) -> int:
        """Rows of all ranks."""
        return self.labels.numel()


def of_one_process(
    embeddings: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    memory_embeddings: Float[Tensor, "batch dim"] | None,
) -> Samples:
    """The samples of a head that has all classes."""

    def block(column: Tensor) -> Tensor:
        return column.detach().contiguous().unsqueeze(0)

    memory = None if memory_embeddings is None else block(memory_embeddings)
    return Samples(block(embeddings), block(labels), memory, len(labels))


def of_ranks(gathered: Gathered, ranks: Ranks, own: int) -> Samples:
    """The samples of all ranks, of which ``own`` are of this one."""
    buffers, agreed, _ = gathered
    embeddings, labels, *memory = columns_in(buffers, agreed.room, agreed.kinds)
    has_gradient = agreed.kinds[0].has_gradient
    return Samples(embeddings, labels, memory[0] if memory else None, own, header_of(buffers), ranks, has_gradient)


def pack(buffer: UInt8[Tensor, " bytes"], agreed: Agreement, columns: Sequence[Tensor] | None, mark: int) -> None:
    """Write the buffer that a rank sends, by one kernel; without columns it has no rows."""
    packed = columns_in(buffer, agreed.room, agreed.kinds)
    sent = packed if columns is None else [each.detach().contiguous() for each in columns]
    kernels.pack[(agreed.room,)](
        sent[0], sent[-1], sent[1], packed[0], packed[-1], packed[1], header_of(buffer), 0 if columns is None else
        len(sent[0]), mark, D=agreed.kinds[0].width, SEPARATE=len(sent) == 3
    )  # fmt: skip
