"""What a training run is made of: one validated configuration, read from YAML and ``key=value`` overrides."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import numpy as np
from jaxtyping import Int
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from vplface import bounds
from vplface.backbones import option_types
from vplface.config.section import Section, as_expected, as_number
from vplface.data.augment import Augmentation
from vplface.data.samplers import SAMPLERS, Shuffled
from vplface.errors import ConfigError, DataError, UsageError
from vplface.margins import MARGINS, ArcFace
from vplface.paths import at_home
from vplface.prototypes import DriftStartRule, LastFeature, Variational, covering
from vplface.prototypes.memories import MEMORIES
from vplface.reading import kind_of, read_text
from vplface.run_folder import RunFolder
from vplface.strict_yaml import DEEPEST, LIMIT, number, parse_yaml, plain, to_yaml
from vplface.suggest import did_you_mean, did_you_mean_or_known, similar_names
from vplface.terms import TERMS, BroadFace, Term
from vplface.terms.fit import bind_without_storage, require_fit


@dataclasses.dataclass(frozen=True)
class Duration:
    """A length of training, in optimiser steps or in epochs.

    Attributes:
        amount: how many.
        unit: of what.
    """

    amount: float
    unit: Literal["steps", "epochs"] = "steps"

    def __post_init__(self) -> None:
        if not 0.0 <= self.amount <= bounds.LARGEST:
            raise ValueError(f"a duration is of 0 to {bounds.LARGEST:,} {self.unit}, got {self.amount:g}")
        object.__setattr__(self, "amount", float(self.amount))

    def steps(self, steps_per_epoch: int) -> int:
        """The length in steps, epochs rounded to whole steps."""
        return round(self.amount * (steps_per_epoch if self.unit == "epochs" else 1))

    def __str__(self) -> str:
        return f"{Decimal(repr(self.amount)).normalize():f} {self.unit}"


_DURATION = re.compile(r"\s*(\S+?)\s*(steps?|epochs?)?\s*")


def _read_duration(value: object) -> object:
    if isinstance(value, Duration):
        return value
    amount, unit = value, ""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)) is not None:
        amount, unit = number(match[1].replace("_", "")), match[2] or ""
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        raise ValueError(f"{shown(value)} is not a duration; write a number of steps (500) or of epochs (3 epochs)")
    return Duration(amount, "epochs" if unit.startswith("epoch") else "steps")


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_SHOWN = 100


@dataclasses.dataclass(frozen=True)
class StartedTerm:
    """A term whose start is given in epochs or steps.

    Attributes:
        term: the term, with another start.
        start: when it starts.
    """

    term: Any
    start: Duration

    def resolve(self, steps_per_epoch: int) -> Term:
        """The term, with its start in steps."""
        term: Term = dataclasses.replace(self.term, start=self.start.steps(steps_per_epoch))
        return term


_MOST = {"size": bounds.SIZE, "bank": bounds.SIZE, "count": bounds.EACH, "per_class": bounds.BATCH}
"""Of options that say how much is kept, or how many there are."""
_ENDLESS = ("whisker",)
"""Options of which infinity has a meaning."""


def _made(section: str, kind: type, options: Mapping[str, Any]) -> object:
    """A dataclass from raw values, which are converted to the types of its fields (YAML reads 1e-2 as text)."""
    hints = get_type_hints(kind)
    options = {key: as_expected(hints[key], value) for key, value in options.items()}
    for key, value in options.items():
        most = _MOST.get(key, bounds.LARGEST)
        endless = key in _ENDLESS and value == math.inf
        if isinstance(value, int | float) and not endless and not -most <= value <= most:
            raise ValueError(f"{section}.{key} must be at most {most:,}, got {shown(value)}")
    try:
        return _validate(kind, options)
    except ValidationError as error:
        loc = error.errors()[0]["loc"]
        raise ValueError(f"{section}.{_dotted(loc)}: {_first_fault(error)}" if loc else _first_fault(error)) from error


def _validate(kind: Any, value: object) -> Any:
    return TypeAdapter(kind).validate_python(value)


def _first_fault(error: ValidationError) -> str:
    """What is wrong with the first value that is, and that value unless it is a whole section."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    whole = first["type"] == "missing" or isinstance(first["input"], Mapping)
    return message if whole else f"{message}, got {shown(first['input'])}"


