"""Generator of balanced verification pairs over folds with disjoint people."""

from __future__ import annotations

import itertools

import numpy as np

from vplface.data.pairs import Pairs
from vplface.data.pictures import PictureSet
from vplface.errors import DataError


def balanced_pairs(pictures: PictureSet, count: int, seed: int = 0, folds: int = 10) -> Pairs:
    """Draw pairs as LFW's View 2 does: half of each fold genuine, no person in two folds, no pair twice.

    Genuine pairs take turns over the identities of a fold, so that large identities do not crowd out the others.
    Whom a picture shows is taken from its label; for sets with label noise, draw the pairs from the clean set.

    Args:
        pictures: any labelled pictures.
        count: number of pairs; a multiple of 2·folds.
        seed: of the draw, which depends on nothing else.
        folds: number of folds.

    Raises:
        ValueError: if ``count`` is not a positive multiple of 2·folds.
        DataError: if there are too few identities or pictures for that many different pairs.
    """
    if count < 1 or folds < 1 or count % (2 * folds):
        raise ValueError(f"count must be a positive multiple of 2·folds = {2 * folds}, got {count}")
    rng = np.random.default_rng(seed)
    labels = np.asarray(pictures.labels)
    members = [np.flatnonzero(labels == label).tolist() for label in range(len(pictures.identities))]
    order = rng.permutation(len(members)).tolist()
    half = count // (2 * folds)
    left: list[str] = []
    right: list[str] = []
    for fold in range(folds):
        people = [members[person] for person in order[fold::folds]]
        chosen = _genuine(people, half, rng) + _impostors(people, half, rng)
        if len(chosen) < 2 * half:
            raise DataError(
                f"{len(members)} identities with {len(labels)} pictures are too few for {count} different pairs in "
                f"{folds} folds; ask for fewer pairs or generate more identities"
            )
        left += [pictures.name(a) for a, _ in chosen]
        right += [pictures.name(b) for _, b in chosen]
    same = np.tile(np.repeat([True, False], half), folds)
    return Pairs(left, right, same, np.repeat(np.arange(folds, dtype=np.int64), 2 * half))


def _genuine(people: list[list[int]], half: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    turns: list[list[tuple[int, int]]] = []
    for shown in people:
        own = list(itertools.combinations(shown, 2))
        turns.append([own[k] for k in rng.permutation(len(own))[:half].tolist()])
    rounds = itertools.zip_longest(*turns)
    return [pair for taken in rounds for pair in taken if pair is not None][:half]


def _impostors(people: list[list[int]], half: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    people = [shown for shown in people if shown]
    found: dict[tuple[int, int], None] = {}
    for _ in range(50 * half if len(people) > 1 else 0):
        if len(found) == half:
            break
        one, two = rng.choice(len(people), 2, replace=False).tolist()
        first = people[one][int(rng.integers(len(people[one])))]
        second = people[two][int(rng.integers(len(people[two])))]
        if (second, first) not in found:
            found[first, second] = None
    return list(found)
