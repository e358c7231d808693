"""Errors by group of people or pictures at one common threshold, which show how fair the threshold is.

A system accepts and rejects all people by the same threshold, so groups are compared at a common threshold and not
each at its own. Both errors count: a high FNMR rejects people of a group, a high FMR accepts others under their names.
A pair belongs to a group if both its pictures do; impostor pairs within a group are harder and more informative.
Intervals are by the bootstrap over people, on the same draws for all groups.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from vplface.data.pictures import PictureSet
from vplface.errors import DataError
from vplface.evaluation.bootstrap import interval
from vplface.evaluation.figure import Figure
from vplface.evaluation.pair_classes import PairClasses, count_errors
from vplface.evaluation.scores import Scores
from vplface.reading import read_text

AT_MOST = 100


@dataclass(frozen=True, eq=False)
class Groups:
    """Which group each picture of a set is in.

    Attributes:
        names: of the groups.
        of_picture: position in ``names``; −1 for a picture of no group.
    """

    names: list[str]
    of_picture: Int64[np.ndarray, " n"]


def read_groups(path: Path | str, pictures: PictureSet) -> Groups:
    """Read a list of groups: lines "name,group", where a name is that of an identity or of a picture.

    An entry for a picture takes precedence over one for its identity. Pictures and identities that the file does not
    name are in no group, and names that the set does not have are ignored, so that one file serves many sets. A
    first line "…,group" names the columns. The extension of a picture may be omitted.

    Raises:
        DataError: a file that is missing, not text or not of two columns, a name with two groups (the line is named),
            no picture of the set in any group, or fewer than two or more than 100 groups.
    """
    said = _read(Path(path))
    of_identity = [said.get(name, "") for name in pictures.identities]
    found = []
    for index, label in enumerate(pictures.labels):
        name = pictures.name(index)
        stem, _, kind = name.rpartition(".")
        found.append(said.get(name) or ("/" not in kind and said.get(stem)) or of_identity[int(label)])
    names = sorted(set(found) - {""})
    if not names:
        raise DataError(
            f"{path}: none of its {len(said)} names is an identity or a picture of the set; its names look like "
            f"{next(iter(said))!r}, the set's like {pictures.identities[0]!r} and {pictures.name(0)!r}"
        )
    if not 2 <= len(names) <= AT_MOST:
        raise DataError(f"{path}: divides the set into {len(names)} groups; expected 2 to {AT_MOST}")
    position = {name: number for number, name in enumerate(names)} | {"": -1}
    return Groups(names, np.array([position[name] for name in found], np.int64))


def group_errors(
    scores: Scores, groups: Groups, thresholds: Mapping[str, float], replicates: int, seed: int
) -> dict[str, Any]:
    """FNMR and FMR of each group at common thresholds, and how far the groups are apart.

    Args:
        scores: of all pairs; if only the highest impostor scores are available, they must reach below the thresholds.
        groups: of the pictures.
        thresholds: {operating point: threshold}.
        replicates: draws of people for the intervals; 0 for none.
        seed: of the draws.

    Returns:
        ``"groups"``: {name: {"identities", "genuine", "impostors"}}; ``"at"``: for each threshold its
        ``"threshold"``, ``"rates"`` {name: {"fnmr", "fmr"}} and ``"spread"`` {"fnmr", "fmr"}. A rate is a
        :class:`~vplface.evaluation.figure.Figure`, without a value for a group without such pairs. A spread is the
        highest rate minus the lowest, with the interval of the difference of these two groups and their names,
        ``"highest"`` and ``"lowest"``; None with fewer than two rates.
        With many small groups the two extremes are far apart by chance alone: the interval does not account for their
        selection.
    """
    count = len(groups.names)
    classes = PairClasses(groups.of_picture, [(g, g) for g in range(count)])
    counted = count_errors(scores, classes, thresholds, replicates, seed)
    people = classes.people(scores.identity)
    observed = {kind: pairs.rates for kind, pairs in counted.items()}
    resampled = {kind: pairs.drawn_rates for kind, pairs in counted.items()}
    totals = {kind: pairs.pairs.astype(int) for kind, pairs in counted.items()}
    return {
        "groups": {
            name: {"identities": people[g], "genuine": int(totals["fnmr"][g]), "impostors": int(totals["fmr"][g])}
            for g, name in enumerate(groups.names)
        },
        "at": {
            metric: {
                "threshold": threshold,
                "rates": {
                    name: {
                        # No more independent people than pairs, or intervals of groups with few pairs are too narrow.
                        kind: _rate(observed[kind][t, g], resampled[kind][:, t, g], min(people[g], totals[kind][g]))
                        for kind in counted
                    }
                    for g, name in enumerate(groups.names)
                },
                "spread": {kind: _spread(observed[kind][t], resampled[kind][:, t].T, groups.names) for kind in counted},
            }
            for t, (metric, threshold) in enumerate(thresholds.items())
        },
    }


def _rate(value: float, replicates: Float64[np.ndarray, " r"], people: int) -> dict[str, Any]:
    rate = Figure(float(value), count=people).resampled(replicates) if np.isfinite(value) else Figure(None)
    return rate.to_json()


def _spread(
    rates: Float64[np.ndarray, " groups"], replicates: Float64[np.ndarray, "groups r"], names: list[str]
) -> dict[str, Any] | None:
    known = np.flatnonzero(np.isfinite(rates))
    if len(known) < 2:
        return None
    highest, lowest = int(known[np.argmax(rates[known])]), int(known[np.argmin(rates[known])])
    ends = interval(replicates[highest] - replicates[lowest], 2, bounds=None)
    details = {"highest": names[highest], "lowest": names[lowest]}
    return Figure(float(rates[highest] - rates[lowest]), ends, details).to_json()


def _read(path: Path) -> dict[str, str]:
    text = read_text(path).removeprefix("\ufeff")
    try:
        rows = [(line, [field.strip() for field in row]) for line, row in enumerate(csv.reader(io.StringIO(text)), 1)]
    except csv.Error as error:
        raise DataError(f"{path}: is not a CSV file: {error}") from error
    rows = [(line, row) for line, row in rows if any(row)]
    if rows and rows[0][1][-1].lower() == "group":
        rows = rows[1:]
    if not rows:
        raise DataError(f"{path}: has no entries; expected lines 'name,group'")
    groups: dict[str, str] = {}
    for line, row in rows:
        if len(row) != 2 or not all(row):
            raise DataError(f"{path}, line {line}: expected 'name,group', got {','.join(row)!r}")
        name, group = row
        if groups.setdefault(name, group) != group:
            raise DataError(f"{path}, line {line}: {name!r} is in group {groups[name]!r} by an earlier line")
    return groups
