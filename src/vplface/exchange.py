"""The all-gather of a training step, whose headers the host reads only where the kinds or sizes of batches are new.

Ranks agree once on the kinds of columns and on their sizes. From then on a batch that fits is sent in a buffer of the
agreed size, and the host reads no header. What fits depends on who looks at the buffers. Kernels that read from the
header how many rows a rank has take any batch up to the size that was agreed on. Tensors of a fixed size need the sizes
of all ranks themselves; these are agreed on for each forward pass of a step, unless ``Ranks.sizes`` gives them.

A batch that does not fit is announced in the header of a buffer of the agreed size. Its rank reads the headers of the
others: where no batch fits, all ranks agree anew. Where others fit, they do not know of it and have gone on, so this
rank refuses its batch and goes on with them: the devices of all ranks see that in the header and write nothing, and the
step after it raises an error on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Int, Shaped, UInt8
from torch import Tensor

from vplface.packed_rows import HEADER_BYTES, Kind, buffer_bytes, kinds_of
from vplface.ranks import Ranks

SOUND, REFUSED, DOES_NOT_FIT = 0, -1, -2
"""Marks in a header. A device may write the first fault of a batch there, which is positive."""


class Agreement(NamedTuple):
    """Kinds and sizes of batches that no rank has to ask for.

    Attributes:
        kinds: of the columns.
        counts: rows of each rank.
        room: rows of a rank that a buffer holds.
    """

    kinds: list[Kind]
    counts: list[int]
    room: int


class Gathered(NamedTuple):
    """The buffers of all ranks.

    Attributes:
        buffers: of each rank.
        agreed: how they are laid out.
        refusal: why this rank refuses its own batch; None if it does not.
    """

    buffers: UInt8[Tensor, "ranks bytes"]
    agreed: Agreement
    refusal: Exception | None


Pack: TypeAlias = Callable[[UInt8[Tensor, " bytes"], Agreement, Sequence[Tensor] | None, int], None]
"""Writes columns and a mark into a buffer of the agreed size. Without columns the batch has to be harmless."""

Take: TypeAlias = Callable[[str, tuple[int, ...], torch.dtype, torch.device], Tensor]
"""Gives a tensor by its name, shape, type and device, whose contents are whatever was left there."""


def _new(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


class Exchange:
    """The exchange of batches between the ranks that share the classes of a head. Copies agree anew.

    Args:
        ranks: these ranks.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._agreed: dict[int | None, Agreement] = {}
        self._refusal: Exception | None = None  # of the next batch

    def forget(self) -> None:
        """Agree anew in the next step; on all ranks together."""
        self._agreed.clear()

    def refuse_next(self, reason: Exception) -> None:
        """Refuse the next batch of this rank, whatever it is."""
        self._refusal = reason

    def gather(
        self,
        columns: Sequence[Shaped[Tensor, "rows ..."]],
        refusal: Exception | None,
        *,
        device: torch.device,
        pack: Pack,
        part: int | None = None,
        take: Take = _new,
    ) -> Gathered:
        """The batches of all ranks, by one all-gather.

        Args:
            columns: of this rank.
            refusal: why this rank refuses its batch, of which then nothing is looked at.
            device: of the head.
            pack: writes the buffer of this rank.
            part: number of the forward pass in its step, whose sizes are ``Ranks.sizes`` or those that were agreed on
                for it; None for any sizes up to the largest.
            take: gives the buffers, which may stay from step to step.

        Raises:
            OtherRankError: naming ranks that refuse their batches or have some of other kinds, where ranks agree.
            Exception: ``refusal``, there.
        """
        refusal, self._refusal = refusal or self._refusal, None
        send = partial(self._send, part, device=device, pack=pack, take=take)
        self._take_given_sizes(part)
        if part not in self._agreed:
            self._agree(part, columns, refusal, device)
        elif refusal is None and (reason := self._reason_against(columns, part)) is not None:
            every = send(None, DOES_NOT_FIT)
            if not (marks_of(every) == DOES_NOT_FIT).all():
                return Gathered(every, self._agreed[part], ValueError(reason))
            self._agree(part, columns, None, device)
        sent, mark = (columns, SOUND) if refusal is None else (None, REFUSED)
        return Gathered(send(sent, mark), self._agreed[part], refusal)

    def _take_given_sizes(self, part: int | None) -> None:
        counts = self.ranks.sizes
        if part is not None and part in self._agreed and counts is not None:
            self._agreed[part] = Agreement(self._agreed[part].kinds, counts, max(counts))

    def _agree(
        self, part: int | None, columns: Sequence[Tensor], refusal: Exception | None, device: torch.device
    ) -> None:
        if refusal is not None:
            self.ranks.report_fault(device)
            raise refusal
        counts = self.ranks.agree(columns)
        self._agreed[part] = Agreement(kinds_of(columns), counts, max(*counts, self.ranks.reserved))

    def _reason_against(self, columns: Sequence[Tensor], part: int | None) -> str | None:
        """Why a batch is none of those that ranks have agreed on; None if it is one."""
        agreed, kinds, rows = self._agreed[part], kinds_of(columns), len(columns[0])
        before, remedy = agreed.counts[self.ranks.rank], "let batches change on all ranks together"
        if kinds != agreed.kinds:
            found, expected = (", ".join(map(str, each)) for each in (kinds, agreed.kinds))
            what = f"is of another kind than those before ({found}; before {expected})"
        elif part is None and rows > agreed.room:
            what = f"is larger ({rows} samples) than any of the first step ({agreed.room})"
            remedy += ", reserve room by head.ranks.reserved"
        elif part is not None and rows != before:
            what = f"is of another size ({rows} samples) than those before ({before})"
            remedy += ", give the sizes of all by head.ranks.sizes"
        else:
            return None
        return (
            f"the batch of this rank alone {what}, which other ranks cannot know without a wait; {remedy}, or build the"
            ' head with validate="now"'
        )

    def _send(
        self,
        part: int | None,
        columns: Sequence[Tensor] | None,
        mark: int,
        *,
        device: torch.device,
        pack: Pack,
        take: Take,
    ) -> UInt8[Tensor, "ranks bytes"]:
        """Send columns of this rank, none to send only a mark. Returns the buffers of all ranks."""
        agreed = self._agreed[part]
        size = buffer_bytes(agreed.room, agreed.kinds)
        own, every = (
            take(name, shape, torch.uint8, device)
            for name, shape in (("packed", (size,)), ("every", (self.ranks.world, size)))
        )
        pack(own, agreed, columns, mark)
        self.ranks.all_gather(every, own)
        return every

    def __reduce__(self) -> tuple[Any, ...]:
        return Exchange, (self.ranks,)


def header_of(buffer: UInt8[Tensor, "*ranks bytes"]) -> Int[Tensor, "*ranks numbers"]:
    """The numbers of a header: rows, a mark, and others that nobody reads."""
    return buffer[..., :HEADER_BYTES].view(torch.int64)


def marks_of(buffers: UInt8[Tensor, "ranks bytes"]) -> Int[Tensor, " ranks"]:
    """The mark of each rank."""
    return header_of(buffers)[:, 1]
