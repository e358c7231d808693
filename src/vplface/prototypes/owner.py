"""The base of modules that hold a memory of prototypes: the public names of the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from vplface.prototypes.age import CosineByAge, MeanCosine, cosine_by_age
from vplface.prototypes.injection import Injection
from vplface.prototypes.prototype_memory import PrototypeMemory
from vplface.prototypes.step import FinishedStep
from vplface.prototypes.variational import Variational
from vplface.ranks import Ranks


class MemoryOwner(nn.Module):
    """A module that holds a ``PrototypeMemory`` of the weight W of a classifier.

    A subclass has ``weight``, ``ranks`` and ``prototype_memory``, and may override ``_after_step``.
    """

    weight: nn.Parameter
    ranks: Ranks | None
    prototype_memory: PrototypeMemory

    @property
    def variational(self) -> Variational | None:
        """λ, Δt, start, and the kind of memory; None for plain prototypes."""
        return self.prototype_memory.variational

    @property
    def memory(self) -> Float[Tensor, "classes ... dim"] | None:
        """M, [N, d] or [N, K, d], unit rows where the timer is positive; None until memory begins."""
        return self._settle().memory

    @memory.setter
    def memory(self, memory: Float[Tensor, "classes ... dim"] | None) -> None:
        self._settle().memory = memory

    @property
    def timer(self) -> Integer[Tensor, "classes ..."] | None:
        """T, [N] or [N, K], int32: for how many steps a class will still be injected; None until memory begins."""
        return self._settle().timer

    @timer.setter
    def timer(self, timer: Integer[Tensor, "classes ..."] | None) -> None:
        self._settle().timer = timer

    @property
    def step_count(self) -> int:
        """Number of steps taken."""
        return self.prototype_memory.step_count

    @step_count.setter
    def step_count(self, count: int) -> None:
        self.prototype_memory.step_count = count

    @property
    def begun_at(self) -> int | None:
        """The step whose features are the first to be remembered; None while ``start="auto"`` waits."""
        return self.prototype_memory.begun_at

    @property
    def delta_t(self) -> int | None:
        """Δt; None while it is not decided."""
        return self.prototype_memory.delta_t

    @property
    def by_age(self) -> CosineByAge | None:
        """Agreement of memories with the next features of their classes; counted if set."""
        return self.prototype_memory.by_age

    @by_age.setter
    def by_age(self, counted: CosineByAge | None) -> None:
        self.prototype_memory.by_age = counted

    @property
    def memory_dtype(self) -> torch.dtype | None:
        """Type of M; None for that of W."""
        return self.prototype_memory.dtype

    @property
    def remembers(self) -> bool:
        """Whether the features of the current step, or else of the next one, are remembered."""
        return self.prototype_memory.remembers

    @property
    def injection(self) -> Injection | None:
        """M, T and λ of the current step, or else of the next one; None without memory."""
        return self._settle().injection

    def finish_step(self) -> None:
        """Remember the current step, unless that is done or ``micro_batches()`` is active.

        The next step, and any access to the memory, call this automatically.
        """
        with torch.inference_mode(False), torch.no_grad():  # so that the memory can be trained with
            step = self.prototype_memory.finish_step()
            if step is not None:
                self._after_step(step)

    @contextmanager
    def micro_batches(self) -> Iterator[None]:
        """Make the forward passes inside one step: all see the same memory, which is written and aged once, at the end.

        Raises:
            RuntimeError: if nested.
        """
        self.finish_step()
        with self.prototype_memory.micro_batches():
            yield
        self._end_step()

    def begin(self, delta_t: int | None = None) -> None:
        """Begin to remember with the next step; with a process group all ranks have to do so together.

        The step and Δt are part of ``state_dict`` where ``variational`` does not say them.

        Args:
            delta_t: Δt; None takes that of ``variational``.

        Raises:
            ValueError: if Δt is not given, or is less than a step.
            RuntimeError: for plain prototypes, inside ``micro_batches()``, or if injection has begun before.
        """
        self.finish_step()
        self.prototype_memory.begin(delta_t)

    def create_memory(self) -> None:
        """Create the memory, empty, before it begins: ``state_dict()`` then has a place for one that is to be loaded.

        For loaders that fill existing tensors, such as ``torch.distributed.checkpoint``, if the checkpoint was saved
        after injection began. This does not start the memory, and an empty memory changes no prototype.

        Raises:
            RuntimeError: for plain prototypes.
        """
        self.prototype_memory.create(self.weight)

    def coverage(self) -> float:
        """The share of classes whose memory is alive, over all ranks that share them, all of which must call it."""
        self.finish_step()
        return self.prototype_memory.coverage()

    def cosine_by_age(self) -> dict[int, MeanCosine]:
        """The agreement that ``by_age`` has counted since the last call, over all ranks, which must all call it."""
        self.finish_step()
        if self.by_age is None or self.delta_t is None:
            return {}
        sums, counts = self.by_age_total()
        self.by_age.clear()
        return cosine_by_age(sums, counts, self.delta_t)

    def by_age_total(self) -> tuple[Int[Tensor, " bins"], Int[Tensor, " bins"]]:
        """Sums and counts of ``by_age`` over all ranks, which must all call it."""
        self.finish_step()
        assert self.by_age is not None
        both = torch.stack([self.by_age.sums, self.by_age.counts]).to(self.weight.device)
        sums, counts = both if self.prototype_memory.ranks is None else self.prototype_memory.ranks.sum(both)
        return sums, counts

    def _settle(self) -> PrototypeMemory:
        """Remember the last step if it has ended. Returns the memory."""
        if self.prototype_memory.has_ended:
            self.finish_step()
        return self.prototype_memory

    def _end_step(self) -> None:
        """End a step; a subclass may remember it later."""
        self.finish_step()

    def _after_step(self, step: FinishedStep) -> None:
        """Update further state after a step has been remembered."""

    def __getattr__(self, name: str) -> Any:
        """Look up ``memory_NAME``, further tensors of the kind of memory, in the memory."""
        if name.startswith("memory_") and name in self.prototype_memory.names:
            return getattr(self._settle(), name)
        return super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        self.finish_step()
        return self.__dict__.copy()
