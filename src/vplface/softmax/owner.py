"""The base of heads that hold a memory: how their softmax is computed, and their fused steps."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from vplface import devices
from vplface.exchange import Exchange
from vplface.gradient_hooks import before_backward
from vplface.margins import Margin
from vplface.margins.sample import sample_margin
from vplface.optim import PrototypeSGD
from vplface.prototypes.batch import GlobalBatch, check_batch, check_shapes, gather_batch
from vplface.prototypes.faults import Faults
from vplface.prototypes.late_batch import late_batch
from vplface.prototypes.owner import MemoryOwner
from vplface.softmax import Backend, implementation_of
from vplface.softmax.fused.conditions import reason_against_fused
from vplface.softmax.fused.step import FusedStep
from vplface.softmax.head_softmax import HeadSoftmax, require_sample_rate


class SoftmaxOwner(MemoryOwner):
    """A module that holds a ``HeadSoftmax`` and takes a fused step where it can."""

    num_classes: int
    embedding_dim: int
    margin: Margin
    optimizer: PrototypeSGD | None
    validate: Literal["late", "now"]
    terms: Any
    _softmax: HeadSoftmax
    _faults: Faults
    _exchange: Exchange | None
    _fused_step: FusedStep

    @property
    def backend(self) -> Literal["auto"] | Backend:
        """The backend that computes the softmax."""
        return self._softmax.backend

    @property
    def sample_rate(self) -> float:
        """Share of the classes that a step compares with, in (0, 1]; it may be set between steps."""
        return self._softmax.sample_rate

    @sample_rate.setter
    def sample_rate(self, rate: float) -> None:
        self._softmax.sample_rate = require_sample_rate(rate)

    @property
    def interclass_threshold(self) -> float | None:
        """Cosine above which another class is left out of the softmax of a sample."""
        return self._softmax.interclass_threshold

    @property
    def workspace_bytes(self) -> int:
        """Bytes that ``workspace_mb`` allows."""
        return self._softmax.workspace.limit

    @property
    def skipped_mass(self) -> float:
        """The largest share of a sample's probability that the last backward pass left out; 0 without a filter."""
        return 0.0 if self._softmax.filter is None else self._softmax.filter.skipped

    @property
    def takes_fused_step(self) -> bool:
        """Whether a training step is a fused one."""
        return self._reason_against_fused() is None

    @property
    def _world(self) -> int:
        """Number of ranks that share the classes."""
        return 1 if self.ranks is None else self.ranks.world

    @property
    def implementation(self) -> str:
        """How a training step computes the softmax: ``"triton (fused step)"``, ``"tiled (numba)"``."""
        chosen = implementation_of(self.backend, self.weight.device)
        if chosen != "triton":
            return chosen
        reason = self._reason_against_fused()
        return "triton (fused step)" if reason is None else f"triton (no fused step: {reason})"

    def _reason_against_fused(self) -> str | None:
        return reason_against_fused(
            self.weight,
            softmax=self._softmax,
            margin=self.margin,
            variational=self.variational,
            optimizer=self.optimizer,
            terms=self.terms,
            ranks=self.ranks,
        )

    def _fused_loss(self, embeddings: Tensor, labels: Tensor, memory_embeddings: Tensor | None) -> Float[Tensor, ""]:
        """The loss of a step whose kernels check the batch and write W, M and T."""
        self._begin_step()
        assert self.optimizer is not None
        loss = self._fused_step.loss(
            embeddings,
            labels,
            memory_embeddings,
            refusal=self._reason_to_refuse(embeddings, labels, memory_embeddings),
            weight=self.weight,
            margin=self.margin,
            memory=self.prototype_memory,
            optimizer=self.optimizer,
            wait=self.validate == "now",
            end=self.finish_step,
        )
        return self._ready_for_backward(loss, fused=True)

    def _ready_for_backward(self, loss: Float[Tensor, ""], *, fused: bool = False, late: bool = False) -> Tensor:
        """The loss of a step, whose backward pass begins with ``_begin_backward``; NaN if the device finds a fault."""
        loss = self._faults.nan_if_any(loss) if late else loss
        return before_backward(loss, partial(self._begin_backward, self.weight._version, fused=fused, late=late))

    def _checks_late(self, *tensors: Tensor | None) -> bool:
        """Whether the device checks a batch that takes no fused step, so that the host does not wait for it."""
        device = self.weight.device
        together = all(isinstance(each, Tensor) and each.device == device for each in tensors if each is not None)
        late = self.validate == "late" and devices.reading_waits(device)
        return late and (together or self.ranks is not None)  # ranks decide alike, whatever their batches

    def _gather(
        self, embeddings: Tensor, labels: Tensor, memory_embeddings: Tensor | None, *, late: bool
    ) -> GlobalBatch:
        """The batch of all ranks; where the device checks it, the step has begun then."""
        classes, with_norms = self.num_classes, sample_margin(self.margin).uses_norms
        if not late:
            return gather_batch(
                embeddings,
                labels,
                memory_embeddings,
                num_classes=classes,
                weight=self.weight,
                ranks=self.ranks,
                with_norms=with_norms,
            )
        self._begin_step()
        given: list[Any] = [embeddings, labels, memory_embeddings]  # any of which may be no tensor
        given = [each.to(self.weight.device) if isinstance(each, Tensor) else each for each in given]
        return late_batch(
            *given,
            refusal=self._reason_to_refuse(*given),
            num_classes=classes,
            weight=self.weight,
            faults=self._faults,
            exchange=self._exchange,
            step=self.step_count,
            part=self.prototype_memory.parts,
            with_norms=with_norms,
        )

    def finish_step(self) -> None:
        """Remember the current step, unless that is done or ``micro_batches()`` is active.

        The next step, and any access to the memory, call this automatically. A step in which the device has found a
        fault is discarded; the next step raises the fault.
        """
        if self._faults.unseen and self.prototype_memory.host_remembers and self._faults.look(self.num_classes):
            self._discard_step()
        super().finish_step()

    def _discard_step(self) -> None:
        """Discard a step at fault; other ranks do not see a fault of the loss, and all of them remember the step."""
        if self.ranks is None or not self._faults.is_of_loss:
            self.prototype_memory.discard_step()

    def _end_step(self) -> None:
        """End a step; it is remembered once the host has seen that the device has found no fault."""
        if self._faults.unseen and self.prototype_memory.host_remembers:
            self.prototype_memory.end_step()
        else:
            self.finish_step()

    def last_fault(self) -> Exception | None:
        """The fault that the device has found in the last step, to be asked for after ``backward()``; None without one.

        The host waits for the device. The next step raises a fault that nobody has asked for. All ranks ask, or none.
        """
        self.finish_step()
        found = self._fused_step.fault(self.num_classes)
        return None if found is None else found[1]

    def __getattr__(self, name: str) -> Any:
        """Look up the state of the margin and of the terms with the last step in it, like the memory."""
        if name == "terms" or name.startswith("margin_"):
            self._settle()
        return super().__getattr__(name)

    def _reason_to_refuse(
        self, embeddings: Tensor, labels: Tensor, memory_embeddings: Tensor | None
    ) -> TypeError | ValueError | None:
        """Fault of a batch before a fused step: of types and shapes, with ``validate="now"`` of numbers too."""
        given = {"embeddings": embeddings, "memory_embeddings": memory_embeddings}
        try:
            check = check_shapes(labels, self.embedding_dim, **given)
            if self.validate == "now":
                check_batch(labels, self.num_classes, self.embedding_dim, **given)
        except (TypeError, ValueError) as error:
            return error
        for tensor in (labels, *check.values()):
            if tensor.device != self.weight.device:
                where = f"{self.weight.device}: {tensor.device}"
                return ValueError(f"embeddings and labels must be on the device of W, {where}")
        return None

    @abstractmethod
    def _begin_step(self) -> None:
        """Finish the last step; refuse one that would ruin the head, or cannot be taken."""

    @abstractmethod
    def _begin_backward(self, version: int, gradient: Tensor, *, fused: bool = False, late: bool = False) -> None:
        """Check a backward pass that is about to begin."""