def _dotted(loc: Iterable[object]) -> str:
    return ".".join(str(part) for part in loc)


class _Named:
    """A choice among dataclasses, written as ``{name: NAME, option: value, ...}`` or, with all defaults, as NAME.

    Args:
        section: the key under which it stands, for messages.
        kinds: what there is to choose from, by name.
        default: the name that is meant if none is given.
    """

    def __init__(self, section: str, kinds: Mapping[str, type], default: str) -> None:
        self.section, self.kinds, self.default = section, kinds, default

    def read(self, value: object) -> object:
        """The chosen dataclass; what is one already stays."""
        if type(value) in self.kinds.values():
            return value
        if not isinstance(value, str | Mapping):
            raise ValueError(f"{self.section} must be a name, or a name and options; known: {', '.join(self.kinds)}")
        options = {"name": value} if isinstance(value, str) else dict(value)
        name = options.pop("name", self.default)
        if not isinstance(name, str) or name not in self.kinds:
            raise ValueError(
                f"{self.section}.name {shown(name)} is unknown{did_you_mean_or_known(str(name), self.kinds)}"
            )
        known = [field.name for field in dataclasses.fields(self.kinds[name])]
        for key in options:
            if key not in known:
                hint = did_you_mean_or_known(str(key), known) if known else ", which has none"
                raise ValueError(f"{self.section}.{key} is not an option of {name}{hint}")
        return _made(self.section, self.kinds[name], options)

    def write(self, value: object) -> dict[str, Any]:
        """The mapping that reads as ``value``."""
        return {"name": next(name for name, kind in self.kinds.items() if type(value) is kind), **vars(value)}


@dataclasses.dataclass(frozen=True)
class Lifetime:
    """Δt as a target: the shorter of the two where both are given.

    Attributes:
        coverage: the smallest Δt that is expected to keep this share of the classes alive.
        drift: the largest Δt over which features move by no more than this share of the distance between two pictures
            of a class, decided when injection begins; see ``DriftMonitor``.
    """

    coverage: float | None = None
    drift: float | None = None

    def __post_init__(self) -> None:
        if self.coverage is None and self.drift is None:
            raise ValueError("a target is a coverage, a drift, or both")
        if self.coverage is not None and not 0.0 < self.coverage < 1.0:
            raise ValueError(f"coverage must lie in (0, 1), got {self.coverage}")
        if self.drift is not None and not self.drift > 0.0:
            raise ValueError(f"drift must be positive, got {self.drift}")


class _Rule:
    """A length of training, or a rule that finds it, written as a mapping of the fields of a dataclass.

    Args:
        section: the key under which it stands, for messages.
        kind: the dataclass.
        words: rules that have a name.
    """

    def __init__(self, section: str, kind: type, words: Mapping[str, Any]) -> None:
        self.section, self.kind, self.words = section, kind, words

    def read(self, value: object) -> object:
        """The length or the rule; what is one already stays."""
        if isinstance(value, str) and value in self.words:
            return self.words[value]
        if isinstance(value, Mapping):
            known = [field.name for field in dataclasses.fields(self.kind)]
            for key, number in value.items():
                if key not in known:
                    raise ValueError(f"{self.section}.{key} is unknown{did_you_mean_or_known(str(key), known)}")
                if isinstance(number, bool):
                    raise ValueError(f"{self.section}.{key} must be a number, got {number!r}")
            return _made(self.section, self.kind, value)
        if isinstance(value, self.kind):
            return value
        if not isinstance(value, Duration | int | float | str) or isinstance(value, bool):
            raise ValueError(f"{self.section} must be a number of steps or epochs, or a rule")
        return _read_duration(value)

    def write(self, value: Any) -> Any:
        """What reads as ``value``."""
        return str(value) if isinstance(value, Duration) else dataclasses.asdict(value)


