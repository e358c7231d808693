"""Fused steps of a head: buffers that stay from step to step, and faults that are raised a step later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from vplface.margins import Margin
from vplface.optim import PrototypeSGD
from vplface.prototypes.prototype_memory import PrototypeMemory
from vplface.prototypes.step import StepPart
from vplface.softmax.product import operand_type
from vplface.softmax.workspace import Workspace


class FusedStep:
    """The training step of a head over all classes, in a fixed number of launches and without a wait for the device.

    ``loss`` starts the forward pass, ``backward()`` of the loss the backward pass, which moves W, and the end of the
    step writes M and T. Copies start with buffers of their own.
    """

    def __init__(self) -> None:
        self._workspace = Workspace(0.0)
        self._faults: Any = None

    # size: the tensors of a batch and the parts of a head
    def loss(
        self,
        embeddings: Float[Tensor, "batch dim"],
        labels: Int[Tensor, " batch"],
        memory_embeddings: Float[Tensor, "batch dim"] | None,
        *,
        weight: Float[Tensor, "classes dim"],
        margin: Margin,
        memory: PrototypeMemory,
        optimizer: PrototypeSGD,
        end: Callable[[], None],
    ) -> Float[Tensor, ""]:
        """Start a step and add it to ``memory``.

        Args:
            embeddings: of any length.
            labels: class ids; like the numbers of ``embeddings`` they are checked on the device.
            memory_embeddings: what is remembered instead of ``embeddings``, if anything.
            weight: W.
            margin: of the head, a margin of the cosine alone.
            memory: M and T.
            optimizer: moves W.
            end: ends the step, when the backward pass has been started.

        Raises:
            ValueError: for tensors on another device than W.
        """
        from vplface.softmax.fused.faults import Faults
        from vplface.softmax.fused.fused_pass import FusedPass, Mixed
        from vplface.softmax.fused.loss import fused_loss

        for tensor in (embeddings, labels, memory_embeddings):
            if tensor is not None and tensor.device != weight.device:
                raise ValueError(f"embeddings and labels must be on the device of W, {weight.device}: {tensor.device}")
        faults = self._faults = self._faults or Faults()
        memory.create_if_due(weight)
        chosen, mixed = memory.variational, None
        if chosen is not None and memory.memory is not None and memory.timer is not None:
            mixed = Mixed(memory.memory, memory.timer, chosen.lam, chosen.renormalise)
        word = faults.begin(weight.device, memory.step_count)
        step = FusedPass(self._workspace, word, weight.detach(), margin, mixed, operand_type(weight), memory.parts)

        def move() -> None:
            if optimizer.in_backward:
                rule = optimizer.rule()
                assert rule is not None
                step.move(rule)
            else:
                optimizer.hold(step)

        def finish() -> None:
            faults.send()
            end()

        loss = fused_loss(embeddings, weight, labels, memory_embeddings, step=step, move=move, end=finish)
        memory.add(StepPart(step.x, step.row, step.remembered, [len(labels)], write=step.remember))
        return loss

    def fault(self, num_classes: int) -> tuple[int, Exception] | None:
        """Number and fault of the last step, None without a fault; its loss can no longer take a backward pass.

        Args:
            num_classes: N.
        """
        self._workspace.user = None
        found: tuple[int, Exception] | None = None if self._faults is None else self._faults.fault(num_classes)
        return found

    def let_go(self, num_classes: int) -> None:
        """Let go of the last step, whose loss can no longer take a backward pass.

        Args:
            num_classes: N.

        Raises:
            ValueError: for a fault of its batch; the step has written nothing.
            RuntimeError: if its loss was scaled; the step has written nothing.
        """
        found = self.fault(num_classes)
        if found is not None:
            step, fault = found
            raise type(fault)(f"in step {step}, which has changed nothing: {fault}")

    def __reduce__(self) -> tuple[Any, ...]:
        return FusedStep, ()
