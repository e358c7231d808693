"""A training run from its configuration to the files in its folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from vplface.backbones.folded_norm import describe_norms
from vplface.config import Config
from vplface.reading import kind_of
from vplface.run_folder import RunFolder
from vplface.training.batch_statistics import reestimate
from vplface.training.checkpoint import load_checkpoint
from vplface.training.checkpoint_manifest import has_checkpoints, recorded_config
from vplface.training.claim import claim, locked_run_folder
from vplface.training.class_means import init_from_means
from vplface.training.distributed import DistributedContext, join
from vplface.training.failures import is_out_of_memory, out_of_memory
from vplface.training.interrupt import Interrupt
from vplface.training.norm_statistics import measure_norms
from vplface.training.outputs import open_outputs
from vplface.training.resume import (
    changed_keys,
    is_of_evaluation,
    require_same_identities,
    require_same_teacher,
    stored_config,
)
from vplface.training.run_state import RunState, build_run
from vplface.training.trainer import Trainer
from vplface.training.warm_start import init_from_run, whole_checkpoint


def train(config: Config, *, resume: bool = False, overwrite: bool = False) -> RunState | None:
    """Train as a configuration says, and leave journal, checkpoints and models in the run folder.

    Under torchrun each process trains with its part of every batch and holds its part of the classes. A launch that
    torchrun restarts after a failure resumes from the last checkpoint by itself.

    Args:
        config: the run.
        resume: continue from the last whole checkpoint in the run folder.
        overwrite: start from the first step although the folder holds a run.

    Returns:
        The finished run; None in all processes but the first.

    Raises:
        ConfigError: if the configuration cannot be carried out, or the folder holds another run.
        DataError: if pictures, lists or checkpoints are missing or damaged.
        TrainingError: if a value is not finite, the head refuses a batch, or memory runs out; the last good checkpoint
            is named.
        TrainingInterrupted: after Ctrl-C, SIGTERM or SIGUSR1, when everything is saved.
        RankError: if another process of the run has died or hangs.
    """
    with join(config.timeout) as context:
        return train_as(context, config, resume=resume, overwrite=overwrite)


def train_as(
    context: DistributedContext, config: Config, *, resume: bool = False, overwrite: bool = False
) -> RunState | None:
    """Train as one of the processes of a context; see :func:`train`."""
    folder = RunFolder(config.run_folder)
    with context.name_missing_ranks(), ExitStack() as stack:
        if context.restarted:
            resume = has_checkpoints(folder.checkpoints)
            overwrite = not resume
        if kind_of(folder.path) is not None or not resume:
            context.on_main(lambda: stack.enter_context(locked_run_folder(folder)))
        checkpoint = _on_main(context, lambda: claim(config, resume=resume, overwrite=overwrite))
        run = _build_in_turn(config, context, weights=checkpoint is None)
        remeasure = config.evaluation.untouched
        if checkpoint is not None:
            remeasure = _restore(run, checkpoint, context) and config.evaluation.untouched
        elif config.init_from is not None:
            source = config.init_from
            other = _on_main(context, lambda: whole_checkpoint(source))
            assert other is not None
            init_from_run(other, run)
        else:
            if context.is_main and (norms := describe_norms(run.backbone)) is not None:
                print(f"backbone: {norms}", file=sys.stderr)
            measure_norms(run)
        with (
            open_outputs(run, context, fresh=checkpoint is None) as outputs,
            Interrupt() as interrupt,
            outputs.checkpoints,
        ):
            try:
                if remeasure:
                    context.on_main(lambda: outputs.measure_untouched(fresh=checkpoint is None))
                if checkpoint is None:
                    _begin(run)
                Trainer(run, context).train(outputs, interrupt)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise out_of_memory(config, error) from error
                raise
        return run if context.is_main else None


def _begin(run: RunState) -> None:
    """Compute what depends on the network that a fresh run starts from."""
    config = run.config
    if config.finetune.batchnorm == "reestimate":
        reestimate(run)
    if config.prototypes == "means" and config.init_from is None:
        init_from_means(run)
    if run.start is not None:
        run.start.take()


def _on_main(context: DistributedContext, choose: Callable[[], Path | None]) -> Path | None:
    """A path that the first process chooses, in all processes."""

    def chosen() -> str | None:
        path = choose()
        return None if path is None else str(path)

    path = context.on_main(chosen)
    return None if path is None else Path(path)


def _build_in_turn(config: Config, context: DistributedContext, *, weights: bool) -> RunState:
    """Build the run, in the first process before the others: it may have to write pictures that all read."""
    built: list[RunState] = []
    context.on_main(lambda: built.append(build_run(config, context, weights=weights)))
    return built[0] if built else build_run(config, context, weights=weights)


def _restore(run: RunState, checkpoint: Path, context: DistributedContext) -> bool:
    """Restore a run that was just built from its checkpoint; returns whether its evaluation has changed since then."""
    context.on_main(lambda: require_same_identities(run, checkpoint))
    context.on_main(lambda: require_same_teacher(run, checkpoint))
    load_checkpoint(checkpoint, run, context)
    before = recorded_config(checkpoint) or stored_config(run.folder.path) or run.config
    changed = [key for key in changed_keys(before, run.config) if is_of_evaluation(key)]
    other = any(key != "evaluation.patience" for key in changed)
    if other:
        run.best, run.stale = None, 0  # the best figure so far is of another evaluation
    return other