_LIFETIME = _Rule("delta_t", Lifetime, {})
_START = _Rule("start", DriftStartRule, {"auto": DriftStartRule()})
_MARGIN = _Named("margin", MARGINS, "arcface")
_SAMPLER = _Named("sampler", SAMPLERS, "shuffled")
_MEMORY = _Named("memory", MEMORIES, "last")
_TERM = _Named("terms", TERMS, "")


def _read_term(value: object) -> object:
    if isinstance(value, Mapping) and isinstance(value.get("start"), str):
        start = _read_duration(value["start"])
        assert isinstance(start, Duration)
        return StartedTerm(_TERM.read({**value, "start": 0}), start)
    return value if isinstance(value, StartedTerm) else _TERM.read(value)


def _write_term(value: Any) -> dict[str, Any]:
    if isinstance(value, StartedTerm):
        return {**_TERM.write(value.term), "start": str(value.start)}
    return _TERM.write(value)


Length = Annotated[Duration, BeforeValidator(_read_duration), PlainSerializer(str)]
LifetimeField = Annotated[Any, BeforeValidator(_LIFETIME.read), PlainSerializer(_LIFETIME.write)]
StartField = Annotated[Any, BeforeValidator(_START.read), PlainSerializer(_START.write)]
MarginField = Annotated[Any, BeforeValidator(_MARGIN.read), PlainSerializer(_MARGIN.write)]
SamplerField = Annotated[Any, BeforeValidator(_SAMPLER.read), PlainSerializer(_SAMPLER.write)]
MemoryField = Annotated[Any, BeforeValidator(_MEMORY.read), PlainSerializer(_MEMORY.write)]
TermField = Annotated[Any, BeforeValidator(_read_term), PlainSerializer(_write_term)]


Model = TypeVar("Model", bound=BaseModel)


def _a_name(name: str) -> str:
    """Refuse what cannot be the name of a folder."""
    if (
        name in ("", ".", "..")
        or "/" in name
        or "\\" in name
        or len(name.encode(errors="surrogateescape")) > _LONGEST_NAME
    ):
        raise ValueError(f"a name is that of a folder: at most {_LONGEST_NAME} bytes, without slashes, not '.' or '..'")
    return name


_LONGEST_NAME = 200
Name = Annotated[str, AfterValidator(_a_name)]
Seed = Annotated[int, Field(ge=0, le=bounds.SEED)]
Positive = Annotated[float, Field(gt=0.0, le=bounds.LARGEST)]
NotNegative = Annotated[float, Field(ge=0.0, le=bounds.LARGEST)]


_SCALAR = str | int | float  # bool is an int


class _Section(Section, BaseModel):  # the second base is there for linters, which look no further
    pass


class Synthetic(_Section):
    """Generated faces, written to the folder of the source that asks for them if they are not there yet."""

    identities: int = Field(gt=0, le=bounds.PEOPLE)
    pictures: int = Field(gt=0, le=bounds.PICTURES)
    seed: Seed = 0
    first_identity: Seed = 0
    tail: NotNegative = 0.0
    fewest: int = Field(default=1, gt=0, le=bounds.PICTURES)
    label_noise: float = Field(default=0.0, ge=0.0, le=1.0)
    difficulty: float = Field(default=1.0, ge=0.0, le=100.0)


class Source(_Section):
    """Labelled pictures, in any of the formats of :mod:`vplface.data.formats`, and which of their identities count."""

    path: Path
    split: str | None = None
    people: Path | None = None
    exclude: Path | None = None
    drop: Path | None = None
    min_pictures: int = Field(default=1, ge=1, le=bounds.LARGEST)
    max_pictures: int | None = Field(default=None, ge=1, le=bounds.LARGEST)
    synthetic: Synthetic | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: object) -> object:
        return {"path": value} if isinstance(value, _SCALAR | Path) else value


