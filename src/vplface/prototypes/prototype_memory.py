"""The memory of variational prototypes, M and T, and the steps in which it is read, written and aged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from vplface.prototypes.age import CosineByAge
from vplface.prototypes.coverage import coverage
from vplface.prototypes.draw import Draw
from vplface.prototypes.injection import Injection, Injections
from vplface.prototypes.kind import kind_name, other_kind
from vplface.prototypes.memory import Memory, State, living, require_memory_dtype
from vplface.prototypes.missing import missing_memory
from vplface.prototypes.step import FinishedStep, StepPart, whole_step
from vplface.prototypes.variational import Variational, latest_samples
from vplface.ranks import Ranks

_PLAIN = "plain prototypes have no memory; build the head with variational=Variational(...)"


class PrototypeMemory(nn.Module):
    """M and T of N classes, and the steps in which they are read, written and aged.

    A step is one forward pass, or all those inside one ``micro_batches()``::

        injection = memory.begin_step(weight)  # what the step mixes into its prototypes
        memory.add(part)                       # once for each forward pass
        memory.finish_step()                   # M_y ← x and T_y ← Δt; T ← max(T − 1, 0) for the classes not seen

    The buffers are those of the kind of memory, None until memory begins. They are part of the state of the module that
    holds this one, under its own keys: see ``save`` and ``load``.

    Args:
        variational: λ, Δt, start and the kind of memory; None for plain prototypes, which only count steps.
        num_classes: N.
        embedding_dim: d.
        ranks: ranks that share the classes; None if one process has all classes.
        dtype: of M, kept when the module is cast; None for that of W.
        seed: of kinds of memory that draw.

    Attributes:
        step_count: steps taken.
        begun_at: the step whose features are the first to be remembered; None while ``start="auto"`` waits.
        delta_t: Δt; None while it is not decided.
        gathering: whether a step of several forward passes is in progress.
        by_age: agreement of memories with the next features of their classes; counted if set.
    """

    memory: Tensor | None
    timer: Tensor | None
    begun_at: int | None
    delta_t: int | None

    def __init__(
        self,
        variational: Variational | None,
        num_classes: int,
        embedding_dim: int,
        *,
        ranks: Ranks | None = None,
        dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_memory_dtype(dtype)
        self.variational = variational
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.ranks = ranks
        self.classes = range(num_classes) if ranks is None else ranks.own
        self.dtype = dtype
        self.seed = seed
        self.step_count = 0
        self.gathering = False
        self.by_age: CosineByAge | None = None
        self._reset_begin()
        for name in dict.fromkeys(("memory", "timer", *self.names)):
            self.register_buffer(name, None)
        self._reserved = False  # whether the memory was only created, and has not begun
        self._parts: list[StepPart] = []
        self._met: Injection | None = None  # the injection of the current step
        self._ended: tuple[FinishedStep, Injection | None] | None = None  # a step to remember, and its injection
        self._injections = Injections()

    @property
    def kind(self) -> Memory | None:
        """The kind of memory; None for plain prototypes."""
        return None if self.variational is None else self.variational.memory

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors of the kind of memory, including M and T; none for plain prototypes."""
        return () if self.kind is None else (*self.kind.per_class, *self.kind.shared)

    @property
    def state(self) -> State:
        """The tensors that are held, by name; empty before memory begins."""
        return {name: getattr(self, name) for name in self.names if getattr(self, name) is not None}

    @property
    def parts(self) -> int:
        """Forward passes of the step that have been added so far."""
        return len(self._parts)

    @property
    def is_later_part(self) -> bool:
        """Whether the next forward pass is a further part of the current step."""
        return self.gathering and self.parts > 0

    @property
    def has_ended(self) -> bool:
        """Whether a step is counted and not remembered yet."""
        return self._ended is not None

    @property
    def host_remembers(self) -> bool:
        """Whether ``finish_step`` has a step to remember, and the kind of memory writes it."""
        parts = [] if self.gathering else self._parts
        last = self._ended[0] if self._ended is not None else parts[-1] if parts else None
        return last is not None and last.write is None

    @property
    def remembers(self) -> bool:
        """Whether the features of the current step, or else of the next one, are remembered."""
        return self._alive or (self.begun_at is not None and self.step_count >= self.begun_at)

    @property
    def injection(self) -> Injection | None:
        """The current M, T and λ; None without memory."""
        if self.variational is None or self.memory is None or self.timer is None:
            return None
        chosen = self.variational
        read = chosen.memory.reader(self.state, Draw(self.classes, self.seed, self.step_count))
        injection = Injection(self.memory, self.timer, chosen.lam, chosen.renormalise, read)
        self._injections.add(injection)
        return injection

    def begin_step(self, weight: Tensor) -> Injection | None:
        """Begin a forward pass of a step; the memory is created if this is the first step to be remembered.

        Returns the injection of the step, the same for all its parts.

        Args:
            weight: W, whose device and type a new memory has.
        """
        self.create_if_due(weight)
        self._met = self.injection
        return self._met

    def create_if_due(self, weight: Tensor) -> None:
        """Create the memory if the current step is the first to be remembered."""
        if self.remembers:
            self._reserved = False
            if self.memory is None:
                self._fill(weight)

    def add(self, part: StepPart) -> None:
        """Add a forward pass to the current step."""
        self._parts.append(part)

    def end_step(self) -> None:
        """Count the current step, unless it is still gathering parts; ``finish_step`` remembers it."""
        if self._parts and not self.gathering:
            self._ended = whole_step(self._parts), self._met
            self._parts, self._met = [], None
            self.step_count += 1

    @torch.no_grad()
    def finish_step(self) -> FinishedStep | None:
        """Count the current step, unless that is done, and remember it.

        Returns:
            The step; None if there is none, or it is still gathering parts.
        """
        self.end_step()
        if self._ended is None:
            return None
        (step, met), self._ended = self._ended, None
        if self._alive and self.delta_t is not None:
            self._remember(step, met, self.delta_t)
        return step

    def discard_step(self) -> None:
        """Discard the parts of the current step, and a step that is not remembered yet."""
        self._parts, self._met, self._ended = [], None, None

    @contextmanager
    def micro_batches(self) -> Iterator[None]:
        """Make the forward passes inside parts of one step, which the caller finishes afterwards.

        Raises:
            RuntimeError: if nested.
        """
        if self.gathering:
            raise RuntimeError("micro_batches() is already active; it cannot be nested")
        self.gathering = True
        try:
            yield
        except BaseException:
            self.discard_step()
            raise
        finally:
            self.gathering = False

    def begin(self, delta_t: int | None = None) -> None:
        """Begin with the next step, as ``PrototypeHead.begin`` does."""
        if self.variational is None:
            raise RuntimeError(_PLAIN)
        if self.gathering:
            raise RuntimeError("begin() was called inside micro_batches(), in the middle of a step; call it after")
        if self._alive:
            raise RuntimeError(f"injection has begun at step {self.begun_at} already")
        self.begun_at, self.delta_t = self.step_count, self.variational.lifetime(delta_t)

    def create(self, weight: Tensor) -> None:
        """Create the memory, empty, before it begins, as ``PrototypeHead.create_memory`` does."""
        if self.variational is None:
            raise RuntimeError(_PLAIN)
        if self.memory is None:
            self._fill(weight)
            self._reserved = True

    def coverage(self) -> float:
        """The share of classes whose memory is alive, over all ranks, which must all call it."""
        if self.ranks is None or self.timer is None:
            return coverage(self.timer)
        return int(self.ranks.sum((living(self.timer) > 0).sum())) / self.num_classes

    def rows(self, labels: Int[Tensor, " samples"]) -> Int[Tensor, " samples"]:
        """Row numbers here from class ids, −1 for the classes of other ranks."""
        return labels if self.ranks is None else self.ranks.local(labels)

    @property
    def shared_keys(self) -> tuple[str, ...]:
        """Names under which ``save`` may store state that does not belong to classes."""
        shared = () if self.kind is None else self.kind.shared
        return "step_count", "begun_at", "delta_t", "memory_kind", *shared

    def save(self, destination: dict[str, Any], prefix: str, keep_vars: bool = False) -> None:
        """Put the state into a ``state_dict``.

        Args:
            destination: the ``state_dict``.
            prefix: of all keys.
            keep_vars: as in ``nn.Module.state_dict``.
        """
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "step_count"] = torch.tensor(self.step_count)
        if self.variational is None:
            return
        if (self.begun_at, self.delta_t) != (self.variational.start, self.variational.delta_t):
            destination[prefix + "begun_at"] = torch.tensor(-1 if self.begun_at is None else self.begun_at)
            destination[prefix + "delta_t"] = torch.tensor(-1 if self.delta_t is None else self.delta_t)
        name = kind_name(self.variational.memory)
        if self.memory is not None and name is not None:
            destination[prefix + "memory_kind"] = name

    def load(
        self,
        state: dict[str, Any],
        prefix: str,
        weight: Tensor,
        metadata: Mapping[str, Any],
        missing_keys: list[str],
        error_msgs: list[str],
    ) -> bool:
        """Load the state from a ``state_dict``, with the keys of ``save``, and remove it there.

        Args:
            state: from which the keys are removed.
            prefix: of all keys.
            weight: W, whose device and type a new memory has.
            metadata: of the module that holds the memory.
            missing_keys: keys that are missing are added.
            error_msgs: messages are added.

        Returns:
            False if the state holds a memory of another kind, and nothing else should be loaded.
        """
        self.discard_step()
        step_count = state.pop(prefix + "step_count", None)
        if step_count is None:
            missing_keys.append(prefix + "step_count")
        else:
            self.step_count = int(step_count)
        self._load_begin(state, prefix, error_msgs)
        for name in self.names:
            setattr(self, name, None)
        stored_name = state.pop(prefix + "memory_kind", None)
        if self.kind is None:
            return True
        stored = other_kind(self.kind, stored_name)
        if stored is not None and prefix + "memory" in state:
            error_msgs.append(
                f"{prefix}memory: the state holds a memory of the kind {stored}, this module has"
                f" variational.memory={type(self.kind).__name__}()"
            )
            return False
        found = {key: state.pop(key) for name in self.names if (key := prefix + name) in state}
        missing = [key for name in self.names if (key := prefix + name) not in found]
        begun = self.begun_at is not None and self.step_count > self.begun_at
        if not missing:
            self._fill(weight)
            super()._load_from_state_dict(found, prefix, metadata, False, [], [], error_msgs)
        elif begun or found:
            missing_keys.extend(missing_memory(missing))
        return True

    @property
    def _alive(self) -> bool:
        """Whether memory has begun."""
        return self.memory is not None and not self._reserved

    def _reset_begin(self) -> None:
        """Set start and Δt from ``variational``."""
        chosen = self.variational
        self.delta_t = None if chosen is None else chosen.delta_t
        self.begun_at = None if chosen is None or chosen.start == "auto" else chosen.start

    def _load_begin(self, state: dict[str, Any], prefix: str, error_msgs: list[str]) -> None:
        self._reset_begin()
        self._reserved = False
        begun_at, delta_t = (state.pop(prefix + name, None) for name in ("begun_at", "delta_t"))
        if self.variational is None:
            return
        if begun_at is not None and delta_t is not None:
            self._reserved = int(begun_at) < 0  # it waits, and a memory is one of create()
            if not self._reserved:
                self.begun_at, self.delta_t = int(begun_at), int(delta_t)
        elif self.begun_at is None and prefix + "memory" in state:
            self.begun_at = self.step_count  # saved by a module that began at a given step
            if self.delta_t is None:
                error_msgs.append(
                    f"{prefix}memory: the state has a memory and does not say Δt; give variational a delta_t"
                )

    def _fill(self, weight: Tensor) -> None:
        """Create the memory, empty, on the device of W."""
        assert self.kind is not None
        with torch.inference_mode(False):
            dtype = self.dtype or weight.dtype
            state = self.kind.empty(len(self.classes), self.embedding_dim, dtype, weight.device, self.seed)
        self._replace(state)

    def _replace(self, state: State) -> None:
        for name, tensor in state.items():
            setattr(self, name, tensor)

    def _remember(self, step: FinishedStep, met: Injection | None, delta_t: int) -> None:
        """M_y ← x and T_y ← Δt, or the update of another kind of memory."""
        assert self.kind is not None
        rows = self.rows(step.labels) if step.write is None else step.labels
        if self.by_age is not None:
            self.by_age.count(step.features, rows, met if step.write is None else self.injection, delta_t)
        if step.write is not None:
            self._injections.preserve(rows)
            step.write(step.remembered, rows, self.state["memory"], self.state["timer"], delta_t)
            return
        seen, last, is_last = latest_samples(step.labels)
        rows = torch.where(is_last, self.rows(self.kind.home(seen, self.num_classes, self.seed)), -1)
        self._injections.preserve(rows)
        state = self.state
        total = (lambda part: part) if self.ranks is None else self.ranks.sum
        self.kind.remember(state, step.remembered[last], rows, delta_t, total)
        self._replace(state)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PrototypeMemory:
        """Move to another device or type; T, statistics, and M of a type of its own keep their types."""
        for name, tensor in self.state.items():
            moved = fn(tensor)
            follows = moved.dtype == tensor.dtype or (name == "memory" and self.dtype is None)
            setattr(self, name, moved if follows else tensor.to(moved.device))
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Save nothing: the module that holds this one calls ``save``."""

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """Load nothing: the module that holds this one calls ``load``."""

    def __getstate__(self) -> dict[str, Any]:
        if self.gathering:
            raise RuntimeError(
                "a memory cannot be copied or pickled inside micro_batches(), in the middle of a step; do it after"
            )
        state = {**self.__dict__, "_met": None}
        del state["_injections"]  # those of losses that stay here
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch
        self._injections = Injections()
