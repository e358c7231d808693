"""A batch on its way through a fused step: buffers and launches, without a read of a tensor on the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from vplface.margins import Margin
from vplface.optim import Momentum
from vplface.softmax.fused import kernels
from vplface.softmax.fused.formula import formula_of
from vplface.softmax.fused.samples import Samples
from vplface.softmax.fused.tiles import ceil_div, pitch_of, tiles_for
from vplface.softmax.workspace import Workspace

_ROWS, _BLOCK, _SAMPLES = 8, 4096, 1024
"""Rows of a program of ``prepare``; timers of one of ``remember``, which looks at so many samples at a time."""
_FEW = 16
"""Samples that ``combine`` and ``finish`` take at a time."""


@dataclass(frozen=True)
class Mixed:
    """The memory that a step mixes into its prototypes.

    Attributes:
        memory: M, [N, d].
        timer: T, [N].
        lam: λ.
        renormalise: whether u has unit length.
    """

    memory: Float[Tensor, "classes dim"]
    timer: Int[Tensor, " classes"]
    lam: float
    renormalise: bool


class FusedPass:
    """The launches of one step: ``loss``, ``backward``, ``move`` or ``hold``, ``gradient``, and ``remember``.

    Where ranks share the classes, ``backward`` starts a sum over ranks that ``gradient`` waits for. A gradient that is
    held waits for ``clip`` and ``update``.

    Args:
        workspace: whose buffers the pass uses. Those of an earlier pass are overwritten.
        samples: of the step.
        fault: into which kernels write the first fault of the batch.
        weight: W.
        margin: a margin of the cosine alone.
        mixed: memory to mix into the prototypes; None for plain ones.
        operands: type of the products, bfloat16 or float32.
        part: forward passes of the step before; what is remembered of each stays until the step ends.
    """

    def __init__(
        self,
        workspace: Workspace,
        samples: Samples,
        fault: Int[Tensor, 1],
        weight: Float[Tensor, "classes dim"],
        margin: Margin,
        mixed: Mixed | None,
        operands: torch.dtype,
        part: int = 0,
    ) -> None:
        self.workspace, self.samples, self.fault = workspace, samples, fault
        self.weight, self.margin, self.mixed, self.operands = weight, margin, mixed, operands
        self.classes, self.dim = weight.shape
        self.batch, self.ranks = len(samples), samples.ranks
        self.part = part
        self.tiles = tiles_for(weight.device, operands)
        self.precision = "tf32x3" if operands == torch.float32 else "ieee"
        self._moved = False
        self._found: Tensor | None = None  # dL/de, or where ranks share the classes dL/dx, if it is wanted
        self._sum: dist.Work | None = None  # over ranks, under way
        self._older: Tensor | None = None  # rows of M, where they are overwritten before the backward pass
        workspace.user = self

    @property
    def is_current(self) -> bool:
        """Whether the buffers hold this batch, and M is what its forward pass saw."""
        return self.workspace.user is self

    def loss(self) -> Float[Tensor, ""]:
        """Start the forward pass and return its loss."""
        with self._device():
            self._start_own()
            self._start_prepare()
            self._start_forward()
            return self._start_finish()

    def backward(self, gradient: Float[Tensor, ""], embeddings: Shaped[Tensor, "own ..."], wanted: bool) -> None:
        """Start the backward pass; where ranks share the classes, up to the sum of dL/dx over ranks.

        Args:
            gradient: dL/dloss.
            embeddings: of this process, whose type dL/de has.
            wanted: whether dL/de will be asked for; where ranks share the classes, that is agreed.
        """
        pulls = wanted if self.ranks is None else self.samples.has_gradient
        shape = self.batch, self.dim
        with self._device():
            if self.ranks is None:
                found = torch.empty(shape, dtype=embeddings.dtype, device=self.weight.device)
            else:
                found = self._take("parts", *shape)
            self._start_close(gradient, self._start_pull() if pulls else None, found)
            if pulls and self.ranks is not None:
                parts, found = found, self._take("own", self.samples.room, self.dim)
                self._sum = self.ranks.reduce_scatter(found, parts, beside=True)
            self._found = found if pulls else None

    def gradient(self, embeddings: Shaped[Tensor, "own ..."]) -> Shaped[Tensor, "own ..."] | None:
        """The gradient dL/de of the samples of this process, as many times as there are ranks; after ``backward``.

        Args:
            embeddings: of this process; their gradient is 0 if it refuses them.

        Returns:
            The gradient, None if it was not wanted.
        """
        if self._sum is not None:
            self._sum.wait()
        found, self._found = self._found, None
        if found is None or self.ranks is None:
            return found
        if self.samples.own == 0:
            return torch.zeros_like(embeddings)
        first, result = self.samples.first, torch.empty_like(embeddings, memory_format=torch.contiguous_format)
        with self._device():
            kernels.project[(self.samples.own,)](
                found, self.x[first:], self.norm[first:], self.fault, result, self.ranks.world, D=self.dim
            )
        return result

    def move(self, rule: Momentum) -> None:
        """Start the step of W; after ``backward``."""
        with self._device(), self._memory_as_seen():
            self._start_move(rule.buffer, (rule.lr, rule.momentum, rule.weight_decay))
        torch.autograd.graph.increment_version(self.weight)

    def hold(self, target: Float[Tensor, "classes dim"], adds: bool) -> Float[Tensor, " tiles"]:
        """Start writing dL/dW; after ``backward``. It is 0 if a sample is at fault.

        Args:
            target: where it is written.
            adds: whether it is added to what is there.

        Returns:
            Norms of tiles of ``target``.
        """
        most = self.classes if self.ranks is None else ceil_div(self.ranks.classes, self.ranks.world)
        self.norms = self._take("norms", ceil_div(most, self.tiles.move.rows))  # as many on all ranks
        with self._device(), self._memory_as_seen():
            self._start_move(target, (0.0, 0.0, 0.0), norms=self.norms, adds=adds)
        return self.norms

    def clip(
        self, max_norm: float, others: Float[Tensor, ""] | None, before: Float[Tensor, ""] | None
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Start clipping a gradient that is held, with those of other ranks that share the classes.

        Args:
            max_norm: c.
            others: norm of other gradients that are clipped along.
            before: factor of the gradient so far; None for 1.

        Returns:
            Norm of all gradients, and the factor of the one that is held.
        """
        norm, factor = (torch.empty((), dtype=torch.float32, device=self.weight.device) for _ in range(2))
        norms = self.norms
        with self._device():
            if self.ranks is not None:
                norms = self._take("norms of ranks", self.ranks.world, len(norms))
                self.ranks.all_gather(norms, self.norms)
            kernels.clip[(1,)](
                norms, norm if others is None else others.to(norm), norm if before is None else before, norm,
                factor, norms.numel(), float(max_norm), OTHERS=others is not None, AGAIN=before is not None,
                BLOCK=_BLOCK
            )  # fmt: skip
        return norm, factor

    def update(self, gradient: Float[Tensor, "classes dim"], factor: Float[Tensor, ""] | None, rule: Momentum) -> None:
        """Start the step of W by a gradient that was held, unless a sample is at fault.

        Args:
            gradient: dL/dW.
            factor: by which it is multiplied; None for 1.
            rule: by which W moves.
        """
        with self._device():
            kernels.update[(ceil_div(self.classes, _ROWS),)](
                self.weight, rule.buffer, gradient, gradient if factor is None else factor, self.fault, self.classes,
                rule.lr, rule.momentum, rule.weight_decay, D=self.dim, ROWS=_ROWS, SCALE=factor is not None
            )  # fmt: skip

    # size: what the samples of the step are, and where they are written
    def remember(
        self,
        remembered: Float[Tensor, "batch dim"],
        rows: Int[Tensor, " batch"],
        memory: Float[Tensor, "classes dim"],
        timer: Int[Tensor, " classes"],
        delta_t: int,
    ) -> None:
        """Start what ends the step: all timers age, and the last sample of each class writes its row.

        Args:
            remembered: unit rows, of all parts of the step.
            rows: of their classes; −1 where a label is outside.
            memory: M.
            timer: T.
            delta_t: Δt.
        """
        if not self._moved and self.mixed is not None:
            self._older = memory[self._rows]
        with self._device():
            kernels.remember[(max(ceil_div(self.classes, _BLOCK), len(rows)),)](
                remembered, rows, memory, timer, self.fault, self.classes, len(rows), delta_t, D=self.dim,
                SAMPLES=_SAMPLES, BLOCK=_BLOCK
            )  # fmt: skip

    def _start_own(self) -> None:
        samples = self.samples
        self.x = self._take(f"x {self.part}", self.batch, self.dim)
        self.operand = self._take("operand", self.batch, self.dim, dtype=self.operands)
        separate = samples.memory_embeddings is not None
        self.remembered = self._take(f"remembered {self.part}", self.batch, self.dim) if separate else self.x
        names = ("norm", "target", "slope", "share")
        self.norm, self.target, self.slope, self.share = (self._take(name, self.batch) for name in names)
        self.row = self._take(f"row {self.part}", self.batch, dtype=torch.int32)
        formula = formula_of(self.margin)
        constants = (1.0, 0.0, 0.0, 0.0, 0.0) if formula is None else formula.constants
        others = samples.embeddings if samples.memory_embeddings is None else samples.memory_embeddings
        total, first = (self.classes, 0) if self.ranks is None else (self.ranks.classes, self.ranks.own.start)
        kernels.own[(self.batch,)](
            samples.embeddings, others, samples.labels, samples.labels if samples.header is None else samples.header,
            self.weight, *self._memory(), self.x, self.operand, self.remembered, self.norm, self.target, self.slope,
            self.share, self.row, self.fault, samples.room, samples.embeddings.stride(0), others.stride(0),
            samples.labels.stride(0), total, first, self.classes, 0.0 if self.mixed is None else self.mixed.lam,
            *constants, D=self.dim, RANKS=0 if self.ranks is None else self.ranks.world, MEMORY=self.mixed is not None,
            RENORMALISE=self._renormalise, SEPARATE=separate, FORMULA=formula is not None,
            EXACT=formula is not None and formula.exact
        )  # fmt: skip
        if formula is None:
            self._apply_margin()

    def _apply_margin(self) -> None:
        """t and dt/dcosθ of a margin without a formula in the kernel, from the cosines."""
        with torch.enable_grad():
            cosine = self.target.clone().requires_grad_()
            target = self.margin.target(cosine)
            (slope,) = torch.autograd.grad(target.sum(), cosine)
        target = target.detach()
        self.target.copy_(target if self.ranks is None else torch.where(self.row >= 0, target, 0.0))
        self.slope.copy_(slope)

    def _start_prepare(self) -> None:
        self.mixture = self._take("mixture", self.classes, self.dim, dtype=self.operands)
        names = ("length", "ratio", "across", "mix")
        self.length, self.ratio, self.across, self.mix = (self._take(name, self.classes) for name in names)
        kernels.prepare[(ceil_div(self.classes, _ROWS),)](
            self.weight, *self._memory(), self.mixture, self.length, self.ratio, self.across, self.mix, self.classes,
            1.0 if self.mixed is None else max(1.0 - self.mixed.lam, 1e-15), D=self.dim, MEMORY=self.mixed is not None,
            RENORMALISE=self._renormalise, ROWS=_ROWS
        )  # fmt: skip

    def _start_forward(self) -> None:
        tile = self.tiles.forward
        programs = self.tiles.lanes(self.batch) * ceil_div(self.batch, tile.columns)
        self.sums = self._take("sums", self.tiles.lanes(self.batch), self.batch)
        self.kept = self._take("kept", self.classes, pitch_of(self.batch), dtype=self.operands)[:, : self.batch]
        inner = min(tile.inner, self.dim)
        kernels.forward[(programs,)](
            kernels.described(self.mixture, tile.rows, inner), kernels.described(self.operand, tile.columns, inner),
            kernels.described(self.kept, tile.rows, tile.columns), self.ratio, self.row, self.sums, self.classes,
            self.batch, self.margin.scale, D=self.dim, CLASSES=tile.rows, SAMPLES=tile.columns, INNER=inner,
            PROGRAMS=programs, PRECISION=self.precision, num_warps=tile.warps, num_stages=tile.stages
        )  # fmt: skip

    def _start_finish(self) -> Float[Tensor, ""]:
        sums, target, lanes = self.sums, self.target, len(self.sums)
        if self.ranks is not None:
            both = self._take("both", 2, self.batch)
            kernels.combine[(ceil_div(self.batch, _FEW),)](
                sums, target, both, lanes, self.batch, LANES=kernels.triton.next_power_of_2(lanes), SAMPLES=_FEW
            )
            self.ranks.add_(both)
            sums, target, lanes = both, both[1], 1
        self.rest, self.total = self._take("rest", self.batch), self._take("total", self.batch)
        loss = torch.empty((), dtype=torch.float32, device=self.weight.device)
        kernels.finish[(1,)](
            sums, target, self.share, self.fault, self.rest, self.total, loss, lanes, self.batch, self.margin.scale,
            LANES=kernels.triton.next_power_of_2(lanes), SAMPLES=_FEW
        )  # fmt: skip
        return loss

    def _start_pull(self) -> Float[Tensor, "splits batch dim"]:
        tile = self.tiles.pull
        columns = min(tile.columns, self.dim)
        splits = self.tiles.splits(self.batch, self.dim)
        partial = self._take("partial", splits, self.batch, self.dim)
        kernels.pull[(ceil_div(self.batch, tile.rows) * (self.dim // columns) * splits,)](
            kernels.described(self.kept, tile.inner, tile.rows), kernels.described(self.mixture, tile.inner, columns),
            partial, self.classes, self.batch, D=self.dim, SAMPLES=tile.rows, COLUMNS=columns, INNER=tile.inner,
            SPLITS=splits, PRECISION=self.precision, num_warps=tile.warps, num_stages=tile.stages
        )  # fmt: skip
        return partial

    def _start_close(
        self,
        gradient: Float[Tensor, ""],
        partial: Float[Tensor, "splits batch dim"] | None,
        result: Float[Tensor, "batch dim"],
    ) -> None:
        self.weighted = self._take("weighted", self.batch, self.dim, dtype=self.operands)
        kernels.close[(self.batch,)](
            self.x, self.row, self.norm, self.rest, self.total, self.slope, self.share, self.ratio, self.mixture,
            gradient, result if partial is None else partial, self.weighted, self.kept, result, self.fault,
            0 if partial is None else len(partial), self.batch, self.kept.stride(0), self.margin.scale, D=self.dim,
            PULL=partial is not None, PROJECT=self.ranks is None
        )  # fmt: skip

    def _start_move(
        self, target: Tensor, rates: tuple[float, float, float], norms: Tensor | None = None, adds: bool = False
    ) -> None:
        """Move W and its momentum ``target``; where there are ``norms``, hold the gradient in ``target`` instead."""
        tile = self.tiles.move
        memory, _ = self._memory()
        kernels.move[(ceil_div(self.classes, tile.rows) if norms is None else len(norms),)](
            kernels.described(self.kept, tile.rows, tile.inner), kernels.described(self.weighted, tile.inner, self.dim
            // 4), self.weight, memory, target, self.norm if norms is None else norms, self.length, self.ratio,
            self.across, self.mix, self.fault, self.classes, self.batch, *rates, D=self.dim, CLASSES=tile.rows,
            INNER=tile.inner, MEMORY=self.mixed is not None, RENORMALISE=self._renormalise, HOLD=norms is not None,
            ADD=adds, PRECISION=self.precision, num_warps=tile.warps, num_stages=tile.stages
        )  # fmt: skip
        self._moved, self.workspace.user = True, None

    def _device(self) -> AbstractContextManager[None]:
        """While active, Triton launches on the device of W."""
        guard: AbstractContextManager[None] = torch.cuda.device_of(self.weight)  # type: ignore[no-untyped-call]
        return guard

    @property
    def _rows(self) -> Int[Tensor, " batch"]:
        return self.row.clamp_min(0)

    @contextmanager
    def _memory_as_seen(self) -> Iterator[None]:
        """While active, M holds what the forward pass saw, in a step that ended before its backward pass."""
        if self.mixed is None or self._older is None:
            yield
            return
        memory, rows = self.mixed.memory, self._rows
        newer = memory[rows]
        memory[rows] = self._older
        yield
        memory[rows] = newer

    @property
    def _renormalise(self) -> bool:
        return self.mixed is not None and self.mixed.renormalise

    def _memory(self) -> tuple[Tensor, Tensor]:
        """M and T; without memory, tensors that are not read."""
        return (self.weight, self.row) if self.mixed is None else (self.mixed.memory, self.mixed.timer)

    def _take(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.workspace.take(name, shape, dtype, self.weight.device)