class Data(_Section):
    """What is trained on."""

    train: list[Source] = Field(min_length=1)
    holdout: float = Field(default=0.0, ge=0.0, lt=1.0)
    sampler: SamplerField = Shuffled()
    augmentation: Augmentation = Augmentation()
    workers: int | None = Field(default=None, ge=0, le=bounds.PROCESSES)

    @model_validator(mode="before")
    @classmethod
    def _from_one(cls, value: object) -> object:
        if isinstance(value, Mapping) and isinstance(value.get("train"), _SCALAR | Path | Mapping):
            return {**value, "train": [value["train"]]}
        return value


def _is_small(value: object) -> bool:
    """Whether no number in a value is larger than any size of a network."""
    if isinstance(value, Mapping | list | tuple):
        return all(map(_is_small, value.values() if isinstance(value, Mapping) else value))
    found = number(value) if isinstance(value, str) else value
    return not isinstance(found, int | float) or abs(found) <= bounds.DIM


class Backbone(_Section):
    """The network, picture → embedding."""

    name: str = "tiny"
    embedding_dim: int = Field(default=128, ge=1, le=bounds.DIM)
    options: dict[str, Any] = {}
    weights: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _options_fit(self) -> Backbone:
        types = option_types(self.name)
        for option, value in self.options.items():
            key = f"backbone.options.{option}"
            if types is not None and option not in types:
                raise ValueError(f"{key} is not an option of {self.name}{did_you_mean_or_known(option, types)}")
            if not _is_small(value):
                raise ValueError(f"{key}: no number may exceed {bounds.DIM:,}, got {shown(value)}")
            try:
                self.options[option] = (
                    as_number(value) if types is None else _validate(types[option], as_expected(types[option], value))
                )
            except ValidationError as error:
                raise ValueError(f"{key}: {_first_fault(error)}") from error
        return self


class Injection(_Section):
    """``vplface.Variational``, its lifetime and start in steps, in epochs or as rules; and who writes the memory."""

    lam: float = Field(default=0.15, ge=0.0, le=1.0)
    delta_t: LifetimeField = Duration(1, "epochs")
    start: StartField = Duration(0)
    renormalise: bool = True
    memory: MemoryField = LastFeature()
    momentum: float | None = Field(default=None, gt=0.0, lt=1.0)

    @property
    def lifetime_drift(self) -> float | None:
        """The bound on drift that Δt is decided by, if there is one."""
        return self.delta_t.drift if isinstance(self.delta_t, Lifetime) else None

    def start_rule(self, steps_per_epoch: int) -> DriftStartRule | int:
        """When injection begins: a rule, or a step."""
        return self.start if isinstance(self.start, DriftStartRule) else int(self.start.steps(steps_per_epoch))

    def resolve(self, steps_per_epoch: int, class_sizes: Int[np.ndarray, " classes"], batch_size: int) -> Variational:
        """The hyper-parameters in steps; what drift has to decide is left to it.

        Args:
            steps_per_epoch: optimiser steps.
            class_sizes: pictures per class.
            batch_size: B, over all ranks.

        Raises:
            ValueError: if a coverage is out of reach.
        """
        delta_t: int | None
        if isinstance(self.delta_t, Duration):
            delta_t = max(self.delta_t.steps(steps_per_epoch), 1)
        else:
            target = self.delta_t.coverage
            delta_t = None if target is None else covering(class_sizes, batch_size, target)
        start = self.start_rule(steps_per_epoch)
        begins: int | Literal["auto"] = "auto"
        if isinstance(start, int) and self.lifetime_drift is None:
            begins = start
        return Variational(self.lam, delta_t, begins, self.renormalise, self.memory)


