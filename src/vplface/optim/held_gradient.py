"""Gradient of W between backward() and step(), in one buffer, with its norm."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import vector_norm

from vplface import devices


class HeldGradient:
    """Gradient of the rows of W that take part in a step: the sum over its backward passes.

    The norm of each tile is computed as the tile is written, and the norm of all tiles from those, in the order of the
    rows. Threads may write tiles in any order. The buffer is used again in the next step.

    Attributes:
        factor: by which the step multiplies the gradient.
    """

    def __init__(self) -> None:
        self._storage: Tensor | None = None
        self._lock = Lock()
        self.clear()

    def clear(self) -> None:
        """Forget the gradient; the buffer stays."""
        self.factor: Tensor | None = None
        self._parts: list[tuple[Tensor | None, Tensor]] = []  # rows of W, None for all; and their gradient
        self._norms: dict[int, tuple[int, Tensor]] = {}  # first row of a tile → number of rows, norms of its parts
        self._target: Tensor | None = None  # of the backward pass under way
        self._adds = False

    def begin_pass(self) -> None:
        """Prepare for the tiles of another backward pass."""
        self._require_all_rows()
        if self.factor is not None:  # what was clipped before does not clip what is added
            for _, gradient in self._parts:
                gradient *= self.factor
            self.factor = None
        self._norms, self._target = {}, None

    def write(
        self,
        weight: Float[Tensor, "classes ... dim"],
        rows: slice,
        gradient: Float[Tensor, "rows ... dim"],
        among: Int[Tensor, " drawn"] | None,
    ) -> None:
        """Add the gradient of a tile, rounded to the type of W.

        Args:
            weight: W.
            rows: of W, or of those numbered by ``among``.
            gradient: of these rows.
            among: the rows of W that take part in the step; None for all.
        """
        with self._lock:
            if self._target is None:
                self._target = self._part_of_pass(weight, among)
        held = self._target[rows]
        if self._adds:
            held += gradient
        else:
            held.copy_(gradient)
        self._norms[rows.start] = len(held), _norm(held)

    def write_all(self, weight: Float[Tensor, "classes dim"], write: Callable[[Tensor, bool], Tensor]) -> None:
        """Add the gradient of all rows.

        Args:
            weight: W.
            write: given the gradient, writes it, or adds to what is there; returns the norms of its parts.
        """
        self._target = self._part_of_pass(weight, None)
        self._norms = {0: (len(self._target), write(self._target, self._adds))}

    def norm(self) -> Float[Tensor, ""] | None:
        """Euclidean norm of the gradient, at least in float32; None where no row has one."""
        found = self.total()
        if found is None:
            return None
        norms = [self._norms[first][1] for first in sorted(self._norms)] or [_norm(found[1])]
        norm: Tensor = vector_norm(torch.cat(norms))
        return norm if self.factor is None else norm * self.factor

    def scale(self, factor: Float[Tensor, ""]) -> None:
        """Multiply the gradient by a factor, which the step will apply."""
        self.factor = factor if self.factor is None else self.factor * factor

    def total(self) -> tuple[Int[Tensor, " drawn"] | None, Float[Tensor, "rows ... dim"]] | None:
        """Rows of W, None for all and −1 for none, and their gradient without the factor; None where no row has one.

        Raises:
            RuntimeError: if the last backward pass did not reach all rows.
        """
        self._require_all_rows()
        if len(self._parts) > 1:  # each pass has drawn other rows
            every = torch.cat([among for among, _ in self._parts if among is not None])
            waits = devices.reading_waits(every.device)
            rows: Tensor = every.sort().values if waits else torch.unique(every)
            first = self._parts[0][1]
            gradient = first.new_zeros((len(rows), *first.shape[1:]))
            for among, part in self._parts:
                assert among is not None
                gradient.index_add_(0, torch.searchsorted(rows, among), part)
            if waits:
                rows = torch.where(torch.cat([rows.new_ones(1, dtype=torch.bool), rows[1:] != rows[:-1]]), rows, -1)
            self._parts = [(rows, gradient)]
            self._norms, self._target = {0: (len(rows), _norm(gradient))}, gradient
        return self._parts[0] if self._parts else None

    def _part_of_pass(self, weight: Tensor, among: Tensor | None) -> Tensor:
        """Where a backward pass writes: rows of its own where it has drawn some, else those of the pass before."""
        self._adds = among is None and bool(self._parts)
        if self._adds:
            return self._parts[0][1]
        shape = torch.Size((len(weight) if among is None else len(among), *weight.shape[1:]))
        buffer = weight.new_empty(shape) if self._parts else self._stored(weight, shape.numel()).view(shape)
        self._parts.append((among, buffer))
        return buffer

    def _stored(self, weight: Tensor, size: int) -> Tensor:
        known = self._storage
        if known is None or len(known) < size or known.dtype != weight.dtype or known.device != weight.device:
            self._storage = known = weight.new_empty(size)
        return known[:size]

    def _require_all_rows(self) -> None:
        if self._target is not None and sum(rows for rows, _ in self._norms.values()) != len(self._target):
            raise RuntimeError(
                "the gradient of W is incomplete: a backward pass has ended early; call optimizer.zero_grad() and take"
                " the step again"
            )


def _norm(rows: Tensor) -> Float[Tensor, 1]:
    norm: Tensor = vector_norm(rows, dtype=torch.promote_types(rows.dtype, torch.float32))
    return norm.view(1)
