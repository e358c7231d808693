"""The files that a run writes while it trains: journal, environment, models and checkpoints."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vplface.embedder import Embedder
from vplface.errors import ConfigError
from vplface.files import PRIVATE, write_json
from vplface.reading import kind_of
from vplface.stored_model import load_model, save_model
from vplface.training.checkpoint import Checkpoints
from vplface.training.checkpoint_manifest import describe_run
from vplface.training.claim import occupy
from vplface.training.distributed import DistributedContext
from vplface.training.failures import diverged
from vplface.training.journal import Journal, environment
from vplface.training.loggers import Loggers
from vplface.training.run_state import RunState
from vplface.training.stalled import diagnose, sentence
from vplface.training.validation import Validation, values_of


@dataclass(frozen=True)
class RunOutputs:
    """Writes what a run leaves in its folder.

    Attributes:
        run: the run.
        context: the processes that share it.
        checkpoints: the writer of checkpoints.
        journal: None in all processes but the first.
        validation: None in all processes but the first.
    """

    run: RunState
    context: DistributedContext
    checkpoints: Checkpoints
    journal: Journal | None
    validation: Validation | None

    def record(self, entry: Mapping[str, Any], epoch: float) -> None:
        """Write the measurements of the last step to the journal, if there are any."""
        if entry and self.journal is not None:
            step = {"step": self.run.step, "epoch": round(epoch, 3)}
            self.journal.write({**step, **entry, "time": round(time.time(), 3)})

    def diagnose(self, loss: float) -> dict[str, Any]:
        """In the first process: warn if the loss stays near its first value.

        Args:
            loss: of the last step, which is not in the journal yet.

        Returns:
            The entry of the journal; empty where the loss falls.
        """
        if self.journal is None:
            return {}
        found = diagnose(self.run, [*self.journal.losses(), (self.run.step, loss)])
        if found is None:
            return {}
        print(sentence(self.run.step, found), file=sys.stderr)
        return {"diagnosis": found}

    def validate(self) -> str | None:
        """In the first process: evaluate the model, and keep it in ``best`` if it is better than all before it.

        Returns:
            Why the run ends here, if ``evaluation.patience`` ends it.
        """
        assert self.journal is not None
        assert self.validation is not None
        run = self.run
        if not self.validation.tasks:
            return None
        card = run.model_card()
        evaluations = self.validation.run(Embedder.from_backbone(run.model, card), bootstrap=0)
        values = values_of(evaluations)
        value = self.validation.criterion(values)
        finite = all(tensor.isfinite().all() for tensor in run.model.state_dict().values())
        if finite and value is not None and (run.best is None or value > run.best):
            run.best, run.stale = value, 0
            save_model(run.folder.best.path, run.model, card)
        elif value is not None:
            run.stale += 1
        ended = {"ended": f"{run.stale} validations in a row were no better"} if run.exhausted else {}
        self.journal.write({"step": run.step, "validation": values, **ended, "time": round(time.time(), 3)})
        return ended.get("ended")

    def measure_untouched(self, *, fresh: bool) -> None:
        """In the first process: measure the model that the run starts from, with intervals.

        Args:
            fresh: whether that is the model of the run; it is then kept in ``untouched``. Else it is read there.

        Raises:
            ConfigError: if the run began without ``evaluation.untouched``.
            DataError: if the stored model is damaged.
        """
        assert self.journal is not None
        assert self.validation is not None
        run, folder = self.run, self.run.folder.untouched
        if fresh:
            save_model(folder.path, run.model, run.model_card())
        elif kind_of(folder.card) is None:
            raise ConfigError(
                "evaluation.untouched: this run began without it, and the model that it started from was not kept; set"
                " evaluation.untouched=false, or start a new run"
            )
        backbone, card = load_model(folder.path)
        embedder = Embedder.from_backbone(backbone.to(run.device), card)
        evaluations = self.validation.run(embedder, run.config.evaluation.bootstrap)
        write_json(folder.evaluation, {name: found.to_dict() for name, found in evaluations.items()}, PRIVATE)
        if fresh:
            entry = {"step": 0, "validation": values_of(evaluations), "time": round(time.time(), 3)}
            self.journal.write(entry)

    def save(self) -> None:
        """Save a checkpoint and the model.

        Raises:
            TrainingError: if weights are not finite, or no longer embed the first pictures; nothing is saved then.
            DataError: if an earlier checkpoint could not be written.
        """
        run = self.run
        try:
            bad = not all(_embeds(module, run.drift.pictures[:2]) for module in (run.backbone, run.model))
            if self.context.sum([float(bad)])[0]:
                raise FloatingPointError("the embeddings of the first pictures are not finite")
            self.checkpoints.save(run)
        except FloatingPointError as error:
            self.checkpoints.finish()
            raise diverged(run, str(error), run.step) from error
        if self.context.is_main:
            save_model(run.folder.path, run.model, run.model_card())


@contextmanager
def open_outputs(run: RunState, context: DistributedContext, *, fresh: bool) -> Iterator[RunOutputs]:
    """Prepare the run folder for the steps to come; the first process holds its lock.

    Args:
        run: before its first step, or restored.
        context: the processes that share it.
        fresh: whether the run starts; what an earlier run left in the folder is then removed.

    Raises:
        ConfigError: if the folder cannot be written, or the configuration asks for an evaluation that is impossible.
        DataError: if the data of an evaluation are missing or damaged.
        VplfaceError: if a logger cannot be used.
    """
    config, folder = run.config, run.folder
    recorded = describe_run(config, run.pictures) if context.is_main else None
    if recorded is not None and run.distillation is not None:
        recorded["teacher"] = sorted(run.distillation.teacher.files.values())
    checkpoints = Checkpoints(folder.checkpoints, context, config.checkpoints_kept, recorded)
    with ExitStack() as stack:
        validation = journal = None
        if context.is_main:
            validation = Validation(config.evaluation, run.heldout, config.fold)
            loggers = stack.enter_context(Loggers(config, run.step, fresh))
            occupy(config, fresh=fresh)
            if fresh:  # from here on the folder always holds a model whose weights are finite
                save_model(folder.path, run.model, run.model_card())
            write_json(folder.environment, environment() | _sizes(run, context))
            write_json(folder.identities, list(run.pictures.identities), PRIVATE)
            journal = stack.enter_context(Journal(folder.path, run.step, loggers))
        context.mark_begun()
        yield RunOutputs(run, context, checkpoints, journal, validation)


def _sizes(run: RunState, context: DistributedContext) -> dict[str, Any]:
    """The entries of environment.json that describe the run itself."""
    return {
        "identities": len(run.pictures.identities),
        "pictures": len(run.pictures),
        "steps_per_epoch": len(run.batches),
        "steps": run.rate.steps,
        "delta_t": run.head.delta_t,
        "drift_every": run.drift.every,
        "parameters": sum(p.numel() for p in run.backbone.parameters()),
        "device": str(run.device),
        "processes": context.size,
    }


@torch.no_grad()
def _embeds(module: nn.Module, pictures: Tensor) -> bool:
    """Whether a network makes finite embeddings of pictures; its mode stays as it is."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        return bool(module(pictures).isfinite().all())
    finally:
        for each, mode in modes:
            each.training = mode
