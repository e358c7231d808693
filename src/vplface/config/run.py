"""The configuration of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from vplface import bounds
from vplface.config.distill import DistillConfig
from vplface.config.durations import Duration, DurationField
from vplface.config.fields import FolderName, Seed
from vplface.config.finetune import FinetuneConfig
from vplface.config.folds import FoldConfig
from vplface.config.ramps import RampsConfig
from vplface.config.registry import MarginField, ScheduledTerm, TermField
from vplface.config.section import Section
from vplface.config.sections import BackboneConfig, DataConfig, EvaluationConfig, OptimizerConfig, ScheduleConfig
from vplface.config.validation import validate
from vplface.config.variational import VariationalConfig
from vplface.margins import ArcFace
from vplface.strict_yaml import to_yaml
from vplface.terms import Term
from vplface.terms.fit import bind_without_storage, require_fit

_LATER = (
    "finetune",
    "distill",
    "fold",
    "ramps",
    "prototypes",
    "backbone.preprocessing",
    "evaluation.patience",
    "evaluation.untouched",
    "evaluation.sets.degrade",
    "evaluation.sets.max_pictures",
    "evaluation.guard.degrade",
    "evaluation.guard.max_pictures",
    "evaluation.guard",
)
"""Keys that version 0.1 does not know: left out of files at their default, so that it reads them."""


class Config(Section):
    """The configuration of a training run; the keys are explained in docs/recipes.md."""

    name: FolderName
    output: Path = Path("runs")
    seed: Seed = 0
    data: DataConfig
    fold: FoldConfig | None = None
    backbone: BackboneConfig = BackboneConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    prototypes: Literal["random", "means"] = "random"
    margin: MarginField = ArcFace(32.0, 0.4)
    variational: VariationalConfig | None = None
    terms: list[TermField] = Field(default=[])
    distill: DistillConfig | None = None
    ramps: RampsConfig = RampsConfig()
    sample_rate: float = Field(default=1.0, gt=0.0, le=1.0)
    subcenters: int = Field(default=1, ge=1, le=bounds.EACH)
    interclass_threshold: float | None = Field(default=None, gt=-1.0, le=1.0)
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch_size: int = Field(default=128, ge=1, le=bounds.BATCH)
    accumulate: int = Field(default=1, ge=1, le=bounds.EACH)
    ema: float | None = Field(default=None, gt=0.0, lt=1.0)
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1, le=bounds.THREADS)
    evaluation: EvaluationConfig = EvaluationConfig()
    loggers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(default=["tensorboard"])
    log_every: DurationField = Duration(20)
    drift_every: DurationField | None = None
    checkpoint_every: DurationField = Duration(1, "epochs")
    checkpoints_kept: int = Field(default=2, ge=1, le=bounds.LARGEST)
    init_from: Path | None = None
    init_new_classes: Literal["mean", "random"] = "mean"
    timeout: float = Field(default=600.0, gt=0.0, le=1e8)
    sphere: bool = False
    arms: dict[str, dict[str, Any]] = Field(default={})

    @field_validator("finetune", "ramps", mode="before")
    @classmethod
    def _nothing_is_the_default(cls, value: object) -> object:
        return {} if value is None else value

    @model_validator(mode="after")
    def _terms_fit(self) -> Config:
        terms = self.resolved_terms(1)
        names = [type(term).__name__ for term in terms]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"terms holds several {name}; keep one")
        bound = bind_without_storage(terms)
        for title, term in bound.items():
            if term.whole_batch and self.accumulate > 1:
                raise ValueError(f"{title} needs the whole batch in one forward pass; it needs accumulate: 1")
        self.ramps.require_fit(self.margin, self.variational)
        require_fit(
            self.margin,
            bound,
            sample_rate=min(self.sample_rates),
            subcenters=self.subcenters,
            variational=self.variational is not None,
        )
        return self

    @model_validator(mode="after")
    def _fold_fits(self) -> Config:
        if self.fold is None:
            return self
        if not self.evaluation.every_set:
            raise ValueError("fold divides the people of the evaluation sets; give evaluation.sets")
        for entry in self.evaluation.every_set:
            if entry.pairs is not None or entry.balanced_pairs is not None:
                raise ValueError(
                    f"fold divides the people, which the list of pairs of {entry.name!r} does not allow; leave out"
                    " pairs and balanced_pairs, so that all pairs of the fold are compared"
                )
        if self.data.holdout:
            raise ValueError("fold keeps the people that it tests out of training; leave out data.holdout")
        if self.evaluation.patience is not None:
            raise ValueError("evaluation.patience would end training by the people that fold tests; leave it out")
        return self

    def resolved_terms(self, steps_per_epoch: int) -> list[Term]:
        """The terms, with their starts in steps."""
        return [term.resolve(steps_per_epoch) if isinstance(term, ScheduledTerm) else term for term in self.terms]

    @property
    def sample_rates(self) -> tuple[float, float]:
        """The shares of the classes that the first and the last step compare with."""
        ramp = self.ramps.sample_rate
        return (self.sample_rate if ramp is None else ramp.first), self.sample_rate

    @property
    def update_in_backward(self) -> bool:
        """Whether the prototypes are updated in the backward pass: nothing needs their whole gradient."""
        return self.optimizer.is_fused and self.optimizer.clip is None and self.accumulate == 1

    @property
    def run_folder(self) -> Path:
        """The folder of the run, OUTPUT/NAME."""
        return self.output / self.name

    def to_yaml(self) -> str:
        """The whole configuration, defaults included but for ``_LATER``, as read_config reads it."""
        values = self.model_dump(mode="json")
        for key in _LATER:
            _leave_out(self, values, key.split("."))
        return to_yaml(values)


def _leave_out(section: Any, written: Any, key: Sequence[str]) -> None:
    """Delete a key from what is written of a section, or of each of a list of sections, where it has its default."""
    if isinstance(section, list):
        for each, written_of_each in zip(section, written, strict=True):
            _leave_out(each, written_of_each, key)
    elif section is not None and len(key) > 1:
        _leave_out(getattr(section, key[0]), written.get(key[0]), key[1:])
    elif section is not None and getattr(section, key[0]) == type(section).model_fields[key[0]].default:
        del written[key[0]]


def build_config(raw: Mapping[str, Any], origin: str) -> Config:
    """A configuration of raw values.

    Args:
        raw: values by key, nested as in a recipe.
        origin: the file or place of the values, for errors.

    Raises:
        ConfigError: naming the origin and the key, with a suggestion where the key is unknown.
    """
    return validate(Config, raw, origin)
