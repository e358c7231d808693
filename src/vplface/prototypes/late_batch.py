"""The batch of a step of which the host reads nothing: the device finds its faults, and the next step raises them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vplface.exchange import SOUND, Agreement, Exchange, header_of, marks_of
from vplface.packed_rows import Kind, columns_in
from vplface.prototypes.batch import GlobalBatch, batch_of, columns_of
from vplface.prototypes.faults import NO_FAULT, REFUSED, SAMPLE, Faults, without_faults


# size: the tensors of a batch, and the parts of a head that look at it
def late_batch(
    embeddings: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    memory_embeddings: Float[Tensor, "batch dim"] | None,
    *,
    refusal: Exception | None,
    num_classes: int,
    weight: Float[Tensor, "rows ... dim"],
    faults: Faults,
    exchange: Exchange | None,
    step: int,
    part: int,
    with_norms: bool = False,
) -> GlobalBatch:
    """Normalise and gather the batches of all ranks, with harmless numbers in the place of those at fault.

    Args:
        embeddings: of this rank, of any length.
        labels: class ids.
        memory_embeddings: embeddings to remember instead of ``embeddings``, if any.
        refusal: what is wrong with types or shapes, if anything. One of several ranks takes the step all the same, as
            the others do, and all of them raise an error in the next step.
        num_classes: N.
        weight: W, whose type and device the features get.
        faults: of the head, which begin a step.
        exchange: with the ranks that share the classes; None for one process.
        step: number of the step.
        part: forward passes of the step before.
        with_norms: whether to return norms.

    Raises:
        Exception: ``refusal``, in one process and before ranks know each other's batches.
        OtherRankError: naming ranks whose batches are invalid or of other kinds, where ranks compare them.
    """
    if refusal is None:
        embeddings, labels, memory_embeddings, fault = without_faults(
            embeddings, labels, memory_embeddings, num_classes
        )
        columns = columns_of(embeddings, labels, memory_embeddings, weight.dtype, with_norms)
    elif exchange is None:
        raise refusal
    else:
        columns, fault = [], torch.full((), NO_FAULT, device=weight.device)
    if exchange is None:
        faults.begin(weight.device, step)
        faults.note(fault)
        return batch_of(columns, [len(labels)], with_norms)
    gathered = exchange.gather(columns, refusal, device=weight.device, pack=partial(_pack, fault), part=part)
    ranks, (buffers, agreed, refusal) = exchange.ranks, gathered
    if refusal is not None:
        columns = [_stand_in(kind, agreed.counts[ranks.rank], embeddings, weight.device) for kind in agreed.kinds]
    faults.begin(weight.device, step, (ranks.rank, agreed.room), refusal)
    faults.note(_first(marks_of(buffers), agreed.room))
    blocks = columns_in(buffers, agreed.room, agreed.kinds)
    parts = [[block[rank, :count] for block in blocks] for rank, count in enumerate(agreed.counts)]
    return batch_of(ranks.join(parts, columns, agreed.kinds), agreed.counts, with_norms)


def _pack(
    fault: Int[Tensor, ""],
    buffer: UInt8[Tensor, " bytes"],
    agreed: Agreement,
    columns: Sequence[Tensor] | None,
    mark: int,
) -> None:
    """Write the buffer that a rank sends, and as its mark the first fault of its batch, if there is one."""
    marks, blocks = header_of(buffer)[1:2], columns_in(buffer, agreed.room, agreed.kinds)
    if columns is None:
        marks.fill_(mark)
        for block, kind in zip(blocks, agreed.kinds, strict=True):
            block.fill_(_harmless(kind))
        return
    marks.copy_(torch.where(fault == NO_FAULT, SOUND, fault))
    for block, column in zip(blocks, columns, strict=True):
        block[: len(column)].copy_(column.detach())


def _harmless(kind: Kind) -> float:
    """A number that makes a unit row, or a label."""
    return kind.width**-0.5 if kind.width else float(kind.dtype.is_floating_point)


def _stand_in(kind: Kind, rows: int, embeddings: Float[Tensor, "batch dim"], device: torch.device) -> Tensor:
    """A column in the place of one that is refused, of which the backward pass gives the embeddings a gradient of 0."""
    column = torch.full((rows, kind.width) if kind.width else (rows,), _harmless(kind), dtype=kind.dtype, device=device)
    if not kind.has_gradient:
        return column
    if isinstance(embeddings, Tensor) and embeddings.requires_grad:
        return column + embeddings.flatten()[:0].sum().to(kind.dtype)
    return column.requires_grad_()


def _first(marks: Int[Tensor, " ranks"], room: int) -> Int[Tensor, ""]:
    """The first fault of all ranks, of which each has ``room`` samples."""
    before = SAMPLE * room * torch.arange(len(marks), device=marks.device)
    return torch.where(marks == SOUND, NO_FAULT, before + torch.where(marks < 0, REFUSED, marks)).amin()
