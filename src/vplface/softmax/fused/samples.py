"""Samples of a step as kernels read them: those of one process, or those of all ranks."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from vplface.ranks import Ranks


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
