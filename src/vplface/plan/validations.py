"""Evaluation sets of a run, and how often they are measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vplface.training.intervals import Intervals
from vplface.training.run_state import RunState
from vplface.training.validation import Validation


@dataclass(frozen=True)
class MeasuredSet:
    """An evaluation set.

    Attributes:
        pictures: that are compared.
        people: that they show.
        guard: whether it is a guard.
    """

    pictures: int
    people: int
    guard: bool


@dataclass(frozen=True)
class ValidationPlan:
    """The evaluation sets of a run, and how often they are measured.

    Attributes:
        sets: by name.
        pictures: that each measurement embeds; one that several sets share counts once.
        passes: forward passes of a picture: 2 where its mirror image counts too.
        every: steps between two measurements during training; None for none.
        during: measurements during training, if it does not end early.
        others: measurements before and after training, with intervals, at most.
        may_end: the first step after which ``evaluation.patience`` may end training; None if it cannot.
    """

    sets: dict[str, MeasuredSet]
    pictures: int
    passes: int
    every: int | None
    during: int
    others: int
    may_end: int | None

    @property
    def embedded(self) -> int:
        """Forward passes of pictures in the whole run."""
        return self.pictures * self.passes * (self.during + self.others)


def validations_of(run: RunState) -> ValidationPlan | None:
    """The measurements of a run; None where nothing is measured.

    Raises:
        ConfigError: if the configuration asks for an evaluation that is impossible.
        DataError: if pictures or lists are missing or damaged.
    """
    settings, due = run.config.evaluation, Intervals.of(run)
    validation = Validation(settings, run.heldout, run.config.fold, write=False)
    if not validation.tasks:
        return None
    steps = (
        []
        if due.validate_every is None
        else sorted({*range(due.validate_every, due.last, due.validate_every), due.last})
    )
    steps = [step for step in steps if step == due.last or not run.freezing.unmoved(step)]
    ends = [] if settings.patience is None else [step for step in steps[settings.patience :] if step < due.last]
    guards = {guard.name for guard in settings.guard}
    return ValidationPlan(
        sets={
            name: MeasuredSet(len(task.used), len(np.unique(task.pictures.labels[task.used])), name in guards)
            for name, task in validation.tasks.items()
        },
        pictures=validation.embedded,
        passes=2 if settings.flip == "sum" else 1,
        every=due.validate_every,
        during=len(steps),
        # the last model; with ``untouched`` the model that the run starts from and the best one, too
        others=3 if settings.untouched else 1,
        may_end=ends[0] if ends else None,
    )
