"""Sections of a recipe: data, backbone, optimizer, schedule and evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from vplface import bounds
from vplface.backbones import option_types
from vplface.config.conversion import as_expected, as_number
from vplface.config.degrade import DegradeField
from vplface.config.durations import Duration, DurationField
from vplface.config.fields import NonNegative, Positive, Seed
from vplface.config.model_folder import with_card
from vplface.config.onnx_file import with_graph
from vplface.config.registry import SamplerField
from vplface.config.section import Section, require_known_keys
from vplface.config.validation import abbreviated, first_fault, validate_type
from vplface.data.augment import Augmentation
from vplface.data.pictures import SIZE, Preprocessing
from vplface.data.samplers import Shuffled
from vplface.strict_yaml import number
from vplface.suggest import did_you_mean_or_known


def _refuse_unknown_options(value: object) -> object:
    if isinstance(value, Mapping):
        require_known_keys(value, [field.name for field in fields(Augmentation)])
    return value


def _refuse_unknown_preprocessing(value: object) -> object:
    if isinstance(value, Mapping):
        require_known_keys(value, [field.name for field in fields(Preprocessing)])
        if value.get("size", SIZE) != SIZE:
            raise ValueError(f"size must be {SIZE}, the pictures of every backbone, got {abbreviated(value['size'])}")
    return value


_AugmentationField = Annotated[Augmentation, BeforeValidator(_refuse_unknown_options)]
PreprocessingField = Annotated[Preprocessing, BeforeValidator(_refuse_unknown_preprocessing)]
_SCALAR = str | int | float  # bool is an int


class SyntheticConfig(Section):
    """Generated faces, written to the folder of their source unless they are already there."""

    identities: int = Field(gt=0, le=bounds.PEOPLE)
    pictures: int = Field(gt=0, le=bounds.PICTURES)
    seed: Seed = 0
    first_identity: Seed = 0
    tail: NonNegative = 0.0
    fewest: int = Field(default=1, gt=0, le=bounds.PICTURES)
    label_noise: float = Field(default=0.0, ge=0.0, le=1.0)
    difficulty: float = Field(default=1.0, ge=0.0, le=100.0)


class Source(Section):
    """Labelled pictures in any format of :mod:`vplface.data.formats`, and the identities that are used."""

    path: Path
    split: str | None = None
    people: Path | None = None
    exclude: Path | None = None
    drop: Path | None = None
    min_pictures: int = Field(default=1, ge=1, le=bounds.LARGEST)
    max_pictures: int | None = Field(default=None, ge=1, le=bounds.LARGEST)
    synthetic: SyntheticConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: object) -> object:
        return {"path": value} if isinstance(value, _SCALAR | Path) else value


class DataConfig(Section):
    """The training data, their order and augmentation."""

    train: list[Source] = Field(min_length=1)
    holdout: float = Field(default=0.0, ge=0.0, lt=1.0)
    sampler: SamplerField = Shuffled()
    augmentation: _AugmentationField = Augmentation()
    workers: int | None = Field(default=None, ge=0, le=bounds.PROCESSES)

    @model_validator(mode="before")
    @classmethod
    def _from_one(cls, value: object) -> object:
        if isinstance(value, Mapping) and isinstance(value.get("train"), _SCALAR | Path | Mapping):
            return {**value, "train": [value["train"]]}
        return value


def _is_small(value: object) -> bool:
    """Whether no number in a value exceeds the largest size of a layer."""
    if isinstance(value, Mapping | list | tuple):
        return all(map(_is_small, value.values() if isinstance(value, Mapping) else value))
    found = number(value) if isinstance(value, str) else value
    return not isinstance(found, int | float) or abs(found) <= bounds.DIM


class BackboneConfig(Section):
    """The network, which maps a picture to its embedding."""

    name: str = "tiny"
    embedding_dim: int = Field(default=128, ge=1, le=bounds.DIM)
    options: dict[str, Any] = Field(default={})
    weights: Path | None = None
    preprocessing: PreprocessingField | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        value = {"name": value} if isinstance(value, str) else value
        if not isinstance(value, Mapping):
            return value
        require_known_keys(value, cls.model_fields)
        return with_graph(with_card(value))

    @model_validator(mode="after")
    def _options_fit(self) -> BackboneConfig:
        types = option_types(self.name)
        for option, value in self.options.items():
            key = f"backbone.options.{option}"
            if types is not None and option not in types:
                raise ValueError(f"{key} is not an option of {self.name}{did_you_mean_or_known(option, types)}")
            if not _is_small(value):
                raise ValueError(f"{key}: no number may exceed {bounds.DIM:,}, got {abbreviated(value)}")
            if types is None:
                self.options[option] = as_number(value)
                continue
            try:
                self.options[option] = validate_type(types[option], as_expected(types[option], value))
            except ValidationError as error:
                raise ValueError(f"{key}: {first_fault(error)}") from error
        return self


class OptimizerConfig(Section):
    """The optimiser of the network and of the prototypes."""

    name: Literal["sgd", "adamw"] = "sgd"
    # An infinite rate is refused by the training step, which names the last good checkpoint.
    lr: float = Field(default=0.1, gt=0.0, allow_inf_nan=True)
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: NonNegative = 5e-4
    head_lr_scale: Positive = 1.0
    clip: Positive | None = 5.0
    fused: bool | None = None

    @model_validator(mode="after")
    def _fused_fits(self) -> OptimizerConfig:
        if self.fused and self.name != "sgd":
            raise ValueError("fused updates the prototypes by SGD; it needs name: sgd")
        if self.fused and not math.isfinite(self.lr):
            raise ValueError("fused needs a finite lr")
        return self

    @property
    def is_fused(self) -> bool:
        """Whether the head updates its prototypes: as ``fused`` says, and without a word wherever it can."""
        return self.name == "sgd" and math.isfinite(self.lr) if self.fused is None else self.fused


class ScheduleConfig(Section):
    """The length of training and the learning rate over it."""

    name: Literal["cosine", "step", "polynomial", "constant"] = "cosine"
    length: DurationField = Duration(20, "epochs")
    warmup: DurationField = Duration(1, "epochs")
    milestones: list[DurationField] = Field(default=[])
    gamma: float = Field(default=0.1, gt=0.0, le=1.0)
    power: Positive = 2.0


class EvaluationSet(Section):
    """Pictures and the pairs to compare: those of a list, pairs drawn in 10 folds, or all pairs.

    ``half`` keeps the first or the second half of the people, so that a choice made on one half can be confirmed on the
    other. ``max_pictures`` keeps the first pictures of each. ``degrade`` makes some of its pictures poor.
    """

    name: str
    path: Path
    split: str | None = None
    pairs: Path | None = None
    threshold_pairs: Path | None = None
    people: Path | None = None
    balanced_pairs: int | None = Field(default=None, ge=20, le=bounds.PAIRS, multiple_of=20)
    half: Literal["first", "second"] | None = None
    half_seed: Seed = 0
    max_pictures: int | None = Field(default=None, ge=1, le=bounds.LARGEST)
    degrade: DegradeField = None
    synthetic: SyntheticConfig | None = None

    @model_validator(mode="after")
    def _one_protocol(self) -> EvaluationSet:
        if sum(choice is not None for choice in (self.pairs, self.people, self.balanced_pairs)) > 1:
            raise ValueError("give one of pairs (a list), balanced_pairs (drawn) and people (all their pairs)")
        if self.threshold_pairs is not None and self.pairs is None:
            raise ValueError("threshold_pairs needs pairs to apply the threshold to")
        if self.half is not None and (self.pairs is not None or self.balanced_pairs is not None):
            raise ValueError(
                "half divides the people, which a list of pairs does not allow; leave out pairs and balanced_pairs, so"
                " that all pairs of the half are compared"
            )
        if self.max_pictures is not None and (self.pairs is not None or self.balanced_pairs is not None):
            raise ValueError("max_pictures goes with all pairs of people; leave out pairs and balanced_pairs")
        return self


def _as_guards(value: object) -> object:
    """The guards of one set or of several, each a path or keys; a single one without a name is called ``guard``."""
    if value is None:
        return []
    if not isinstance(value, list):
        return [_as_guard(value, "guard")]
    return [_as_guard(each, "guard" if len(value) == 1 else None) for each in value]


def _as_guard(value: object, name: str | None) -> object:
    """A set of a path alone, or of keys without a name: that is ``name``, or else the last part of the path."""
    keys = {"path": value} if isinstance(value, _SCALAR | Path) else value
    if not isinstance(keys, Mapping):
        return keys
    return {"name": Path(str(keys.get("path", ""))).name if name is None else name, **keys}


class EvaluationConfig(Section):
    """The evaluation during training and at its end."""

    sets: list[EvaluationSet] = Field(default=[])
    flip: Literal["none", "sum"] = "sum"
    fars: list[Annotated[float, Field(gt=0.0, le=1.0)]] = Field(default=[1e-2, 1e-3, 1e-4], max_length=100)
    bootstrap: int = Field(default=500, ge=0, le=bounds.REPEATS)
    seed: Seed = 0
    every: DurationField | None = None
    best: str | None = None
    patience: int | None = Field(default=None, ge=1, le=bounds.LARGEST)
    untouched: bool = False
    guard: Annotated[list[EvaluationSet], BeforeValidator(_as_guards)] = Field(default=[])

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> EvaluationConfig:
        if self.every is None and (self.patience is not None or self.untouched):
            key = "untouched" if self.untouched else "patience"
            raise ValueError(f"{key} needs every, the length of training between two validations, e.g. '1 epoch'")
        if self.untouched and not self.bootstrap:
            raise ValueError("untouched decides by an interval, which needs bootstrap above 0")
        if self.guard and not self.untouched:
            raise ValueError("guard is compared with the model as it starts; it needs untouched: true")
        return self

    @property
    def every_set(self) -> list[EvaluationSet]:
        """The sets, and the guards."""
        return [*self.sets, *self.guard]
