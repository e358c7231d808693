"""Classes sharded over ranks, and the exchange between ranks, which never has size B×N or N×d.

In the forward pass every rank gets the features and labels of all (``gather``), works on its own classes, and adds its
sums of exponentials to those of the others (``sum``). In the backward pass every rank holds, for all samples, the part
of dL/dx that comes from its own classes; the parts are added and each rank gets those of its own samples.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx

from vplface.once import once_differentiable

_EXCHANGED = "ranks have exchanged it, outside of autograd"


def shard(classes: int, rank: int, world: int) -> range:
    """The class ids of a rank: contiguous in rank order, the first N mod world ranks have one more."""
    size, more = divmod(classes, world)
    first = rank * size + min(rank, more)
    return range(first, first + size + (rank < more))


class OtherRankError(RuntimeError):
    """The batch of another rank is invalid."""


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
    """

    def __init__(self, group: dist.ProcessGroup, classes: int) -> None:
        self.group = group
        self.rank = dist.get_rank(group)
        self.world = dist.get_world_size(group)
        self.classes = classes
        self.own = shard(classes, self.rank, self.world)

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self  # a copy of a head uses the same processes

    def __reduce__(self) -> Any:
        raise TypeError(
            "a module with a process_group cannot be pickled: the group belongs to running processes, and each has"
            " classes of its own. Save state_dict(), and load it into a module that was built with its own group"
        )

    def agree(self, count: int, fault: Exception | None, device: torch.device) -> list[int]:
        """Exchange the sizes of the local batches, and whether one is invalid: then all ranks fail together.

        Raises:
            Exception: ``fault`` itself, where there is one.
            OtherRankError: naming another rank whose batch is invalid.
        """
        own = torch.tensor([count, fault is not None], device=device)
        every = own.new_empty(self.world, 2)
        dist.all_gather(list(every), own, group=self.group)
        counts, faults = every.t().tolist()
        if fault is not None:
            raise fault
        if any(faults):
            raise OtherRankError(f"the batch of rank {faults.index(1)} is invalid; see the error of that rank")
        return list(counts)

    def gather(self, rows: Tensor, counts: list[int]) -> Tensor:
        """The rows of all ranks in rank order; each rank gets the gradient of its own rows, times the number of ranks.

        DistributedDataParallel divides the gradients of the backbone by that number.

        Args:
            rows: of this rank.
            counts: how many each rank has.
        """
        gathered: Tensor = _Gather.apply(rows, counts, self)  # type: ignore[no-untyped-call]
        return gathered

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


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, counts: list[int], ranks: Ranks) -> Tensor:
        ctx.counts, ctx.ranks = counts, ranks  # type: ignore[attr-defined]
        ctx.save_for_backward(rows)
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        every = list(rows.new_empty((ranks.world, *padded.shape)))
        dist.all_gather(every, padded, group=ranks.group)
        return torch.cat([part[:count] for part, count in zip(every, counts, strict=True)])

    @staticmethod
    @once_differentiable(_EXCHANGED)
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        counts, ranks = ctx.counts, ctx.ranks
        every = gradient.new_zeros((ranks.world, max(counts), *gradient.shape[1:]))
        for part, own in zip(every, torch.split(gradient, counts), strict=True):
            part[: len(own)] = own
        result = torch.empty_like(every[0])
        dist.reduce_scatter(result, list(every), group=ranks.group)
        return ranks.world * result[: counts[ranks.rank]], None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, part: Tensor, ranks: Ranks) -> Tensor:
        ctx.save_for_backward(part)
        total = part.clone()
        dist.all_reduce(total, group=ranks.group)
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
        dist.all_reduce(total, group=ctx.ranks.group)
        return total, None