class Optimizer(_Section):
    """How weights move."""

    name: Literal["sgd", "adamw"] = "sgd"
    # A step refuses an infinite rate and names the last good checkpoint, whoever made the rate infinite.
    lr: float = Field(default=0.1, gt=0.0, allow_inf_nan=True)
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: NotNegative = 5e-4
    head_lr_scale: Positive = 1.0
    clip: Positive | None = 5.0
    fused: bool = False

    @model_validator(mode="after")
    def _one_pass(self) -> Optimizer:
        if self.fused and self.name != "sgd":
            raise ValueError("fused moves the prototypes by SGD; it needs name: sgd")
        if self.fused and self.clip is not None:
            raise ValueError(
                "fused moves the prototypes before a norm over all gradients is known; it needs clip: null"
            )
        if self.fused and not math.isfinite(self.lr):
            raise ValueError("fused needs a finite lr")
        return self


class Schedule(_Section):
    """How long, and how the learning rate goes there."""

    name: Literal["cosine", "step", "polynomial", "constant"] = "cosine"
    length: Length = Duration(20, "epochs")
    warmup: Length = Duration(1, "epochs")
    milestones: list[Length] = []
    gamma: float = Field(default=0.1, gt=0.0, le=1.0)
    power: Positive = 2.0


class EvaluationSet(_Section):
    """Pictures and the question asked about them: a list of pairs, pairs drawn in 10 folds, or all pairs of people.

    ``half`` keeps the first or the second half of the people, so that what is chosen on one can be confirmed on the
    other.
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
    synthetic: Synthetic | None = None

    @model_validator(mode="after")
    def _one_question(self) -> EvaluationSet:
        if sum(question is not None for question in (self.pairs, self.people, self.balanced_pairs)) > 1:
            raise ValueError("give one of pairs (a list), balanced_pairs (drawn) and people (all their pairs)")
        if self.threshold_pairs is not None and self.pairs is None:
            raise ValueError("threshold_pairs needs pairs to apply the threshold to")
        if self.half is not None and (self.pairs is not None or self.balanced_pairs is not None):
            raise ValueError(
                "half divides the people, which a list of pairs does not allow; leave out pairs and balanced_pairs, so"
                " that all pairs of the half are compared"
            )
        return self


class Evaluation(_Section):
    """What is measured, during training and at its end."""

    sets: list[EvaluationSet] = []
    flip: Literal["none", "sum"] = "sum"
    fars: list[Annotated[float, Field(gt=0.0, le=1.0)]] = Field(default=[1e-2, 1e-3, 1e-4], max_length=100)
    bootstrap: int = Field(default=500, ge=0, le=bounds.REPEATS)
    seed: Seed = 0
    every: Length | None = None
    best: str | None = None


class Config(_Section):
    """A training run."""

    name: Name
    output: Path = Path("runs")
    seed: Seed = 0
    data: Data
    backbone: Backbone = Backbone()
    margin: MarginField = ArcFace(32.0, 0.4)
    variational: Injection | None = None
    terms: list[TermField] = []
    sample_rate: float = Field(default=1.0, gt=0.0, le=1.0)
    subcenters: int = Field(default=1, ge=1, le=bounds.EACH)
    interclass_threshold: float | None = Field(default=None, gt=-1.0, le=1.0)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    batch_size: int = Field(default=128, ge=1, le=bounds.BATCH)
    accumulate: int = Field(default=1, ge=1, le=bounds.EACH)
    ema: float | None = Field(default=None, gt=0.0, lt=1.0)
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1, le=bounds.THREADS)
    evaluation: Evaluation = Evaluation()
    loggers: list[Literal["tensorboard", "wandb", "mlflow"]] = ["tensorboard"]
    log_every: Length = Duration(20)
    drift_every: Length | None = None
    checkpoint_every: Length = Duration(1, "epochs")
    checkpoints_kept: int = Field(default=2, ge=1, le=bounds.LARGEST)
    init_from: Path | None = None
    init_new_classes: Literal["mean", "random"] = "mean"
    timeout: float = Field(default=600.0, gt=0.0, le=1e8)
    sphere: bool = False
    arms: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _one_part(self) -> Config:
        if self.optimizer.fused and self.accumulate > 1:
            raise ValueError("optimizer.fused moves the prototypes in every backward pass; it needs accumulate: 1")
        return self

    @model_validator(mode="after")
    def _terms_fit(self) -> Config:
        kinds = [type(term) for term in self.resolved_terms(1)]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise ValueError(f"terms holds two {kind.__name__}; one of a kind has a meaning")
        if BroadFace in kinds and self.variational is not None:
            raise ValueError("terms: broadface and variational both use past samples; take one of the two")
        if BroadFace in kinds and self.accumulate > 1:
            raise ValueError("terms: broadface needs the whole batch at once; it needs accumulate: 1")
        terms = bind_without_storage(self.resolved_terms(1))
        require_fit(self.margin, terms, sample_rate=self.sample_rate, subcenters=self.subcenters)
        return self

    def resolved_terms(self, steps_per_epoch: int) -> list[Term]:
        """The terms, with their starts in steps."""
        return [term.resolve(steps_per_epoch) if isinstance(term, StartedTerm) else term for term in self.terms]

    @property
    def run_folder(self) -> Path:
        """Where the run is kept."""
        return self.output / self.name

    def to_yaml(self) -> str:
        """The whole configuration, defaults included, as read_config reads it."""
        return to_yaml(self.model_dump(mode="json"))


def read_config(recipe: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and apply ``key=value`` overrides (``optimizer.lr=0.05``, ``data.train.0.min_pictures=2``).

    Args:
        recipe: the path of a YAML file, a run folder, or the name of a recipe that is shipped (``lfw``).
        overrides: dotted keys and YAML values.

    Raises:
        ConfigError: naming the file and the key, and the nearest known one where a key is unknown.
        UsageError: the same, where the fault is in an override.
    """
    raw = read_recipe(recipe)
    try:
        return build_config(merge(raw, overrides), str(recipe))
    except ConfigError as error:
        if overrides and _is_valid(raw):
            raise UsageError(str(error)) from error
        raise


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    folder = files("vplface").joinpath("configs")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


