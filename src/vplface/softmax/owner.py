"""The base of heads that hold a memory: how their softmax is computed, and their fused steps."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from vplface.gradient_hooks import before_backward
from vplface.margins import Margin
from vplface.optim import PrototypeSGD
from vplface.prototypes.batch import check_batch, check_shapes
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
        return before_backward(loss, partial(self._begin_backward, self.weight._version, fused=True))

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
    def _begin_backward(self, version: int, gradient: Tensor, fused: bool = False) -> None:
        """Check a backward pass that is about to begin."""
