"""Fused steps of a head: buffers that stay from step to step, and faults that are raised a step later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from vplface.exchange import Exchange
from vplface.margins import Margin
from vplface.optim import PrototypeSGD
from vplface.prototypes.faults import Faults
from vplface.prototypes.prototype_memory import PrototypeMemory
from vplface.prototypes.step import StepPart
from vplface.softmax.product import operand_type
from vplface.softmax.workspace import Workspace


class FusedStep:
    """The training step of a head over all classes, in a fixed number of launches and without a wait for the device.

    ``loss`` starts the forward pass, ``backward()`` of the loss the backward pass, which moves W, and the end of the
    step writes M and T. Copies start with buffers of their own.

    Args:
        faults: of the head, into which the kernels write what they find.
        exchange: with the ranks that share the classes; None for one process.
    """

    def __init__(self, faults: Faults, exchange: Exchange | None) -> None:
        self._workspace = Workspace(0.0)
        self._faults = faults
        self._exchange = exchange

    # size: the tensors of a batch and the parts of a head
    def loss(
        self,
        embeddings: Float[Tensor, "batch dim"],
        labels: Int[Tensor, " batch"],
        memory_embeddings: Float[Tensor, "batch dim"] | None,
        *,
        refusal: Exception | None,
        weight: Float[Tensor, "classes dim"],
        margin: Margin,
        memory: PrototypeMemory,
        optimizer: PrototypeSGD,
        wait: bool,
        end: Callable[[], None],
    ) -> Float[Tensor, ""]:
        """Start a step and add it to ``memory``.

        Args:
            embeddings: of any length.
            labels: class ids; like the numbers of ``embeddings`` they are checked on the device.
            memory_embeddings: what is remembered instead of ``embeddings``, if anything.
            refusal: what is wrong with the batch, if anything. One of several ranks takes the step all the same, as the
                others do, and all of them raise an error in the next step.
            weight: W.
            margin: of the head, a margin of the cosine alone.
            memory: M and T.
            optimizer: moves W.
            wait: look at the sizes of the batches of other ranks in every step.
            end: ends the step, when the backward pass has been started.

        Raises:
            Exception: ``refusal``, in one process and before ranks know each other's batches.
            OtherRankError: naming ranks whose batches are invalid or of other kinds, where ranks compare them.
        """
        from vplface.softmax.fused.fused_pass import FusedPass, Mixed
        from vplface.softmax.fused.loss import fused_loss

        samples, refusal = self._samples(embeddings, labels, memory_embeddings, weight, wait, refusal)
        memory.create_if_due(weight)
        chosen, mixed = memory.variational, None
        if chosen is not None and memory.memory is not None and memory.timer is not None:
            mixed = Mixed(memory.memory, memory.timer, chosen.lam, chosen.renormalise)
        place = None if samples.ranks is None else (samples.ranks.rank, samples.room)
        word = self._faults.begin(weight.device, memory.step_count, place, refusal)
        operands = operand_type(weight)
        step = FusedPass(self._workspace, samples, word, weight.detach(), margin, mixed, operands, memory.parts)

        def move() -> None:
            if optimizer.in_backward:
                rule = optimizer.rule()
                assert rule is not None
                step.move(rule)
            else:
                optimizer.hold(step)

        def finish() -> None:
            self._faults.send()
            end()

        given: Any = embeddings  # which may be no tensor, if they are refused
        if not isinstance(given, Tensor):
            given = weight.detach()[:0]
        loss = fused_loss(given, weight, step=step, move=move, end=finish)
        counts = [samples.room] * len(samples.labels)
        memory.add(StepPart(step.x, step.row, step.remembered, counts, write=step.remember))
        return loss

    def _samples(
        self,
        embeddings: Float[Tensor, "batch dim"],
        labels: Int[Tensor, " batch"],
        memory_embeddings: Float[Tensor, "batch dim"] | None,
        weight: Float[Tensor, "classes dim"],
        wait: bool,
        refusal: Exception | None,
    ) -> tuple[Any, Exception | None]:
        """The samples of the step, of all ranks, and why this rank refuses its own."""
        from vplface.softmax.fused.samples import of_one_process, of_ranks, pack

        if self._exchange is None:
            if refusal is not None:
                raise refusal
            return of_one_process(embeddings, labels, memory_embeddings), None
        if wait:
            self._exchange.forget()
        given = [each for each in (embeddings, labels, memory_embeddings) if each is not None]
        gathered = self._exchange.gather(given, refusal, device=weight.device, pack=pack, take=self._workspace.take)
        own = len(given[0]) if gathered.refusal is None else 0
        return of_ranks(gathered, self._exchange.ranks, own), gathered.refusal

    def fault(self, num_classes: int) -> tuple[int, Exception] | None:
        """Number and fault of the last step, None without a fault; its loss can no longer take a backward pass.

        Args:
            num_classes: N.
        """
        self._workspace.user = None
        found = self._faults.take(num_classes)
        if found is not None and self._exchange is not None and self._faults.is_refusal:
            self._exchange.forget()
        return found

    def let_go(self, num_classes: int) -> None:
        """Let go of the last step, whose loss can no longer take a backward pass.

        Args:
            num_classes: N.

        Raises:
            ValueError: for a fault of its batch; the step has written nothing.
            OtherRankError: for one of the batch of another rank.
            RuntimeError: if its loss was scaled; the step has written nothing.
        """
        found = self.fault(num_classes)
        if found is None:
            return
        step, fault = found
        if self._exchange is None or not self._faults.is_of_loss:
            raise type(fault)(f"in step {step}, which has changed nothing: {fault}")
        # other ranks do not know, and take another step
        self._exchange.refuse_next(RuntimeError(f"in step {step} {fault}"))

    def __reduce__(self) -> tuple[Any, ...]:
        return FusedStep, (self._faults, self._exchange)