_READABLE = ("file", "other")  # of another kind than a regular file the reader says so


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The raw contents of a recipe; see ``read_config``. That of a run folder is called and lies as the folder does."""
    try:
        return _read_recipe(recipe)
    except DataError as error:
        raise ConfigError(str(error)) from error


def _read_recipe(recipe: str | Path) -> dict[str, Any]:
    path, place = at_home(recipe), {}
    if kind_of(RunFolder(path).config) in _READABLE:
        folder = path if path.name not in ("", "..") else path.resolve()
        place = {"name": folder.name, "output": str(folder.parent)}
        path = RunFolder(path).config
    if kind_of(path) in _READABLE:
        text = read_text(path, limit=LIMIT)
    elif path.stem in shipped_recipes() and str(path.parent) in (".", "configs"):
        text = files("vplface").joinpath("configs", f"{path.stem}.yaml").read_text(encoding="utf-8")
    else:
        shipped = shipped_recipes()
        known = {name: name for name in shipped} | {file.stem: str(file) for file in path.parent.glob("*.yaml")}
        similar = similar_names(path.stem, known)
        raise ConfigError(
            f"no configuration {str(recipe)!r}: neither a file, a run folder nor a shipped recipe"
            + (f"; did you mean {known[similar[0]]!r}?" if similar else f"; known: {', '.join(shipped)}")
        )
    raw = parse_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{recipe} must hold a mapping of keys to values")
    return raw | place


def merge(raw: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of ``raw`` with ``key=value`` overrides applied.

    Raises:
        UsageError: if an override is not of the form key=value, or walks into something that is no mapping or list.
    """
    merged: dict[str, Any] = _copied(raw)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UsageError(f"{shown(override)} is not of the form key=value, e.g. optimizer.lr=0.05")
        value = _of_override(key, text)
        place: Any = merged
        *parents, last = key.split(".")
        if len(parents) >= DEEPEST:
            raise UsageError(f"the key of {shown(override)} has more than {DEEPEST} parts")
        for part in parents:
            place = _enter(place, part, key)
        if isinstance(place, list):
            place[_index(place, last, key)] = value
        else:
            place[last] = value
    return merged


