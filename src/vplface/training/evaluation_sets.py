"""The pictures of evaluation sets, and the people whom a fold tests."""

from __future__ import annotations

import os
from collections.abc import Collection

import numpy as np
from jaxtyping import Int64

from vplface.config import Config, EvaluationSet, FoldConfig
from vplface.config.folds import PeopleList
from vplface.data.align.advice import warn_if_unaligned
from vplface.data.folds import fold_of
from vplface.data.formats import open_pictures
from vplface.data.people import read_people
from vplface.data.pictures import PictureSet
from vplface.data.selection import Subset, half_of, half_of_people, place_of_person
from vplface.data.spelling import composed
from vplface.errors import ConfigError, DataError
from vplface.training.sources import generate
from vplface_synthetic import SyntheticFaces


class EvaluationPictures:
    """The pictures of evaluation sets; those that several sets share are opened once.

    Args:
        fold: the people to keep; None keeps all.
        write: write generated faces to disk; else each is generated when it is read.
    """

    def __init__(self, fold: FoldConfig | None = None, *, write: bool = True) -> None:
        self._fold, self._write = fold, write
        self._excluded = set[str]().union(*([] if fold is None else map(_people_on, fold.exclude)))
        self._opened: dict[str, PictureSet] = {}

    def open(self, entry: EvaluationSet) -> PictureSet:
        """All pictures of the path and split of a set; raises DataError if they are missing or damaged."""
        source = _source(entry)
        if source not in self._opened:
            try:
                self._opened[source] = self._read(entry)
            except DataError as error:
                raise DataError(f"evaluation set {entry.name!r}: {error}") from error
        return self._opened[source]

    def chosen(self, entry: EvaluationSet) -> Int64[np.ndarray, " m"] | None:
        """The positions of the pictures of the people who are compared; None for all pictures.

        Raises:
            ConfigError: people are asked for who are not in the set, or too few are left to compare.
        """
        pictures = self.open(entry)
        chosen = np.arange(len(pictures))
        if entry.people is not None:
            people = set(read_people(entry.people))
            wanted = [label for label, name in enumerate(pictures.identities) if name in people]
            if len(wanted) < len(people):
                raise ConfigError(
                    f"evaluation set {entry.name!r}: {len(people) - len(wanted)} of the {len(people)} people in"
                    f" {entry.people} are not in {_source(entry)}"
                )
            chosen = np.flatnonzero(np.isin(pictures.labels, wanted))
        try:
            if entry.half is not None:
                chosen = chosen[half_of(Subset(pictures, chosen), entry.half, entry.half_seed)]
            if self._fold is not None:
                chosen = chosen[_of_fold(Subset(pictures, chosen), self._fold, self._excluded)]
        except DataError as error:
            raise ConfigError(f"evaluation set {entry.name!r}: {error}") from error
        if entry.max_pictures is not None:
            chosen = chosen[place_of_person(pictures.labels[chosen]) < entry.max_pictures]
        limits = (entry.people, entry.half, self._fold, entry.max_pictures)
        return None if all(limit is None for limit in limits) else chosen

    def _read(self, entry: EvaluationSet) -> PictureSet:
        if entry.synthetic is not None:
            if not self._write:
                return SyntheticFaces(**entry.synthetic.model_dump())
            generate(entry.path, entry.synthetic)
        stored = open_pictures(entry.path, entry.split)
        if entry.synthetic is None and os.environ.get("RANK", "0") == "0":  # of several processes one says it
            warn_if_unaligned(entry.path, stored, entry.split)
        return stored


def pictures_of_fold(config: Config, *, write: bool = True) -> dict[str, Subset]:
    """The pictures that a fold tests, by evaluation set; {} for a run that has no fold.

    Args:
        config: the run.
        write: write generated faces to disk; else each is generated when it is read.

    Raises:
        ConfigError: nobody on the lists of excluded people is in any set, or a set has fewer than two people in the
            fold.
        DataError: pictures or lists are missing or damaged.
    """
    if config.fold is None:
        return {}
    evaluated = EvaluationPictures(config.fold, write=write)
    entries = config.evaluation.every_set
    everybody = {composed(name) for entry in entries for name in evaluated.open(entry).identities}
    for number, listed in enumerate(config.fold.exclude):
        if everybody.isdisjoint(_people_on(listed)):
            raise ConfigError(
                f"fold.exclude.{number}: nobody in {listed.people} is in an evaluation set, where people are called"
                f" {evaluated.open(entries[0]).identities[0]!r} and so on"
            )
    tested = {}
    for entry in entries:
        chosen = evaluated.chosen(entry)
        assert chosen is not None
        tested[entry.name] = Subset(evaluated.open(entry), chosen)
    return tested


def people_of_fold(config: Config, *, write: bool = True) -> set[str]:
    """The people whom the fold of a run tests, on whom it must not train; see :func:`pictures_of_fold`."""
    return {name for pictures in pictures_of_fold(config, write=write).values() for name in pictures.identities}


def _of_fold(pictures: PictureSet, fold: FoldConfig, excluded: Collection[str]) -> Int64[np.ndarray, " m"]:
    """The pictures of the people of a fold, less those that are excluded."""
    tested = [
        label
        for label, name in enumerate(pictures.identities)
        if composed(name) not in excluded and fold_of(name, fold.count, fold.seed) == fold.number
    ]
    if len(tested) < 2:
        raise DataError(
            f"fold {fold.number} of {fold.count} has {len(tested)} of its {len(pictures.identities)} people; all pairs"
            " need at least two. Lower the count of folds"
        )
    return np.flatnonzero(np.isin(pictures.labels, tested))


def _people_on(listed: PeopleList) -> set[str]:
    """The people on a list, or on one half of it, in Unicode's composed form."""
    people = read_people(listed.people)
    if listed.half is not None:
        try:
            people = [people[position] for position in half_of_people(people, listed.half, listed.half_seed)]
        except DataError as error:
            raise DataError(f"{listed.people}: {error}") from error
    return set(map(composed, people))


def _source(entry: EvaluationSet) -> str:
    return str(entry.path) if entry.split is None else f"{entry.path}, split {entry.split}"
