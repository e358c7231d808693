"""The evaluation sets of a configuration, measured as often as training asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int64

from vplface.config import Config, EvaluationConfig, EvaluationSet, FoldConfig
from vplface.data.balanced import balanced_pairs
from vplface.data.degrade import DegradedPictures
from vplface.data.pair_lists import read_pairs
from vplface.data.pictures import Picture, PictureSet
from vplface.embedder import Embedder
from vplface.errors import ConfigError
from vplface.evaluation import EvalOptions, Evaluation
from vplface.evaluation.metrics import ACCURACY, BEST_ACCURACY, RANK, TAR, Metric, measurable
from vplface.evaluation.task import VerificationTask, own_pairs
from vplface.training.evaluation_sets import EvaluationPictures
from vplface.training.sources import open_training

HOLDOUT = "holdout"
PREFERRED = (TAR.at(1e-3), TAR.at(1e-2), ACCURACY.at(), BEST_ACCURACY.at(), RANK.at(1))
"""The best model is chosen by the first of these metrics that is measured, unless the settings name another."""


Values: TypeAlias = Mapping[str, Mapping[str, float | None]]
"""The values of the metrics of each set."""


class Validation:
    """Measures a model on the evaluation sets of a configuration; a picture that several sets share is embedded once.

    Args:
        settings: the evaluation section of the configuration.
        heldout: people kept out of training, who form the evaluation set ``holdout``; None for none.
        fold: the people of the sets who are tested; None for all.
        write: write generated faces to disk; else each is generated when it is read.

    Raises:
        DataError: if pictures or lists are missing or damaged: a run should fail before its first step, not at its end.
        ConfigError: if two sets have one name, or ``best`` names none of them.
    """

    def __init__(
        self,
        settings: EvaluationConfig,
        heldout: PictureSet | None,
        fold: FoldConfig | None = None,
        *,
        write: bool = True,
    ) -> None:
        self.settings = settings
        evaluated = EvaluationPictures(fold, write=write)
        self.tasks = {entry.name: _task(entry, evaluated, settings.seed) for entry in settings.sets}
        if len(self.tasks) < len(settings.sets):
            raise ConfigError("evaluation.sets: two sets have the same name")
        if heldout is not None:
            if len(heldout.identities) < 2:
                raise ConfigError(
                    "data.holdout keeps one person aside, but impostor pairs need at least two; raise it, or set"
                    " data.holdout=0"
                )
            self.tasks[HOLDOUT] = VerificationTask(HOLDOUT, heldout)
        if not self.tasks and (settings.untouched or settings.patience is not None):
            key = "untouched" if settings.untouched else "patience"
            raise ConfigError(f"evaluation.{key}: nothing is measured; set data.holdout, or evaluation.sets")
        for guard in settings.guard:
            if guard.name in self.tasks:
                raise ConfigError(
                    f"evaluation.guard: {guard.name!r} is the name of another set; give it a name of its own"
                )
            self.tasks[guard.name] = _task(guard, evaluated, settings.seed)
        self._guards = [guard.name for guard in settings.guard]
        needed = settings.untouched or settings.patience is not None
        elsewhere = " and name people with more pictures in evaluation.sets" if needed else ""
        for name, task in self.tasks.items():
            shown = task.pictures.labels[task.used]
            if task.pairs is None and len(np.unique(shown)) == len(shown):
                raise ConfigError(
                    f"evaluation set {name!r}: no two of its {len(shown)} pictures show one person, but all pairs"
                    " are compared; give it people with two or more pictures, or leave it out"
                    + (f" (data.holdout=0){elsewhere}" if name == HOLDOUT else "")
                )
        if settings.best is not None:
            self._require_figure(settings.best)

    def run(self, embedder: Embedder, bootstrap: int) -> dict[str, Evaluation]:
        """Evaluate a model on every set.

        Args:
            embedder: the model.
            bootstrap: resamples of the people for the intervals; 0 for none.
        """
        settings = self.settings
        options = EvalOptions(settings.flip, settings.fars, bootstrap=bootstrap, seed=settings.seed)
        clean: dict[int, Float[np.ndarray, "n dim"]] = {}
        for task in self.tasks.values():
            pictures = _clean(task)
            if id(pictures) not in clean:
                clean[id(pictures)] = self._embed(embedder, pictures)
        return {
            name: task.evaluate(self._embedded(embedder, task, clean[id(_clean(task))]), options)
            for name, task in self.tasks.items()
        }

    @property
    def embedded(self) -> int:
        """The pictures that :meth:`run` embeds; one that several sets compare as it is counts once."""
        clean = {id(_clean(task)): _clean(task) for task in self.tasks.values()}.values()
        degraded = sum(len(task.used) - len(_used(task)) for task in self.tasks.values())
        return sum(len(self._shared(pictures)) for pictures in clean) + degraded

    def criterion(self, values: Values) -> float | None:
        """The figure by which the best model is kept; None if it was not measured."""
        deciding = self.deciding(values)
        return None if deciding is None else values[deciding[0]][deciding[1]]

    def deciding(self, values: Values) -> tuple[str, str] | None:
        """Set and metric by which the best model is kept: ``best`` of the settings, or the first of ``PREFERRED``.

        Guards do not decide. None if no set has one of these metrics.
        """
        if self.settings.best is not None:
            name, _, metric = self.settings.best.rpartition("/")
            if metric not in values[name]:
                raise ConfigError(f"evaluation.best: {name!r} has no metric {metric!r}, only {', '.join(values[name])}")
            return name, metric
        return _first_measured(values, [name for name in values if name not in self._guards], PREFERRED)

    def guarded(self, values: Values) -> list[tuple[str, str]]:
        """Each guard, and the metric by which it is judged: the one that decides, or the first of ``PREFERRED``."""
        deciding = self.deciding(values)
        same = [] if deciding is None else [Metric.parse(deciding[1])]
        places = (_first_measured(values, [name], [*same, *PREFERRED]) for name in self._guards)
        return [place for place in places if place is not None]

    def picture(self, set_name: str, name: str) -> Picture | None:
        """A picture of an evaluation set by its name; None if there is none."""
        task = self.tasks.get(set_name)
        if task is None:
            return None
        index = next((int(index) for index in task.used if task.pictures.name(int(index)) == name), None)
        return None if index is None else task.pictures.picture(index)

    def _require_figure(self, best: str) -> None:
        """Check the choice of the best model, as far as it can be before anything is measured; see ``criterion``."""
        name, _, metric = best.rpartition("/")
        sets = [task for task in self.tasks if task not in self._guards]
        if name not in sets:
            raise ConfigError(
                f"evaluation.best: {best!r} must be SET/METRIC, with SET one of {', '.join(sets) or 'none'}"
            )
        asked = Metric.parse(metric)
        if asked.kind is None:
            points = measurable({TAR: self.settings.fars, RANK: [1]})
            known = ", ".join(key for key in points if not Metric.parse(key).descriptive)
            raise ConfigError(f"evaluation.best: {name!r} has no metric {metric!r}; there are {known}")
        if asked.descriptive:
            raise ConfigError(
                f"evaluation.best: {best!r} describes a model and does not judge it; choose another metric"
            )
        if asked.lower_is_better:
            raise ConfigError(
                f"evaluation.best: {best!r} is an error rate; choose a metric that is higher for better models"
            )
        measured = [TAR.at(far).key for far in self.settings.fars]
        if asked.kind is TAR and metric not in measured:
            raise ConfigError(
                f"evaluation.best: {metric!r} is not measured, only {', '.join(measured)}; add its rate to"
                " evaluation.fars"
            )

    def _embed(self, embedder: Embedder, pictures: PictureSet) -> Float[np.ndarray, "n dim"]:
        """Embeddings of the clean pictures of a set that any task compares; rows of others are NaN."""
        used = self._shared(pictures)
        embeddings = np.full((len(pictures), embedder.dim), np.nan, np.float32)
        embeddings[used] = embedder.embed_set(pictures, used, flip=self.settings.flip, description="evaluating")
        return embeddings

    def _shared(self, pictures: PictureSet) -> Int64[np.ndarray, " n"]:
        """The positions of the clean pictures of a set that any task compares."""
        return np.unique(np.concatenate([_used(task) for task in self.tasks.values() if _clean(task) is pictures]))

    def _embedded(
        self, embedder: Embedder, task: VerificationTask, clean: Float[np.ndarray, "n dim"]
    ) -> Float[np.ndarray, "m dim"]:
        """Embeddings of the pictures of a task, given those of its clean pictures."""
        if isinstance(task.pictures, DegradedPictures):
            return task.embed(embedder, self.settings.flip, clean=clean)
        return clean


def _clean(task: VerificationTask) -> PictureSet:
    """The set of a task without degradation."""
    return task.pictures.original if isinstance(task.pictures, DegradedPictures) else task.pictures


def _used(task: VerificationTask) -> Int64[np.ndarray, " n"]:
    """The positions, in the set without degradation, of the pictures that a task compares as they are."""
    if not isinstance(task.pictures, DegradedPictures):
        return task.used
    clean = task.used[~task.pictures.degraded[task.used]]
    places: Int64[np.ndarray, " n"] = task.pictures.places[clean]
    return places


def values_of(evaluations: Mapping[str, Evaluation]) -> dict[str, dict[str, float | None]]:
    """The values of the metrics of each set, without their intervals."""
    return {
        name: {metric: figure.value for metric, figure in evaluation.metrics.items()}
        for name, evaluation in evaluations.items()
    }


def _first_measured(values: Values, sets: Sequence[str], metrics: Sequence[Metric]) -> tuple[str, str] | None:
    measured = ((name, metric.key) for metric in metrics for name in sets if values[name].get(metric.key) is not None)
    return next(measured, None)


def validation_of(config: Config) -> Validation:
    """The validation of a configuration, for a finished model."""
    heldout = open_training(config.data, config.evaluation.seed)[1] if config.data.holdout else None
    return Validation(config.evaluation, heldout, config.fold)


def _task(entry: EvaluationSet, evaluated: EvaluationPictures, seed: int) -> VerificationTask:
    pictures, chosen = evaluated.open(entry), evaluated.chosen(entry)
    pairs = threshold_pairs = None
    if entry.balanced_pairs is not None:
        pairs = balanced_pairs(pictures, entry.balanced_pairs, seed)
    elif entry.pairs is not None:
        pairs = read_pairs(entry.pairs)
        threshold_pairs = None if entry.threshold_pairs is None else read_pairs(entry.threshold_pairs)
    elif chosen is None:
        pairs = own_pairs(pictures)
    task = VerificationTask(entry.name, pictures, pairs, threshold_pairs, chosen)
    return task if entry.degrade is None else task.with_degraded(entry.degrade)
