"""Classes sharded over ranks, and the exchange between ranks, which never has size B×N or N×d.

In the forward pass every rank gets the features and labels of all (``gather``), works on its own classes, and adds its
sums of exponentials to those of the others (``sum``). In the backward pass every rank holds, for all samples, the part
of dL/dx that comes from its own classes; the parts are added and each rank gets those of its own samples. That is one
all-gather, one all-reduce and one reduce-scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.utils.rnn import pad_sequence

from vplface.once import once_differentiable
from vplface.packed_rows import HEADER_BYTES, Kind, columns_in, header_numbers, kinds_in, kinds_of

_EXCHANGED = "ranks have exchanged it, outside of autograd"


def shard(classes: int, rank: int, world: int) -> range:
    """The class ids of a rank: contiguous in rank order, the first N mod world ranks have one more."""
    size, more = divmod(classes, world)
    first = rank * size + min(rank, more)
    return range(first, first + size + (rank < more))


class OtherRankError(RuntimeError):
    """The batch of another rank is invalid, or of another kind than here."""


class Ranks:
    """The processes that share N classes.

    Args:
        group: the process group.
        classes: N.

    Attributes:
        rank: of this process in the group.
        world: processes in the group.
        classes: N.
        own: class ids of this rank.
        reserved: rows of a rank that a fused step has room for, at least; the same on all ranks.
        sizes: rows of each rank in the next forward pass, where the host knows them without asking a device; the same
            on all ranks. None: as they were in the step before.
    """

    def __init__(self, group: dist.ProcessGroup, classes: int) -> None:
        self.group = group
        self.rank = dist.get_rank(group)
        self.world = dist.get_world_size(group)
        self.classes = classes
        self.own = shard(classes, self.rank, self.world)
        self.reserved = 0
        self.sizes: list[int] | None = None
        self._room = 0  # bytes for columns in the buffers of a gather, the same on all ranks

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self  # a copy of a head uses the same processes

    def __reduce__(self) -> Any:
        raise TypeError(
            "a module with a process_group cannot be pickled: the group belongs to running processes, and each has"
            " classes of its own. Save state_dict(), and load it into a module that was built with its own group"
        )

    def gather(self, *columns: Shaped[Tensor, "rows ..."]) -> tuple[list[Tensor], list[int]]:
        """The rows of all ranks in rank order, and how many each rank has.

        This is one all-gather of equal buffers, whose size all ranks know from the gather before. Where the rows of a
        rank do not fit, a second all-gather follows, of larger buffers.

        Each rank gets the gradient of its own rows, times the number of ranks, by one reduce-scatter for all columns.
        DistributedDataParallel divides the gradients of the backbone by that number.

        Args:
            columns: at most four vectors or matrices with as many rows as this rank has. Types, widths and whether
                there is a gradient must be those of the other ranks.

        Raises:
            OtherRankError: naming other ranks, that reported a fault or have columns of other kinds.
        """
        kinds = kinds_of(columns)
        buffers, counts = self._gather_buffers(columns, kinds)
        parts = [columns_in(buffer, count, kinds) for buffer, count in zip(buffers, counts, strict=True)]
        return self.join(parts, columns, kinds), counts

    def join(self, parts: Sequence[Sequence[Tensor]], columns: Sequence[Tensor], kinds: Sequence[Kind]) -> list[Tensor]:
        """Copy the rows of all ranks behind each other, with the gradient that ``gather`` gives.

        Args:
            parts: columns of each rank, as they were gathered.
            columns: of this rank, which get the gradient.
            kinds: of the columns.
        """
        gathered = [torch.cat(column) for column in zip(*parts, strict=True)]
        moving = [place for place, kind in enumerate(kinds) if kind.has_gradient]
        if moving:
            counts = [len(first) for first, *_ in parts]
            constants, own = [gathered[place] for place in moving], [columns[place] for place in moving]
            for place, column in zip(moving, _Gather.apply(self, counts, constants, *own), strict=True):  # type: ignore[no-untyped-call]
                gathered[place] = column
        return gathered

    def report_fault(self, device: torch.device) -> None:
        """Take part in the ``gather`` of the other ranks without rows: all of them raise ``OtherRankError``."""
        self._all_gather(header_numbers(0, True, []), [], device)

    def agree(self, columns: Sequence[Tensor]) -> list[int]:
        """Compare the kinds of columns with those of the other ranks; returns the rows of each rank.

        Raises:
            OtherRankError: as ``gather`` does.
        """
        own = header_numbers(len(columns[0]), False, kinds_of(columns))
        _, headers = self._all_gather(own, [], columns[0].device)
        _require_valid(headers, own)
        return [header[0] for header in headers]

    def all_gather(self, every: Shaped[Tensor, "ranks ..."], own: Tensor) -> None:
        """Write what each rank has into ``every``, in rank order."""
        # all_gather_single is the name from torch 2.13 on
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        gather(every.view(-1), own.view(-1), group=self.group)

    def add_(self, part: Tensor) -> None:
        """Replace a part by its sum over ranks, outside of autograd."""
        dist.all_reduce(part, group=self.group)

    def reduce_scatter(
        self, own: Shaped[Tensor, "rows ..."], parts: Shaped[Tensor, "every ..."], *, beside: bool = False
    ) -> dist.Work | None:
        """Write the rows of this rank in the sum of ``parts`` over ranks into ``own``.

        Args:
            own: rows of this rank.
            parts: rows of all ranks, in rank order.
            beside: return at once the work that has to be waited for.
        """
        # reduce_scatter_single is the name from torch 2.13 on
        scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        work: dist.Work | None = scatter(own, parts, group=self.group, async_op=beside)
        return work

    def _gather_buffers(self, columns: Sequence[Tensor], kinds: list[Kind]) -> tuple[Sequence[Tensor], list[int]]:
        """The buffers of all ranks, and the rows in each of them."""
        rows = len(columns[0])
        own = header_numbers(rows, False, kinds)
        while True:
            fits = sum(kind.block_bytes(rows) for kind in kinds) <= self._room
            buffers, headers = self._all_gather(own, columns if fits else [], columns[0].device)
            _require_valid(headers, own)
            counts = [header[0] for header in headers]
            room, needed = self._room, sum(kind.block_bytes(max(counts)) for kind in kinds)
            if needed > room or 4 * needed < 3 * room:  # not for every batch that is a little smaller
                self._room = needed
            if needed <= room:
                return buffers, counts

    def _all_gather(
        self, header: list[int], columns: Sequence[Tensor], device: torch.device
    ) -> tuple[Sequence[Tensor], list[list[int]]]:
        """Send a header and columns of this rank. Returns the buffers of all ranks, and their headers."""
        buffer = torch.empty(HEADER_BYTES + self._room, dtype=torch.uint8, device=device)
        buffer[:HEADER_BYTES].view(torch.int64).copy_(torch.tensor(header))
        for block, column in zip(columns_in(buffer, header[0], kinds_of(columns)), columns, strict=True):
            block.copy_(column.detach())
        every = buffer.new_empty(self.world, len(buffer))
        self.all_gather(every, buffer)
        return every.unbind(), every[:, :HEADER_BYTES].view(torch.int64).tolist()

    def sum(self, part: Tensor) -> Tensor:
        """The sum over ranks; each rank gets the gradient of its own part."""
        total: Tensor = _Sum.apply(part, self)  # type: ignore[no-untyped-call]
        return total

    def spread(self, value: Tensor) -> Tensor:
        """A value that is equal on all ranks; its gradient is the sum over ranks."""
        spread: Tensor = _Spread.apply(value, self)  # type: ignore[no-untyped-call]
        return spread

    def largest(self, part: Tensor) -> Tensor:
        """The maximum over ranks, element by element; it has no gradient."""
        result = part.detach().clone()
        dist.all_reduce(result, dist.ReduceOp.MAX, group=self.group)
        return result

    def local(self, labels: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Local row numbers of class ids; −1 for the classes of other ranks."""
        return torch.where((labels >= self.own.start) & (labels < self.own.stop), labels - self.own.start, -1)

    def cross_entropy(
        self,
        logits: Float[Tensor, "batch rows"],
        samples: Int[Tensor, " own"],
        rows: Int[Tensor, " own"],
        negatives: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy over the logits of all ranks.

        Args:
            logits: of the classes of this rank.
            samples: samples whose own class is on this rank.
            rows: the local row number of that class.
            negatives: one more logit for each sample, which is counted once, not once per rank.
        """
        target = self.sum(logits.new_zeros(len(logits)).index_put((samples,), logits[samples, rows]))
        lowest = logits.new_full((len(logits), 1), -torch.inf)
        top = self.largest(torch.cat([logits, lowest], 1).amax(1))
        if negatives is not None:
            top = torch.maximum(top, negatives.detach())
        total = self.sum((logits - top.unsqueeze(1)).exp().sum(1))
        if negatives is not None:
            total = total + (negatives - top).exp()
        return (total.log() + top - target).mean()


def _require_valid(headers: list[list[int]], own: list[int]) -> None:
    """Refuse faults of other ranks, and columns of several kinds."""
    faults = [rank for rank, header in enumerate(headers) if header[1]]
    if faults:
        raise OtherRankError(f"the batch of rank {faults[0]} is invalid; see the error of that rank")
    if all(header[1:] == own[1:] for header in headers):
        return
    ranks_of: dict[str, list[str]] = {}
    for rank, header in enumerate(headers):
        ranks_of.setdefault(", ".join(map(str, kinds_in(header))), []).append(str(rank))
    found = "; ".join(f"rank {', '.join(ranks)}: {kinds}" for kinds, ranks in ranks_of.items())
    raise OtherRankError(
        f"ranks exchange batches of different kinds ({found}); use equal types, sizes and arguments on all ranks, and"
        " gradients on all or none"
    )


class _Gather(torch.autograd.Function):
    """Gives gathered columns the gradient of the rows here."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, ranks: Ranks, counts: list[int], gathered: list[Tensor], *own: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.ranks, ctx.counts = ranks, counts  # type: ignore[attr-defined]
        ctx.save_for_backward(*own)
        return tuple(gathered)

    @staticmethod
    @once_differentiable(_EXCHANGED)
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ranks, counts = ctx.ranks, ctx.counts
        widest = reduce(torch.promote_types, (each.dtype for each in gradients))
        flat = torch.cat([each.reshape(len(each), -1).to(widest) for each in gradients], 1)
        padded = pad_sequence(list(torch.split(flat, counts)), batch_first=True)
        total = flat.new_empty(padded.shape[1:])
        ranks.reduce_scatter(total, padded.flatten(0, 1))
        own = torch.split(ranks.world * total[: counts[ranks.rank]], [each[0].numel() for each in gradients], 1)
        columns = [part.view(-1, *each.shape[1:]).to(each.dtype) for part, each in zip(own, gradients, strict=True)]
        return None, None, None, *columns


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, part: Tensor, ranks: Ranks) -> Tensor:
        ctx.save_for_backward(part)
        total = part.clone()
        ranks.add_(total)
        return total

    @staticmethod
    @once_differentiable(_EXCHANGED)
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor, ranks: Ranks) -> Tensor:
        ctx.save_for_backward(value)
        ctx.ranks = ranks  # type: ignore[attr-defined]
        return value.view_as(value)

    @staticmethod
    @once_differentiable(_EXCHANGED)
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone()
        ctx.ranks.add_(total)
        return total, None
