"""Errors that end a run, worded with the last good checkpoint and with advice."""

from __future__ import annotations

import torch

from vplface.config import Config
from vplface.errors import TrainingInterrupted, VplfaceError
from vplface.paths import argument
from vplface.training.checkpoint_manifest import newest_checkpoint
from vplface.training.run_state import RunState


class TrainingError(VplfaceError):
    """Training cannot continue: a value that is not finite, a batch that the head refuses, or no memory left."""


def diverged(run: RunState, fault: str, step: int, *, updated: bool = False) -> TrainingError:
    """The error for a value that is not finite.

    Args:
        run: the run.
        fault: which value it is.
        step: the step, counted from 1.
        updated: whether the value has entered the weights since, so that they no longer tell the cause.
    """
    bad = [] if updated else [name for name, p in run.backbone.named_parameters() if not p.isfinite().all()]
    cause = f" (already in the weights: {bad[0]} and {len(bad) - 1} more)" if bad else ""
    return TrainingError(
        f"training diverged at step {step}: {fault}{cause}; {last_good_checkpoint(run)}. Lower optimizer.lr, lengthen"
        " schedule.warmup, or set optimizer.clip"
    )


def refused(run: RunState, fault: str, step: int) -> TrainingError:
    """The error for a batch that the head of this or another rank refuses although it is finite."""
    return TrainingError(f"the head refused the batch of step {step}: {fault}; {last_good_checkpoint(run)}")


def interrupted(run: RunState, *, preempted: bool) -> TrainingInterrupted:
    """The exception for a run that a signal has stopped, once its state is saved."""
    return TrainingInterrupted(
        f"stopped after step {run.step} of {run.rate.steps}; everything is saved."
        f" Continue with: vplface train {argument(run.folder.path)} --resume",
        preempted=preempted,
    )


def last_good_checkpoint(run: RunState) -> str:
    """A clause that names the newest whole checkpoint of a run."""
    last, _ = newest_checkpoint(run.folder.checkpoints)
    return "no checkpoint had been written yet" if last is None else f"the last good checkpoint is {last}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def out_of_memory(config: Config, error: BaseException) -> TrainingError:
    """The error for a step that does not fit into memory."""
    return TrainingError(
        f"memory ran out ({str(error).splitlines()[0] if str(error) else 'no details'}). Split the batch of"
        f" {config.batch_size} into more parts (accumulate={2 * config.accumulate}: same result, less memory), make it"
        " smaller (batch_size=...), or compute in precision=bfloat16"
    )
