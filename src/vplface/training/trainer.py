"""The training loop: the steps of a run, and what happens between them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vplface import devices
from vplface.clipping import clip_grad_norm_
from vplface.data.batches import Batch, load_batches
from vplface.progress import progress
from vplface.prototypes.batch import DegenerateEmbeddingError
from vplface.ranks import OtherRankError
from vplface.training.device_batches import on_device
from vplface.training.distributed import DistributedContext
from vplface.training.failures import TrainingError, diverged, interrupted, last_good_checkpoint, refused
from vplface.training.host_copy import Readout
from vplface.training.instruments import measure, own_cosines
from vplface.training.interrupt import Interrupt, SharedInterrupt
from vplface.training.intervals import Intervals
from vplface.training.outputs import RunOutputs
from vplface.training.parts import PartSizes, fewest, most
from vplface.training.run_state import RunState
from vplface.training.throughput import Throughput
from vplface.training.wrapped_network import wrapped_network

_STOP_PATIENCE = 10.0
"""Seconds that one of several processes waits for pictures after a signal to stop: the others may be in a step."""


class RefusedBatchError(Exception):
    """The head, of this or of another rank, refuses a batch whose embeddings are finite."""


class LateFaultError(Exception):
    """The head has found the batch of the step before at fault; the cause is the fault."""


@dataclass(frozen=True)
class StepResult:
    """The loss and the measurements of a step.

    Attributes:
        step: its number, counted from 1.
        figures: measurements for the journal, by key.
        numbers: on the way to the host: ``losses``, of the parts of the batch, and with clipping the ``norm`` of the
            gradient.
    """

    step: int
    figures: dict[str, Any]
    numbers: Readout

    @property
    def loss(self) -> float:
        """Loss of the whole batch; waits until the device has computed it."""
        return float(sum(self.numbers.read()["losses"]))

    def fault(self) -> str | None:
        """A message about a value that is not finite, or None; waits until the device has computed all values."""
        numbers = self.numbers.read()
        bad = {name: value for name, values in numbers.items() for value in values if not math.isfinite(value)}
        if "losses" in bad:
            return f"the loss is {bad['losses']} although all embeddings are finite"
        return f"the norm of the gradient is {bad['norm']}" if "norm" in bad else None


class Trainer:
    """Takes the steps of a run.

    Args:
        run: before its first step, or restored to a later one; it is changed in place.
        context: the processes that share it.
    """

    def __init__(self, run: RunState, context: DistributedContext) -> None:
        self.run = run
        self.context = context
        run.freezing.apply(run.step)
        self.network = wrapped_network(run, context)
        if run.head.ranks is not None:
            run.head.ranks.reserved = most(run.config, run.batches, context.size)

    def train(self, outputs: RunOutputs, interrupt: Interrupt) -> None:
        """Take the steps that are left: log, validate and save as often as the configuration says.

        Args:
            outputs: where measurements, models and checkpoints go.
            interrupt: tells when to stop.

        Raises:
            TrainingError: if a value is not finite, or the head refuses a batch.
            TrainingInterrupted: after a signal, when everything is saved.
            DataError: if something cannot be read or written.
        """
        run, context, due = self.run, self.context, Intervals.of(self.run)
        if run.exhausted:
            return
        throughput, stop = Throughput(), SharedInterrupt(interrupt, context)
        before: StepResult | None = None
        context.barrier()
        with progress(run.config.name, due.last, done=run.step, shown=context.is_main) as advance:
            for batch in self._batches(interrupt):
                step, epoch = run.step + 1, run.step / len(run.batches)
                context.report_step(run.step)
                run.unreadable.update(batch.unreadable)
                result = self._checked_step(outputs, batch, before, due)
                run.step = step
                throughput.pictures += len(batch.labels)

                entry: dict[str, Any] = {}
                if due.log(step):
                    entry = self._summary(result.loss, throughput.read(context))
                    advance(0, f"loss {result.loss:.3f}  {entry['pictures_per_second']:.0f} pictures/s")
                if due.judge(step):
                    entry |= outputs.diagnose(result.loss)
                shown = result if result.numbers.ready else before
                advance(1, "" if shown is None else f"loss {shown.loss:.3f}")
                before = result
                if due.inspect(step):
                    entry |= self._cosines_by_age()
                entry |= result.figures | self._follow_drift()
                outputs.record(entry, epoch)

                news = due.validate(step) and (step == due.last or not run.freezing.unmoved(step))
                if news and context.on_main(outputs.validate) is not None:
                    due = replace(due, last=step)
                stop.update()
                outputs.checkpoints.check()
                if due.save(step) or stop.requested:
                    _require_finite(outputs, result)
                    with throughput.paused():
                        outputs.save()
                if stop.requested and step < due.last:
                    outputs.checkpoints.finish()
                    raise interrupted(run, preempted=stop.preempted)
                if step == due.last:
                    break
        if run.step < due.last:
            _require_finite(outputs, before)
            self._stop_while_waiting(outputs, interrupt)
        stop.finish()

    def _checked_step(self, outputs: RunOutputs, batch: Batch, before: StepResult | None, due: Intervals) -> StepResult:
        """Take a step, then check the previous one, so that a GPU computes this step while the host waits.

        Where something is due after this step, it is checked as well.

        Raises:
            TrainingError: naming the step whose values are not finite, or whose batch the head refuses.
        """
        step = self.run.step + 1
        try:
            result = self.train_step(batch, log=due.log(step), inspect=due.inspect(step))
        except LateFaultError as late:
            raise _failed(outputs, late.__cause__, step - 1, updated=True) from late
        except (FloatingPointError, RefusedBatchError) as error:
            _require_finite(outputs, before)  # its update may be the cause
            raise _failed(outputs, error, step) from error
        _require_finite(outputs, before)
        if due.any(step):
            _require_finite(outputs, result)
        return result

    def train_step(self, batch: Batch, *, log: bool = False, inspect: bool = False) -> StepResult:
        """One optimiser step over a batch, in ``config.accumulate`` parts.

        Args:
            batch: of this process.
            log: report the mean cosines to the prototypes and memory of the own classes.
            inspect: report what injection does to prototypes and gradients.

        Returns:
            The loss and what was measured; the device may still be computing it.

        Raises:
            FloatingPointError: if a learning rate or an embedding is not finite.
            RefusedBatchError: if the head refuses the batch for another reason.
        """
        run = self.run
        if run.freezing.apply(run.step):
            self.network = wrapped_network(run, self.context)
        run.ramps.apply(run.head, run.step)
        self._set_learning_rates()
        self._set_modes()
        for optimizer in run.optimizers:
            optimizer.zero_grad(set_to_none=True)
        batch = batch.to(run.device)
        parts = self._parts(batch)
        sizes = self._sizes(parts)
        encoder = run.encoder if run.head.remembers else None
        losses, embeddings = [], []
        with run.head.micro_batches():
            for number, (pictures, labels, targets) in enumerate(parts):
                last = number == len(parts) - 1
                sums = isinstance(self.network, DistributedDataParallel) and not last
                with self.network.no_sync() if sums else nullcontext():
                    loss, part_embeddings = self._forward(pictures, labels, encoder, sizes, number)
                    if run.distillation is not None:
                        loss = loss + run.distillation.loss(part_embeddings, targets)
                    loss = loss * (1.0 if sizes is None else sizes.share(number))
                    loss.backward()  # type: ignore[no-untyped-call]
                losses.append(loss.detach())
                embeddings.append(part_embeddings.detach())
            with _faults_of_batch():  # which a head may find late
                figures = self._figures(embeddings, batch.labels, log=log, inspect=inspect)
        numbers = {"losses": torch.stack(losses)}
        if run.config.optimizer.clip is not None:
            numbers["norm"] = self._clip_gradients(run.config.optimizer.clip)
        if run.start is not None:
            run.start.pull(run.optimizer)
        for optimizer in run.optimizers:
            optimizer.step()
        for average in (run.average, run.encoder):
            if average is not None:
                average.update_parameters(run.backbone)
        return StepResult(run.step + 1, figures, Readout(numbers))

    def _set_learning_rates(self) -> None:
        """Set the learning rates of the next step."""
        factor = self.run.rate.factor(self.run.step)
        for optimizer in self.run.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
                if not math.isfinite(group["lr"]):
                    raise FloatingPointError(f"the learning rate is {group['lr']}")

    def _set_modes(self) -> None:
        """Training mode; the momentum encoder has batch statistics where the backbone has, but nothing random."""
        run, still = self.run, self.run.freezing.still_norms(self.run.step)
        run.backbone.train()
        run.head.train()
        if run.encoder is not None:
            for module in run.encoder.modules():
                module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)
        for network in (run.backbone, *([] if run.encoder is None else [run.encoder.module])):
            for name in still:
                network.get_submodule(name).eval()

    def _parts(self, batch: Batch) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Pictures, labels and targets of distillation of each part of a batch.

        Every rank has as many parts: the slice of each rank has a picture for every part.
        """
        with torch.no_grad():
            distillation = self.run.distillation
            targets = batch.labels.unsqueeze(1) if distillation is None else distillation.targets(batch)
        whole = (batch.pictures, batch.labels, targets)
        columns = (column.tensor_split(self.run.config.accumulate) for column in whole)
        return [part for part in zip(*columns, strict=True) if len(part[1])]

    def _sizes(self, parts: list[tuple[Tensor, Tensor, Tensor]]) -> PartSizes | None:
        """The sizes of the parts of all ranks, where there are several or ranks do not ask their devices."""
        exact = self.run.head.ranks is not None and not self.run.head.takes_fused_step
        if len(parts) == 1 and not (exact and devices.reading_waits(self.run.device)):
            return None
        return PartSizes([len(labels) for _, labels, _ in parts], self.context)

    def _forward(
        self, pictures: Tensor, labels: Tensor, encoder: nn.Module | None, sizes: PartSizes | None, part: int
    ) -> tuple[Tensor, Tensor]:
        """Loss and embeddings of a part of a batch; ``encoder`` embeds what the memory is to hold."""
        run = self.run
        inputs = run.preprocessing(pictures)
        half = run.config.precision == "bfloat16"
        with torch.autocast(run.device.type, dtype=torch.bfloat16) if half else nullcontext():
            embeddings, memory = self.network(inputs), None
            if encoder is not None:
                with torch.no_grad():
                    memory = encoder(inputs)
            late = run.head.last_fault()
            if late is not None:
                raise LateFaultError from late
            if run.head.ranks is not None:
                run.head.ranks.sizes = None if sizes is None else sizes.of(part)
            with _faults_of_batch():
                return run.head(embeddings, labels, memory), embeddings

    def _figures(self, embeddings: list[Tensor], labels: Tensor, *, log: bool, inspect: bool) -> dict[str, Any]:
        """Measurements on the embeddings of a step, before the memory takes them in."""
        figures: dict[str, Any] = {}
        if log:
            own = own_cosines(self.run.head, torch.cat(embeddings), labels)
            figures = dict(zip(("cos_prototype", "cos_memory"), own, strict=True))
        if inspect:
            figures |= measure(self.run.head, torch.cat(embeddings), labels)
        return figures

    def _clip_gradients(self, max_norm: float) -> Tensor:
        """Scale the gradients of backbone and prototypes to a norm of at most ``max_norm``; returns the old norm."""
        parameters = (p for group in self.run.optimizer.param_groups for p in group["params"])
        return clip_grad_norm_(parameters, max_norm, head=self.run.head)

    def _summary(self, loss: float, pictures_per_second: float) -> dict[str, Any]:
        """The journal entry of a step that is logged."""
        run = self.run
        rate = run.config.optimizer.lr * run.rate.factor(run.step - 1)
        entry = {"loss": loss, "lr": rate, "coverage": run.head.coverage()}
        entry |= {f"terms/{name}": value for name, value in run.head.term_values().items()}
        if run.distillation is not None:
            entry |= {f"distill/{kind}": value for kind, value in run.distillation.last_values().items()}
        entry |= {f"ramps/{key}": value for key, value in run.ramps.values(run.step - 1).items()}
        unreadable = len(self.context.union(run.unreadable))
        return entry | {"pictures_per_second": round(pictures_per_second, 1), "unreadable": unreadable}

    def _cosines_by_age(self) -> dict[str, Any]:
        """How the remembered features agree with new ones, by their age in steps; empty before there are any."""
        by_age = self.run.head.cosine_by_age()
        if not by_age:
            return {}
        return {
            "cosine_by_age": {age: found.mean for age, found in by_age.items()},
            "samples_by_age": {age: found.samples for age, found in by_age.items()},
        }

    def _follow_drift(self) -> dict[str, Any]:
        """Let the monitor measure drift if it is due; returns its journal entries, with the start of injection."""
        run, entry = self.run, dict[str, Any]()
        measured, begin = run.drift.step(run.memory_encoder), run.drift.begin
        if measured is not None:
            shortest = measured.by_lag.get(run.drift.every)
            entry = {"drift": shortest, "drift_by_lag": measured.by_lag, "spread": measured.spread}
        if begin is not None and begin.step == run.step:
            entry["begin"] = {"delta_t": begin.delta_t, "settled": begin.settled, "by_drift": begin.by_drift}
            if begin.settled and self.context.is_main:  # if not, the monitor warns
                print(run.drift.sentence(begin), file=sys.stderr)
        return entry

    def _batches(self, interrupt: Interrupt) -> Iterator[Batch]:
        """The remaining batches; they end early if a stop signal arrives while waiting for one."""
        run, context, config = self.run, self.context, self.run.config

        def give_up(seconds: float) -> bool:
            # Others may be in a step with this rank, and can save only after it.
            return interrupt.requested and (context.group is None or seconds > _STOP_PATIENCE)

        workers = config.data.workers
        batches = load_batches(
            run.pictures,
            run.batches,
            config.data.augmentation,
            config.seed,
            run.step,
            run.rate.steps,
            min(4, max(torch.get_num_threads() // 2, 1)) if workers is None else workers,
            (context.rank, context.size),
            fewest(config, run.batches, context.size),
            give_up,
        )
        return on_device(batches, run.device)

    def _stop_while_waiting(self, outputs: RunOutputs, interrupt: Interrupt) -> None:
        """End a run that a signal has stopped between two steps, while it waited for pictures."""
        run, context = self.run, self.context
        if context.group is not None:
            raise TrainingError(
                f"received a stop signal while rank {context.rank} waited for the pictures of step {run.step + 1};"
                f" {last_good_checkpoint(run)}"
            )
        outputs.save()
        outputs.checkpoints.finish()
        raise interrupted(run, preempted=interrupt.preempted)


def _require_finite(outputs: RunOutputs, result: StepResult | None) -> None:
    """Raise TrainingError if a value of a completed step is not finite."""
    fault = None if result is None else result.fault()
    if result is not None and fault is not None:
        error = outputs.run.head.last_fault() or FloatingPointError(fault)  # a loss is NaN if the head finds a fault
        raise _failed(outputs, error, result.step, updated=True)


def _failed(outputs: RunOutputs, error: BaseException | None, step: int, *, updated: bool = False) -> TrainingError:
    """The error for a step that has failed, when the checkpoint under way is written."""
    outputs.checkpoints.finish()
    if isinstance(error, FloatingPointError | DegenerateEmbeddingError):
        return diverged(outputs.run, str(error), step, updated=updated)
    return refused(outputs.run, str(error), step)


@contextmanager
def _faults_of_batch() -> Iterator[None]:
    """Turn errors of the head into those of ``train_step``."""
    try:
        yield
    except DegenerateEmbeddingError as error:
        raise FloatingPointError(str(error)) from error
    except (ValueError, OtherRankError) as error:
        raise RefusedBatchError(str(error)) from error