def _of_override(key: str, text: str) -> Any:
    """What stands behind the sign of equality: a list, a mapping or a text in quotes is YAML, all else as it stands."""
    if not text.lstrip().startswith(("[", "{", '"', "'")):
        bare = text.strip()
        value = plain(bare)
        return text if isinstance(value, str) else value
    try:
        return parse_yaml(text, f"the value of {key!r}")
    except DataError as error:
        raise UsageError(f"{error}; of a text that begins so, write the whole in quotes: {key}='\"TEXT\"'") from error


def overlay(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``raw`` with nested ``changes`` laid over it; a value that is not a mapping replaces what was there.

    null over a section removes it, so that it is as if it had never been written. Where another name is chosen the
    options of the first go with it: those of ArcFace are none of CosFace.
    """
    result = dict(raw)
    for key, value in changes.items():
        below = result.get(key)
        if isinstance(below, Mapping) and value is None:
            del result[key]
        elif isinstance(below, Mapping) and isinstance(value, Mapping) and not _chooses_another(key, below, value):
            result[key] = overlay(below, value)
        else:
            result[key] = value
    return result


def _chooses_another(key: str, below: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    chosen = key in (_MARGIN.section, _SAMPLER.section, _MEMORY.section)
    return chosen and "name" in value and value["name"] != below.get("name", value["name"])


def build_config(raw: Mapping[str, Any], origin: str) -> Config:
    """Validate raw values; see ``read_config``."""
    return validated(Config, raw, origin)


def validated(kind: type[Model], raw: Mapping[str, Any], origin: str) -> Model:
    """Raw values as what they are to be.

    Args:
        kind: the model that says which keys there are.
        raw: the values.
        origin: where they come from, for errors.

    Raises:
        ConfigError: naming origin and key, and the nearest known one where a key is unknown.
    """
    refuse_unknown(kind, raw, (), origin)
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{origin}: {_dotted(first['loc'])}" if first["loc"] else origin
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        near = ""
        if first["type"] == "literal_error":
            near = did_you_mean(str(first["input"]), re.findall("'(.*?)'", first["ctx"]["expected"]))
        raise ConfigError(f"{where}: {_first_fault(error)}{near}{more}") from error


def _is_valid(raw: Mapping[str, Any]) -> bool:
    try:
        build_config(raw, "")
    except ConfigError:
        return False
    return True


def _copied(value: Any) -> Any:
    """The same values in containers of their own; what a YAML alias made one is two."""
    if isinstance(value, Mapping):
        return {key: _copied(below) for key, below in value.items()}
    return [_copied(below) for below in value] if isinstance(value, list) else value


def _enter(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, key)]
    if place.get(part) is None:
        place[part] = {}
    if not isinstance(place[part], dict | list):
        raise UsageError(f"cannot set {key!r}: {part!r} holds the value {shown(place[part])}")
    return place[part]


def _index(place: list[Any], part: str, key: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", part) or int(part) >= len(place):
        raise UsageError(f"cannot set {key!r}: {part!r} is not an index in 0..{len(place) - 1}")
    return int(part)


def refuse_unknown(kind: Any, raw: object, where: tuple[str, ...], origin: str) -> None:
    """Walk raw values beside the types that will hold them, so that a typo is answered with the nearest key."""
    if isinstance(raw, list):
        for index, item in enumerate(raw):
            refuse_unknown(kind, item, (*where, str(index)), origin)
    if not isinstance(raw, Mapping):
        return
    if issubclass(kind, BaseModel):
        annotations: dict[str, Any] = {name: field.annotation for name, field in kind.model_fields.items()}
    else:
        annotations = {field.name: None for field in dataclasses.fields(kind)}
    for key, value in raw.items():
        if key not in annotations:
            place = ".".join((*where, str(key)))
            raise ConfigError(f"{origin}: unknown key {place!r}{did_you_mean_or_known(str(key), annotations)}")
        for section in _sections(annotations[key]):
            refuse_unknown(section, value, (*where, key), origin)


def _sections(annotation: Any) -> list[type]:
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or annotation is Augmentation):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]
