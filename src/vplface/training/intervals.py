"""The intervals at which a run logs, measures, validates and saves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vplface.training.run_state import RunState
from vplface.training.stalled import judged_after


@dataclass(frozen=True)
class Intervals:
    """The steps, counted from 1, after which something is due; logging, saving and validation are also due at the end.

    Attributes:
        last: the last step.
        log_every: steps between two logged ones.
        save_every: steps between two checkpoints.
        validate_every: steps between two validations; None for none.
        inspect_every: steps between two measurements of what injection does.
        judge_after: the step from which the next one that is logged is judged, by whether the loss falls.
    """

    last: int
    log_every: int
    save_every: int
    validate_every: int | None
    inspect_every: int
    judge_after: int

    @classmethod
    def of(cls, run: RunState) -> Intervals:
        """The intervals of a run, from its configuration and its drift monitor."""
        config, per_epoch = run.config, len(run.batches)
        validate = config.evaluation.every
        return cls(
            run.rate.steps,
            max(config.log_every.steps(per_epoch), 1),
            max(config.checkpoint_every.steps(per_epoch), 1),
            None if validate is None else max(validate.steps(per_epoch), 1),
            run.drift.every,
            judged_after(run.rate.steps, run.rate.warmup),
        )

    def any(self, step: int) -> bool:
        """Whether anything is due."""
        return self.log(step) or self.inspect(step) or self.validate(step) or self.save(step)

    def log(self, step: int) -> bool:
        """Whether a step is logged in the journal."""
        return step % self.log_every == 0 or step == self.last

    def judge(self, step: int) -> bool:
        """Whether the loss is compared with the first ones: once, at the first logged step after ``judge_after``."""
        return step == math.ceil(self.judge_after / self.log_every) * self.log_every

    def inspect(self, step: int) -> bool:
        """Whether the effect of injection is measured."""
        return step % self.inspect_every == 0

    def validate(self, step: int) -> bool:
        """Whether the model is evaluated."""
        return self.validate_every is not None and (step % self.validate_every == 0 or step == self.last)

    def save(self, step: int) -> bool:
        """Whether a checkpoint is saved."""
        return step % self.save_every == 0 or step == self.last
