"""The intervals at which a run logs, measures, validates and saves."""

from __future__ import annotations

from dataclasses import dataclass

from vplface.training.run_state import RunState


@dataclass(frozen=True)
class Intervals:
    """The steps, counted from 1, after which something is due; logging, saving and validation are also due at the end.

    Attributes:
        last: the last step.
        log_every: steps between two logged ones.
        save_every: steps between two checkpoints.
        validate_every: steps between two validations; None for none.
        inspect_every: steps between two measurements of what injection does.
    """

    last: int
    log_every: int
    save_every: int
    validate_every: int | None
    inspect_every: int

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
        )

    def any(self, step: int) -> bool:
        """Whether anything is due."""
        return self.log(step) or self.inspect(step) or self.validate(step) or self.save(step)

    def log(self, step: int) -> bool:
        """Whether a step is logged in the journal."""
        return step % self.log_every == 0 or step == self.last

    def inspect(self, step: int) -> bool:
        """Whether the effect of injection is measured."""
        return step % self.inspect_every == 0

    def validate(self, step: int) -> bool:
        """Whether the model is evaluated."""
        return self.validate_every is not None and (step % self.validate_every == 0 or step == self.last)

    def save(self, step: int) -> bool:
        """Whether a checkpoint is saved."""
        return step % self.save_every == 0 or step == self.last
