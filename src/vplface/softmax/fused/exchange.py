"""The all-gather of a fused step, whose headers the host reads only where the kinds or sizes of batches are new.

Ranks agree once on the kinds of columns and on the rows that a rank has room for. From then on a batch of these kinds
that fits is sent, in a buffer of that size, and kernels read from its header how many rows it has. So batches of any
size up to the agreed one need no look at the headers. A batch that does not fit is announced in the header of a buffer
of the agreed size. Its rank reads the headers of the others: where no batch fits, all ranks agree anew. Where others
fit, they do not know of it and have gone on, so this rank refuses its batch and goes on with them: kernels of all ranks
see that in the header and write nothing, and the step after it raises an error on all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vplface.packed_rows import HEADER_BYTES, Kind, buffer_bytes, columns_in, kinds_of
from vplface.ranks import Ranks
from vplface.softmax.fused import kernels
from vplface.softmax.fused.samples import Samples
from vplface.softmax.workspace import Workspace

_TAKEN, _REFUSED, _DOES_NOT_FIT = 0, 1, 2


class Agreement(NamedTuple):
    """Kinds and sizes of batches that no rank has to ask for.

    Attributes:
        kinds: of the columns.
        room: rows of a rank, at most.
    """

    kinds: list[Kind]
    room: int


class Exchange:
    """The exchange of batches between the ranks that share the classes of a head.

    Args:
        ranks: these ranks.
        workspace: for the buffers.
    """

    def __init__(self, ranks: Ranks, workspace: Workspace) -> None:
        self.ranks, self.workspace = ranks, workspace
        self._agreed: Agreement | None = None

    def forget(self) -> None:
        """Agree anew in the next step; on all ranks together."""
        self._agreed = None

    def gather(
        self,
        embeddings: Float[Tensor, "batch dim"],
        labels: Int[Tensor, " batch"],
        memory_embeddings: Float[Tensor, "batch dim"] | None,
        refusal: Exception | None,
        device: torch.device,
    ) -> tuple[Samples, Exception | None]:
        """The samples of all ranks, by one all-gather.

        Args:
            embeddings: of this rank.
            labels: their class ids.
            memory_embeddings: what is remembered instead of ``embeddings``, if anything.
            refusal: why this rank refuses its batch, of which then nothing is looked at.
            device: of the head.

        Returns:
            The samples, and why this rank refuses its own.

        Raises:
            OtherRankError: naming ranks that refuse their batches or have some of other kinds, where ranks agree.
            Exception: ``refusal``, there.
        """
        given = [each for each in (embeddings, labels, memory_embeddings) if each is not None]
        if self._agreed is None:
            self._agree(given, refusal, device)
        elif refusal is None and (reason := _reason_against(given, self._agreed)) is not None:
            every = self._send(self._agreed, None, _DOES_NOT_FIT, device)
            if (_header(every)[:, 1] == _DOES_NOT_FIT).all():
                self._agree(given, None, device)
            else:
                return self._samples(every, self._agreed, 0), ValueError(reason)
        assert self._agreed is not None
        taken = None if refusal is not None else [each.detach().contiguous() for each in given]
        every = self._send(self._agreed, taken, _TAKEN if refusal is None else _REFUSED, device)
        return self._samples(every, self._agreed, 0 if taken is None else len(taken[0])), refusal

    def _agree(self, given: Sequence[Tensor], refusal: Exception | None, device: torch.device) -> None:
        if refusal is not None:
            self.ranks.report_fault(device)
            raise refusal
        most = self.ranks.agree(given)
        self._agreed = Agreement(kinds_of(given), max(most, self.ranks.reserved))

    def _send(
        self, agreed: Agreement, given: Sequence[Tensor] | None, mark: int, device: torch.device
    ) -> UInt8[Tensor, "ranks bytes"]:
        """Send columns of this rank, none to send only a mark. Returns the buffers of all ranks."""
        size = buffer_bytes(agreed.room, agreed.kinds)
        own, every = (
            self.workspace.take(name, shape, torch.uint8, device)
            for name, shape in (("packed", (size,)), ("every", (self.ranks.world, size)))
        )
        packed = columns_in(own, agreed.room, agreed.kinds)
        sent = packed if given is None else given
        kernels.pack[(agreed.room,)](
            sent[0], sent[-1], sent[1], packed[0], packed[-1], packed[1], _header(own), 0 if given is None else
            len(given[0]), mark, D=agreed.kinds[0].width, SEPARATE=len(sent) == 3
        )  # fmt: skip
        self.ranks.all_gather(every, own)
        return every

    def _samples(self, every: UInt8[Tensor, "ranks bytes"], agreed: Agreement, own: int) -> Samples:
        embeddings, labels, *memory = columns_in(every, agreed.room, agreed.kinds)
        has_gradient = agreed.kinds[0].has_gradient
        return Samples(embeddings, labels, memory[0] if memory else None, own, _header(every), self.ranks, has_gradient)


def _header(buffer: UInt8[Tensor, "*ranks bytes"]) -> Int[Tensor, "*ranks numbers"]:
    return buffer[..., :HEADER_BYTES].view(torch.int64)


def _reason_against(given: Sequence[Tensor], agreed: Agreement) -> str | None:
    """Why a batch is none of those that ranks have agreed on; None if it is one."""
    kinds, rows = kinds_of(given), len(given[0])
    if kinds != agreed.kinds:
        found, expected = (", ".join(map(str, each)) for each in (kinds, agreed.kinds))
        what = f"the batch of this rank alone is of another kind than those before ({found}; before {expected})"
    elif rows > agreed.room:
        what = f"the batch of this rank alone is larger ({rows} samples) than any of the first step ({agreed.room})"
    else:
        return None
    return what + (
        ", which other ranks cannot know without a wait; let batches grow on all ranks together, or build the head with"
        ' validate="now"'
    )
