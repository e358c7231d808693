"""The memory that one step mixes into its prototypes, preserved for its backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor
from torch.linalg import vector_norm

from vplface import devices
from vplface.prototypes.memory import ReadRows, living
from vplface.prototypes.variational import inject


class Injection:
    """M, T and λ of a step.

    A backward pass has to see the memory that its forward pass saw, and may come after later steps have remembered
    other features. T is copied. M is too large for that: code that overwrites rows of M calls ``preserve`` first, and
    code that reads M in a backward pass does so within ``as_seen``.

    Attributes:
        memory: M, [N, d] or [N, K, d]; shared with the head, which goes on writing to it.
        timer: T, [N], as it was; of several slots the longest.
        lam: λ.
        renormalise: whether u is normalised to unit length.
    """

    def __init__(
        self,
        memory: Float[Tensor, "classes ... dim"],
        timer: Integer[Tensor, "rows ..."],
        lam: float,
        renormalise: bool = True,
        read: ReadRows | None = None,
    ) -> None:
        self.memory = memory
        self.timer = living(timer).clone()
        self.lam = lam
        self.renormalise = renormalise
        self._read = read
        self._overwritten: list[tuple[Tensor, Tensor]] = []

    def __call__(
        self, prototypes: Float[Tensor, "rows dim"], rows: Int[Tensor, " rows"] | slice = slice(None)
    ) -> Float[Tensor, "rows dim"]:
        """Variational prototypes u of the classes ``rows`` from their unit prototypes v."""
        return inject(prototypes, self.memory_rows(rows), self.timer[rows], self.lam, self.renormalise)

    def memory_rows(self, rows: Int[Tensor, " rows"] | slice) -> Float[Tensor, "rows dim"]:
        """The vectors that are injected into the classes ``rows``, in the type of ``memory``."""
        return self.memory[rows] if self._read is None else self._read(self.memory, rows)

    def of(self, rows: Int[Tensor, " rows"]) -> Injection:
        """The injection of some classes, with a copy of the injected vectors."""
        return Injection(self.memory_rows(rows), self.timer[rows], self.lam, self.renormalise)

    @torch.no_grad()
    def of_subcenters(self, weight: Float[Tensor, "classes subcenters dim"]) -> Injection:
        """The injection of all sub-centres, class by class: M_j is injected into the nearest sub-centre of its class.

        Args:
            weight: W of the classes of this injection.
        """
        classes, subcenters = weight.shape[:2]
        with devices.without_autocast(weight.device):
            along = torch.bmm(weight, self.memory_rows(slice(None)).to(weight.dtype).unsqueeze(2)).squeeze(2)
        nearest = (along / vector_norm(weight, dim=2)).argmax(1, keepdim=True)
        timer = self.timer.new_zeros(classes, subcenters).scatter_(1, nearest, self.timer.unsqueeze(1))

        def read(memory: Tensor, rows: Tensor | slice) -> Tensor:
            if isinstance(rows, slice):
                rows = torch.arange(*rows.indices(classes * subcenters), device=memory.device)
            return self.memory_rows(rows // subcenters)

        every = Injection(self.memory, timer.flatten(), self.lam, self.renormalise, read)
        every._overwritten = self._overwritten
        return every

    def preserve(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep the given rows of M before they are overwritten; a row may occur several times."""
        self._overwritten.append((rows, self.memory[rows]))

    @contextmanager
    def as_seen(self) -> Iterator[None]:
        """While active, M has the values that the forward pass saw."""
        newer = []
        for rows, older in reversed(self._overwritten):
            newer.append((rows, self.memory[rows]))
            self.memory[rows] = older
        try:
            yield
        finally:
            for rows, features in reversed(newer):
                self.memory[rows] = features


class Injections(weakref.WeakSet[Injection]):
    """Injections that somebody may still hold."""

    def preserve(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep rows of M for all of them before they are overwritten; −1 for none."""
        for injection in self:
            if len(injection.memory):  # a rank may have no class
                here = rows.clamp_min(0) if devices.reading_waits(rows.device) else rows[rows >= 0]
                injection.preserve(here.long())
