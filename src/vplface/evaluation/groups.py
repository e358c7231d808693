"""Errors by group of people or pictures at one common threshold, which show how fair the threshold is.

A system accepts and rejects all people by the same threshold, so groups are compared at a common threshold and not
each at its own. Both errors count: a high FNMR rejects people of a group, a high FMR accepts others under their names.
Genuine pairs belong to a group if both their pictures do. Impostor pairs are counted within each group, where they are
harder, and across each two groups: NIST reports both (Grother, Ngan and Hanaoka, "Face Recognition Vendor Test Part 3:
Demographic Effects", NISTIR 8280, 2019), and summarises groups by the highest rate over the lowest and over the
geometric mean of all (Grother, "Face Recognition Vendor Test Part 8: Summarizing Demographic Differentials", NISTIR
8429, 2022). Intervals are by the bootstrap over people, on the same draws for all groups.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from vplface.data.pictures import PictureSet
from vplface.data.spelling import composed
from vplface.errors import DataError
from vplface.evaluation.ages import age_group, errors_by_age_gap
from vplface.evaluation.bootstrap import interval
from vplface.evaluation.figure import Figure
from vplface.evaluation.pair_classes import PairClasses, count_errors
from vplface.evaluation.scores import Scores
from vplface.reading import read_text

AT_MOST = 100
_OLDEST = 130
_MOST_WITHOUT_END = 0.025
"""The share of draws without a finite ratio above which it has no 95 % interval."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Which group each picture of a set is in.

    Attributes:
        names: of the groups.
        of_picture: position in ``names``; −1 for a picture of no group.
        age: of the person on each picture, where the groups are ages; NaN for a picture without one.
    """

    names: list[str]
    of_picture: Int64[np.ndarray, " n"]
    age: Float64[np.ndarray, " n"] | None = None

    def at(self, places: Int64[np.ndarray, " m"]) -> Groups:
        """The groups of some of the pictures."""
        age = None if self.age is None else self.age[places]
        return replace(self, of_picture=self.of_picture[places], age=age)


def read_groups(path: Path | str, pictures: PictureSet) -> Groups:
    """Read a list of groups: lines "name,group", where a name is that of an identity or of a picture.

    An entry for a picture takes precedence over one for its identity. Pictures and identities that the file does
    not name are in no group, and names that the set does not have are ignored, so that one file serves many sets. A
    first line "…,group" names the columns. The extension of a picture may be omitted, and accents match whether
    they are composed or not. After a first line "…,age" the second column is an age in years, and the groups are
    those of :data:`vplface.evaluation.ages.AGES`.

    Raises:
        DataError: a file that is missing, not text or not of two columns, a name with two groups, an age that is not
            one (the line is named), no picture of the set in any group, or fewer than two or more than 100 groups.
    """
    said, are_ages = _read(Path(path))
    of_identity = [said.get(composed(name), "") for name in pictures.identities]
    found = []
    for index, label in enumerate(pictures.labels):
        name = composed(pictures.name(index))
        stem, _, kind = name.rpartition(".")
        found.append(said.get(name) or ("/" not in kind and said.get(stem)) or of_identity[int(label)])
    age = np.array([float(each or "nan") for each in found]) if are_ages else None
    found = [each and age_group(float(each)) for each in found] if are_ages else found
    names = sorted(set(found) - {""})
    if not names:
        raise DataError(
            f"{path}: none of its {len(said)} names is an identity or a picture of the set; its names look like "
            f"{next(iter(said))!r}, the set's like {pictures.identities[0]!r} and {pictures.name(0)!r}"
        )
    if not (1 if are_ages else 2) <= len(names) <= AT_MOST:
        raise DataError(f"{path}: divides the set into {len(names)} groups; expected 2 to {AT_MOST}")
    position = {name: number for number, name in enumerate(names)} | {"": -1}
    return Groups(names, np.array([position[name] for name in found], np.int64), age)


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
        ``"groups"``: {name: {"identities", "genuine", "impostors"}}; ``"at"``: for each threshold

        - ``"threshold"``;
        - ``"rates"``: {name: {"fnmr", "fmr"}}. A rate is a :class:`~vplface.evaluation.figure.Figure`, without a value
          for a group without such pairs;
        - ``"spread"``: {"fnmr", "fmr"}. A spread is the highest rate minus the lowest, with the interval of the
          difference of these two groups and their names, ``"highest"`` and ``"lowest"``; None with fewer than two
          rates;
        - ``"ratios"``: {"fnmr", "fmr"} of {"max_over_min", "max_over_geometric_mean"}: figures with the names; without
          a value where a rate is 0, with the ``"reason"``;
        - ``"across"``: a list of {"groups", "impostors", "fmr"}, for each two groups with impostor pairs;
        - ``"age_gap"``, where the groups are ages that differ between pictures of a person:
          :func:`vplface.evaluation.ages.errors_by_age_gap`.

        With many small groups the two extremes are far apart by chance alone: the intervals do not account for their
        selection.
    """
    count = len(groups.names)
    both = list(combinations(range(count), 2))
    within = PairClasses(groups.of_picture, [(g, g) for g in range(count)])
    classes = PairClasses(groups.of_picture, [*within.members, *both])
    counted = count_errors(scores, classes, thresholds, replicates, seed)
    people = within.people(scores.identity)
    # No more independent people than pairs, or intervals of groups with few pairs are too narrow; two are on each
    # impostor pair, and nobody is on two of those that are independent.
    totals = {kind: pairs.pairs.astype(int) for kind, pairs in counted.items()}
    sizes = {
        "fnmr": np.minimum(people, totals["fnmr"][:count]),
        "fmr": np.minimum([*(n // 2 for n in people), *(min(people[a], people[b]) for a, b in both)], totals["fmr"]),
    }
    gaps = {} if groups.age is None else errors_by_age_gap(scores, groups.age, thresholds, replicates, seed)
    found: dict[str, Any] = {}
    for t, (metric, threshold) in enumerate(thresholds.items()):
        rates = {kind: pairs.rates[t] for kind, pairs in counted.items()}
        drawn = {kind: pairs.drawn_rates[:, t].T for kind, pairs in counted.items()}

        def rate(kind: str, place: int, rates: Any = rates, drawn: Any = drawn) -> dict[str, Any]:
            return _rate(rates[kind][place], drawn[kind][place], int(sizes[kind][place]))

        found[metric] = {
            "threshold": threshold,
            "rates": {name: {kind: rate(kind, g) for kind in counted} for g, name in enumerate(groups.names)},
            "spread": {kind: _spread(rates[kind][:count], drawn[kind][:count], groups.names) for kind in counted},
            "ratios": {kind: _ratios(rates[kind][:count], drawn[kind][:count], groups.names) for kind in counted},
            "across": [
                {
                    "groups": [groups.names[a], groups.names[b]],
                    "impostors": int(totals["fmr"][place]),
                    "fmr": rate("fmr", place),
                }
                for place, (a, b) in enumerate(both, count)
                if totals["fmr"][place]
            ],
        }
        if gaps:
            found[metric]["age_gap"] = gaps[metric]
    return {
        "groups": {
            name: {"identities": people[g], "genuine": int(totals["fnmr"][g]), "impostors": int(totals["fmr"][g])}
            for g, name in enumerate(groups.names)
        },
        "at": found,
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


def _ratios(
    rates: Float64[np.ndarray, " groups"], replicates: Float64[np.ndarray, "groups r"], names: list[str]
) -> dict[str, Any] | None:
    """The highest rate over the lowest, and over the geometric mean; None with fewer than two rates."""
    known = np.flatnonzero(np.isfinite(rates))
    if len(known) < 2:
        return None
    highest, lowest = int(known[np.argmax(rates[known])]), int(known[np.argmin(rates[known])])
    with np.errstate(divide="ignore"):
        middle, middles = np.exp(np.log(rates[known]).mean()), np.exp(np.log(replicates[known]).mean(axis=0))
    details = {"highest": names[highest], "lowest": names[lowest]}
    return {
        "max_over_min": _ratio(rates[highest], rates[lowest], replicates[highest], replicates[lowest], details),
        "max_over_geometric_mean": _ratio(rates[highest], middle, replicates[highest], middles, details),
    }


def _ratio(
    high: float, low: float, highs: Float64[np.ndarray, " r"], lows: Float64[np.ndarray, " r"], names: dict[str, str]
) -> dict[str, Any]:
    if not low:
        return Figure(None, details={**names, "reason": f"no errors in group {names['lowest']}"}).to_json()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = highs / lows
    ends = interval(ratios, 2, bounds=None) if (~np.isfinite(ratios)).mean() <= _MOST_WITHOUT_END else None
    return Figure(float(high / low), ends, names).to_json()


def _read(path: Path) -> tuple[dict[str, str], bool]:
    """The group, or the age, of each name, and whether these are ages."""
    text = read_text(path).removeprefix("\ufeff")
    try:
        rows = [(line, [field.strip() for field in row]) for line, row in enumerate(csv.reader(io.StringIO(text)), 1)]
    except csv.Error as error:
        raise DataError(f"{path}: is not a CSV file: {error}") from error
    rows = [(line, row) for line, row in rows if any(row)]
    column = rows[0][1][-1].lower() if rows else ""
    if column in ("group", "age"):
        rows = rows[1:]
    if not rows:
        raise DataError(f"{path}: has no entries; expected lines 'name,group'")
    groups: dict[str, str] = {}
    for line, row in rows:
        if len(row) != 2 or not all(row):
            raise DataError(f"{path}, line {line}: expected 'name,group', got {','.join(row)!r}")
        name, group = composed(row[0]), row[1]
        if column == "age" and not _is_age(group):
            raise DataError(f"{path}, line {line}: an age is a number of years from 0 to {_OLDEST}, got {group!r}")
        if groups.setdefault(name, group) != group:
            raise DataError(f"{path}, line {line}: {name!r} is in group {groups[name]!r} by an earlier line")
    return groups, column == "age"


def _is_age(text: str) -> bool:
    try:
        return 0 <= float(text) <= _OLDEST
    except ValueError:
        return False
