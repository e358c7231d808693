"""Readers of lists of pairs for face verification, in LFW's formats and as plain text.

Five formats are read. Fields are separated by tabs, commas or blanks; comma-separated fields may be quoted.

- LFW View 2: a header "F N", then for each of F folds N genuine pairs "NAME i j" and N impostor pairs "NAME i OTHER j".
- LFW View 1: a header "N", then N genuine and N impostor pairs, all in fold 0.
- LFW as CSV: a header "name,imagenum1,imagenum2" and the same lines; each run of genuine pairs starts a fold.
- CALFW and CPLFW: a line per picture, "NAME_0001.jpg 3", two lines per pair. The number is 0 for impostors; for genuine
  pairs it is CALFW's fold, from 1 on, or CPLFW's 1. Pairs without a fold are assigned to folds in order, in equal
  parts; CPLFW's to ten folds.
- plain: "left right 1|0" with an optional fourth field, the fold (default 0), or "1|0 left right". 1 may be written as
  true or 1.0, and 0 as false, 0.0 or -1. A first line may name the columns, which may then be in any order, with others
  among them; :func:`vplface.data.pairs.write_pairs` writes this format.

CFP's protocol is a folder of lists, see :mod:`vplface.data.cfp`. In LFW's formats "NAME i" is the picture
NAME/NAME_000i of any file type.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from vplface.data.cfp import cfp_files, cfp_protocol, read_cfp
from vplface.data.list_lines import NUMBER, read_rows
from vplface.data.pairs import Pairs
from vplface.errors import DataError
from vplface.reading import is_folder

_SAME_VALUES = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "-1": False, "false": False}
_COLUMN_NAMES = {
    "left": re.compile(r"left|a|first|(image|img|file|filename|path|name|picture|photo)_?(1|a|left)"),
    "right": re.compile(r"right|b|second|(image|img|file|filename|path|name|picture|photo)_?(2|b|right)"),
    "same": re.compile(r"(is_?)?same(_?(person|identity))?|label|match|target|truth|genuine|(is_?)?match(ing)?"),
    "fold": re.compile(r"fold|split"),
}
"""Accepted column names of a list of pairs."""

FORMATS = (
    "LFW's pairs.txt and pairs.csv, the lists of CALFW and CPLFW, CFP's folders Split/FF and Split/FP, and lines 'left "
    "right 1|0' with or without a fold at the end"
)


def read_pairs(path: Path | str) -> Pairs:
    """Read a list of pairs in one of the module's formats, or CFP's folder Protocol/Split/FF or Protocol/Split/FP.

    Raises:
        DataError: the file is missing, empty or malformed; the line is named.
    """
    if is_folder(path):
        return read_cfp(path, cfp_protocol(path))
    rows = read_rows(path)
    if not rows:
        raise DataError(f"{path}: holds no pairs")
    _, header = rows[0]
    if len(header) <= 2 and all(map(NUMBER.fullmatch, header)):
        folds, per_fold = (1, int(header[0])) if len(header) == 1 else (int(header[0]), int(header[1]))
        return _lfw_pairs(path, rows[1:], folds, per_fold)
    columns = [field.lower() for field in header]
    if columns[:2] == ["name", "imagenum1"]:
        return _lfw_csv_pairs(path, rows[1:])
    column_of = {key: _find_column(columns, pattern) for key, pattern in _COLUMN_NAMES.items()}
    if None not in (column_of["left"], column_of["right"], column_of["same"]):
        rows = [(line, _select_fields(path, line, fields, len(header), column_of)) for line, fields in rows[1:]]
    elif all(len(fields) == 2 and NUMBER.fullmatch(fields[1]) for _, fields in rows):
        return _two_line_pairs(path, rows)
    elif all(len(fields) == 3 and _parse_same(fields[0]) is not None for _, fields in rows) and any(
        _parse_same(fields[2]) is None for _, fields in rows
    ):
        rows = [(line, [left, right, same]) for line, (same, left, right) in rows]
    return _plain_pairs(path, rows)


def _find_column(columns: list[str], name: re.Pattern[str]) -> int | None:
    return next((position for position, column in enumerate(columns) if name.fullmatch(column.replace(" ", "_"))), None)


def _select_fields(
    path: Path | str, line: int, fields: list[str], width: int, column_of: dict[str, int | None]
) -> list[str]:
    """Left, right, same and, if present, fold of a line, by the named columns."""
    if len(fields) != width:
        raise DataError(f"{path}, line {line}: {len(fields)} fields, but line 1 names {width} columns: {fields}")
    return [fields[position] for position in column_of.values() if position is not None]


def _parse_same(text: str) -> bool | None:
    return _SAME_VALUES.get(text.lower())


def _two_line_pairs(path: Path | str, rows: list[tuple[int, list[str]]]) -> Pairs:
    if len(rows) % 2:
        raise DataError(f"{path}, line {rows[-1][0]}: has no second picture; expected two lines for each pair")
    for (_, first), (line, second) in zip(rows[::2], rows[1::2], strict=True):
        if first[1] != second[1]:
            raise DataError(f"{path}, line {line}: ends in {second[1]}, but the other line of its pair in {first[1]}")
    number = np.array([int(fields[1]) for _, fields in rows[::2]], np.int64)
    same = number > 0
    folds = int(number.max())
    if folds > len(number):
        raise DataError(f"{path}: has a fold {folds}, but {len(number)} pairs")
    if folds == 1:
        folds = 10 if not (same.sum() % 10 or (~same).sum() % 10) else 1
        fold = _assign_folds(same, folds)
    else:
        fold = np.where(same, number - 1, _assign_folds(same, max(1, folds)))
    return Pairs([fields[0] for _, fields in rows[::2]], [fields[0] for _, fields in rows[1::2]], same, fold)


def _assign_folds(same: Bool[np.ndarray, " p"], folds: int) -> Int64[np.ndarray, " p"]:
    """Fold of each pair: genuine pairs and impostors each cut, in order, into folds of equal size."""
    fold = np.zeros(len(same), np.int64)
    for kind in (same, ~same):
        count = int(kind.sum())
        fold[kind] = np.arange(count) * folds // max(1, count)
    return fold


def _lfw_pairs(path: Path | str, rows: list[tuple[int, list[str]]], folds: int, per_fold: int) -> Pairs:
    if len(rows) != 2 * folds * per_fold or not rows:
        raise DataError(f"{path}: line 1 announces {folds} x (2 x {per_fold}) pairs, but {len(rows)} lines follow")
    left, right, is_same = _lfw_names(path, rows)
    genuine = is_same.reshape(folds, -1).sum(axis=1)
    if (genuine != per_fold).any():
        wrong = int(np.flatnonzero(genuine != per_fold)[0])
        raise DataError(
            f"{path}: fold {wrong + 1} has {genuine[wrong]} pairs of one person, line 1 announces {per_fold}"
        )
    return Pairs(left, right, is_same, np.repeat(np.arange(folds), 2 * per_fold))


def _lfw_csv_pairs(path: Path | str, rows: list[tuple[int, list[str]]]) -> Pairs:
    if not rows:
        raise DataError(f"{path}: holds no pairs")
    trimmed = [(line, fields[:3] if fields[3:] == [""] else fields) for line, fields in rows]
    left, right, same = _lfw_names(path, trimmed)
    fold_starts = same & ~np.concatenate([[False], same[:-1]])
    return Pairs(left, right, same, np.maximum(np.cumsum(fold_starts) - 1, 0))


def _lfw_names(
    path: Path | str, rows: list[tuple[int, list[str]]]
) -> tuple[list[str], list[str], Bool[np.ndarray, " p"]]:
    left, right, same = [], [], []
    for line, fields in rows:
        if len(fields) == 3:
            first, second = (fields[0], fields[1]), (fields[0], fields[2])
        elif len(fields) == 4:
            first, second = (fields[0], fields[1]), (fields[2], fields[3])
        else:
            raise DataError(f"{path}, line {line}: expected 'NAME i j' or 'NAME i OTHER j', got {fields}")
        left.append(_lfw_name(path, line, *first))
        right.append(_lfw_name(path, line, *second))
        same.append(len(fields) == 3)
    return left, right, np.array(same, dtype=bool)


def _lfw_name(path: Path | str, line: int, name: str, number: str) -> str:
    if not NUMBER.fullmatch(number):
        raise DataError(f"{path}, line {line}: {number!r} should be the number of a picture of {name!r}")
    return f"{name}/{name}_{int(number):04d}"


def _plain_pairs(path: Path | str, rows: list[tuple[int, list[str]]]) -> Pairs:
    if not rows:
        raise DataError(f"{path}: holds no pairs")
    for line, fields in rows:
        known = f". The line is {' '.join(fields)[:200]!r}; supported formats: {FORMATS}" if line == rows[0][0] else ""
        if len(fields) not in (3, 4) or "" in fields:
            raise DataError(f"{path}, line {line}: expected 'left right 0|1', got {fields}{known}")
        if _parse_same(fields[2]) is None:
            raise DataError(
                f"{path}, line {line}: the third field must be 0 or 1, got {fields[2]!r} in {fields}{known}"
            )
        if len(fields) != len(rows[0][1]):
            raise DataError(f"{path}, line {line}: {len(fields)} fields where earlier lines have {len(rows[0][1])}")
        if len(fields) == 4 and not NUMBER.fullmatch(fields[3]):
            raise DataError(f"{path}, line {line}: the fold must be a number, got {fields[3]!r}")
    return Pairs(
        [fields[0] for _, fields in rows],
        [fields[1] for _, fields in rows],
        np.array([bool(_parse_same(fields[2])) for _, fields in rows]),
        np.array([int(fields[3]) if len(fields) == 4 else 0 for _, fields in rows], dtype=np.int64),
    )


def pair_files(path: Path | str) -> list[Path]:
    """Files that :func:`read_pairs` reads: the list itself, or those of a CFP protocol.

    Raises:
        DataError: ``path`` is a folder, but not CFP's.
    """
    return cfp_files(path) if is_folder(path) else [Path(path)]
