"""Lists of pairs for face verification, and lists of people, in LFW's formats and as plain text.

Five forms of a list of pairs are read; fields are separated by tabs, or by commas, or by blanks, and between commas
they may be quoted:

- LFW View 2: a header "F N", then for each of F folds N pairs "NAME i j" of one person and N pairs
  "NAME i OTHER j" of two;
- LFW View 1: a header "N", then N pairs of one person and N of two, all in fold 0;
- LFW as CSV: a header "name,imagenum1,imagenum2" and the same lines; each run of pairs of one person begins a fold;
- CALFW's and CPLFW's: a line for each picture, "NAME_0001.jpg 3", two lines for a pair. The number is 0 for two people;
  for one it is CALFW's fold, from 1 on, or CPLFW's 1. Pairs without a fold are dealt to the folds in order, in equal
  parts; CPLFW's to ten folds;
- plain: "left right 1|0" with an optional fourth field, the fold (0 if absent), or "1|0 left right". For 1 there may be
  true or 1.0, for 0 false, 0.0 or -1. A first line may name the columns, which may then be in another order, with
  others among them; :func:`write_pairs` writes one.

CFP's protocol is a folder of lists, see :func:`read_cfp`.

In LFW's forms "NAME i" stands for the picture NAME/NAME_000i, whatever its file type.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from vplface.data.pictures import PictureSet
from vplface.data.spelling import composed
from vplface.errors import DataError
from vplface.files import PRIVATE, replacing
from vplface.reading import UnreadableFileError, is_file, is_folder, read_bytes

COLUMNS = ("left", "right", "same", "fold")
_NUMBER = re.compile(r"[0-9]{1,9}")
_TRUTHS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "-1": False, "false": False}
_COLUMN = {
    "left": re.compile(r"left|a|first|(image|img|file|filename|path|name|picture|photo)_?(1|a|left)"),
    "right": re.compile(r"right|b|second|(image|img|file|filename|path|name|picture|photo)_?(2|b|right)"),
    "same": re.compile(r"(is_?)?same(_?(person|identity))?|label|match|target|truth|genuine|(is_?)?match(ing)?"),
    "fold": re.compile(r"fold|split"),
}
"""What people call the columns of a list of pairs."""

FORMS = (
    "LFW's pairs.txt and pairs.csv, the lists of CALFW and CPLFW, CFP's folders Split/FF and Split/FP, and lines 'left "
    "right 1|0' with a fold behind or not"
)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of pictures by name, whether the two show one person, and the fold that each pair belongs to."""

    left: list[str]
    right: list[str]
    same: Bool[np.ndarray, " p"]
    fold: Int64[np.ndarray, " p"]

    def __post_init__(self) -> None:
        lengths = [len(self.left), len(self.right), len(self.same), len(self.fold)]
        if len(set(lengths)) != 1:
            raise ValueError(f"left, right, same and fold must be of one length, got {lengths}")

    def __len__(self) -> int:
        return len(self.left)


def read_pairs(path: Path | str) -> Pairs:
    """Read a list of pairs in any of the module's forms, or CFP's folder Protocol/Split/FF or Protocol/Split/FP.

    Raises:
        DataError: if the file is missing, empty or malformed; the line is named.
    """
    if is_folder(path):
        return read_cfp(path, _cfp_kind(path))
    rows = _rows(path)
    if not rows:
        raise DataError(f"{path}: holds no pairs")
    _, header = rows[0]
    if len(header) <= 2 and all(map(_NUMBER.fullmatch, header)):
        folds, per_fold = (1, int(header[0])) if len(header) == 1 else (int(header[0]), int(header[1]))
        return _lfw_pairs(path, rows[1:], folds, per_fold)
    columns = [field.lower() for field in header]
    if columns[:2] == ["name", "imagenum1"]:
        return _lfw_csv_pairs(path, rows[1:])
    named = {key: _column(columns, pattern) for key, pattern in _COLUMN.items()}
    if None not in (named["left"], named["right"], named["same"]):
        rows = [(line, _chosen(path, line, fields, len(header), named)) for line, fields in rows[1:]]
    elif all(len(fields) == 2 and _NUMBER.fullmatch(fields[1]) for _, fields in rows):
        return _pairs_in_twos(path, rows)
    elif all(len(fields) == 3 and _truth(fields[0]) is not None for _, fields in rows) and any(
        _truth(fields[2]) is None for _, fields in rows
    ):
        rows = [(line, [left, right, same]) for line, (same, left, right) in rows]
    return _plain_pairs(path, rows)


def _column(columns: list[str], name: re.Pattern[str]) -> int | None:
    return next((place for place, column in enumerate(columns) if name.fullmatch(column.replace(" ", "_"))), None)


def _chosen(path: Path | str, line: int, fields: list[str], width: int, named: dict[str, int | None]) -> list[str]:
    """Left, right, same and the fold, if there is one, of a line under a line that names the columns."""
    if len(fields) != width:
        raise DataError(f"{path}, line {line}: {len(fields)} fields, but line 1 names {width} columns: {fields}")
    return [fields[place] for place in named.values() if place is not None]


def _truth(text: str) -> bool | None:
    return _TRUTHS.get(text.lower())


def _pairs_in_twos(path: Path | str, rows: list[tuple[int, list[str]]]) -> Pairs:
    if len(rows) % 2:
        raise DataError(f"{path}, line {rows[-1][0]}: has no second picture; there must be two lines for each pair")
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
        fold = _dealt(same, folds)
    else:
        fold = np.where(same, number - 1, _dealt(same, max(1, folds)))
    return Pairs([fields[0] for _, fields in rows[::2]], [fields[0] for _, fields in rows[1::2]], same, fold)


def _dealt(same: Bool[np.ndarray, " p"], folds: int) -> Int64[np.ndarray, " p"]:
    """Genuine pairs and impostors, each in order, in as many parts of equal size."""
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
    begins = same & ~np.concatenate([[False], same[:-1]])
    return Pairs(left, right, same, np.maximum(np.cumsum(begins) - 1, 0))


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
    if not _NUMBER.fullmatch(number):
        raise DataError(f"{path}, line {line}: {number!r} should be the number of a picture of {name!r}")
    return f"{name}/{name}_{int(number):04d}"


def _plain_pairs(path: Path | str, rows: list[tuple[int, list[str]]]) -> Pairs:
    if not rows:
        raise DataError(f"{path}: holds no pairs")
    for line, fields in rows:
        known = f". The line is {' '.join(fields)[:200]!r}; lists that are read: {FORMS}" if line == rows[0][0] else ""
        if len(fields) not in (3, 4) or "" in fields:
            raise DataError(f"{path}, line {line}: expected 'left right 0|1', got {fields}{known}")
        if _truth(fields[2]) is None:
            raise DataError(
                f"{path}, line {line}: the third field must be 0 or 1, got {fields[2]!r} in {fields}{known}"
            )
        if len(fields) != len(rows[0][1]):
            raise DataError(f"{path}, line {line}: {len(fields)} fields where earlier lines have {len(rows[0][1])}")
        if len(fields) == 4 and not _NUMBER.fullmatch(fields[3]):
            raise DataError(f"{path}, line {line}: the fold must be a number, got {fields[3]!r}")
    return Pairs(
        [fields[0] for _, fields in rows],
        [fields[1] for _, fields in rows],
        np.array([bool(_truth(fields[2])) for _, fields in rows]),
        np.array([int(fields[3]) if len(fields) == 4 else 0 for _, fields in rows], dtype=np.int64),
    )


def read_cfp(root: Path | str, protocol: Literal["FF", "FP"]) -> Pairs:
    """Read a protocol of Celebrities in Frontal-Profile: frontal to frontal (FF) or frontal to profile (FP).

    The lists are those of the data set: Pair_list_F.txt and Pair_list_P.txt number the pictures ("7 ../Data/Images/001/
    frontal/07.jpg", called 001/frontal/07.jpg here), and Split/FP/01/same.txt and diff.txt hold the pairs "i,j" of fold
    1, of frontal picture i and, in FP, profile picture j.

    Args:
        root: the data set's folder, or its Protocol, Protocol/Split, Protocol/Split/FF or Protocol/Split/FP.
        protocol: FF or FP.

    Raises:
        DataError: if a list is missing or malformed; the line is named.
    """
    folder = _cfp_folder(root)
    frontal = _numbered(folder / "Pair_list_F.txt")
    other = frontal if protocol == "FF" else _numbered(folder / "Pair_list_P.txt")
    left: list[str] = []
    right: list[str] = []
    same: list[bool] = []
    fold: list[int] = []
    for number, split in enumerate(_cfp_folds(folder / "Split" / protocol)):
        for name, is_same in (("same.txt", True), ("diff.txt", False)):
            for line, fields in _rows(split / name):
                if len(fields) != 2:
                    raise DataError(f"{split / name}, line {line}: expected two numbers 'i,j', got {fields}")
                left.append(_numbered_name(split / name, line, fields[0], frontal))
                right.append(_numbered_name(split / name, line, fields[1], other))
                same.append(is_same)
                fold.append(number)
    if not same:
        raise DataError(f"{folder / 'Split' / protocol}: holds no pairs")
    return Pairs(left, right, np.array(same), np.array(fold, dtype=np.int64))


def pair_files(path: Path | str) -> list[Path]:
    """The files that :func:`read_pairs` reads: the list itself, or those of CFP's protocol.

    Raises:
        DataError: if ``path`` is a folder that is not CFP's.
    """
    if not is_folder(path):
        return [Path(path)]
    folder, kind = _cfp_folder(path), _cfp_kind(path)
    lists = [folder / f"Pair_list_{letter}.txt" for letter in sorted(set(kind))]
    splits = _cfp_folds(folder / "Split" / kind)
    return [*lists, *(split / name for split in splits for name in ("same.txt", "diff.txt"))]


def _cfp_kind(path: Path | str) -> Literal["FF", "FP"]:
    match Path(path).absolute().name.upper():
        case "FF" | "FP" as kind:
            return kind
    folder = _cfp_folder(path)
    raise DataError(f"{path}: holds two protocols; choose {folder / 'Split' / 'FF'} or {folder / 'Split' / 'FP'}")


def _cfp_folder(path: Path | str) -> Path:
    root = Path(path)
    above = root.absolute().parents
    for folder in (root, root / "Protocol", *above[:2]):
        if is_file(folder / "Pair_list_F.txt"):
            return folder
    raise DataError(
        f"{path}: cannot be read: it is a folder, and not CFP's Protocol/Split/FF or Protocol/Split/FP (there is no "
        "Pair_list_F.txt in it or above it)"
    )


def _cfp_folds(folder: Path) -> list[Path]:
    splits = {int(split.name): split for split in folder.glob("*") if _NUMBER.fullmatch(split.name) and split.is_dir()}
    missing = sorted(set(range(1, 11)) - splits.keys())
    if missing:
        raise DataError(f"{folder}: {len(missing)} of the folds 01 to 10 are missing, {missing[0]:02d} for one")
    return [splits[number] for number in sorted(splits)]


def _numbered(path: Path) -> dict[int, str]:
    """CFP's numbers of pictures, and the pictures' paths below Images."""
    pictures: dict[int, str] = {}
    for line, text in _lines(path):
        number, _, place = text.partition(" ")
        parts = PurePosixPath(place.strip().replace("\\", "/")).parts
        below = parts[parts.index("Images") + 1 :] if "Images" in parts else tuple(p for p in parts if p != "..")
        if not _NUMBER.fullmatch(number) or not below:
            raise DataError(f"{path}, line {line}: expected a number and a path, got {text!r}")
        if int(number) in pictures:
            raise DataError(f"{path}, line {line}: picture {number} is there already: {pictures[int(number)]}")
        pictures[int(number)] = "/".join(below)
    return pictures


def _numbered_name(path: Path, line: int, number: str, pictures: dict[int, str]) -> str:
    if not _NUMBER.fullmatch(number) or int(number) not in pictures:
        raise DataError(f"{path}, line {line}: {number!r} is the number of none of the {len(pictures)} pictures")
    return pictures[int(number)]


def write_pairs(path: Path | str, pairs: Pairs) -> None:
    """Write pairs in the plain form, with a line that names the columns.

    Raises:
        DataError: if a name cannot stand in such a file (empty, with a tab or a line break, or with blanks around
            it), or if the file cannot be written.
    """
    for name in (*pairs.left, *pairs.right):
        if not name or name != name.strip() or re.search(r"[\t\n\r\ud800-\udfff]", name):
            raise DataError(f"{path}: the name {name!r} cannot be written into a list of pairs")
    rows = zip(pairs.left, pairs.right, pairs.same.astype(int), pairs.fold, strict=True)
    lines = ["\t".join(COLUMNS), *(f"{left}\t{right}\t{same}\t{fold}" for left, right, same, fold in rows)]
    with replacing(Path(path), PRIVATE) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def read_people(path: Path | str) -> list[str]:
    """Read a list of people.

    Either LFW's form, "NAME<tab>count" lines under a header (the number of people; or the number of folds, each
    with its own header), or plainly one name a line.

    Raises:
        DataError: if the file is missing, empty or malformed, or names somebody twice; the line is named.
    """
    rows = [(line, [field.strip() for field in text.split("\t")]) for line, text in _lines(path)]
    if not rows:
        raise DataError(f"{path}: names nobody")
    if any(len(fields) > 1 for _, fields in rows):
        rows = _without_headers(path, rows)
    people: dict[str, int] = {}
    for line, fields in rows:
        if len(fields) > 2 or not fields[0] or (len(fields) == 2 and not _NUMBER.fullmatch(fields[1])):
            raise DataError(f"{path}, line {line}: expected a name, or a name, a tab and a count, got {fields}")
        if fields[0] in people:
            raise DataError(f"{path}, line {line}: {fields[0]!r} is already on line {people[fields[0]]}")
        people[fields[0]] = line
    return list(people)


def _without_headers(path: Path | str, rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    headers = [(position, line, fields[0]) for position, (line, fields) in enumerate(rows) if len(fields) == 1]
    for _, line, text in headers:
        if not _NUMBER.fullmatch(text) or len(rows[0][1]) > 1:
            raise DataError(f"{path}, line {line}: expected a name, a tab and a count, got {text!r}")
    if len(headers) > 1:  # the first header counts the folds, the others the people of each
        _, line, folds = headers.pop(0)
        if int(folds) != len(headers):
            raise DataError(f"{path}, line {line}: announces {folds} folds, but {len(headers)} follow")
    ends = [position for position, _, _ in headers[1:]] + [len(rows)]
    for (position, line, count), end in zip(headers, ends, strict=False):
        if int(count) != end - position - 1:
            raise DataError(f"{path}, line {line}: announces {count} people, but {end - position - 1} follow")
    return [row for row in rows if len(row[1]) > 1]


def resolve(pairs: Pairs, pictures: PictureSet) -> tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"]]:
    """Indices of the left and of the right pictures of all pairs.

    A pair may call a picture by its name, by its name without the file type, or by the last part of it, as CALFW does,
    and may compose accents where the set decomposes them, or the other way round.

    Raises:
        DataError: if names are missing from the set, or stand for several of its pictures.
    """
    found: dict[str, list[int]] = {}
    wanted = set(pairs.left) | set(pairs.right)
    for spelling in (str, composed, _last_part):
        missing = {name for name in wanted - found.keys() if spelling is not _last_part or "/" not in name}
        if missing:
            places = _places(pictures, set(map(spelling, missing)), spelling)
            found |= {name: places[spelling(name)] for name in missing if spelling(name) in places}
    if missing := wanted - found.keys():
        example = f"; its names look like {pictures.name(0)!r}" if len(pictures) else ", which is empty"
        raise DataError(
            f"{len(missing)} of the {len(wanted)} pictures of the pairs are not in the set: {_few(sorted(missing))}"
            f"{example}"
        )
    ambiguous = sorted(name for name, indices in found.items() if len(indices) > 1)
    if ambiguous:
        raise DataError(f"{len(ambiguous)} names of the pairs stand for several pictures: {_few(ambiguous)}")
    return (
        np.array([found[name][0] for name in pairs.left], dtype=np.int64),
        np.array([found[name][0] for name in pairs.right], dtype=np.int64),
    )


def _places(pictures: PictureSet, wanted: set[str], spelling: Callable[[str], str]) -> dict[str, list[int]]:
    """The pictures that have each of the wanted names, with the file type or, if there are none, without it."""
    exact: dict[str, list[int]] = {}
    by_stem: dict[str, list[int]] = {}
    for index in range(len(pictures)):
        name = spelling(pictures.name(index))
        if name in wanted:
            exact.setdefault(name, []).append(index)
        stem, _, kind = name.rpartition(".")
        if stem in wanted and "/" not in kind:
            by_stem.setdefault(stem, []).append(index)
    return by_stem | exact


def _last_part(name: str) -> str:
    """By which names without a folder are found in any."""
    return composed(name.rpartition("/")[2])


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _rows(path: Path | str) -> list[tuple[int, list[str]]]:
    return [(line, [field.strip() for field in _fields(text)]) for line, text in _lines(path)]


def _fields(text: str) -> list[str]:
    if "\t" in text:
        return text.split("\t")
    if "," not in text:
        return text.split()
    if '"' in text:
        with suppress(csv.Error):  # quotes that are part of a name
            return next(csv.reader([text], skipinitialspace=True, strict=True))
    return text.split(",")


def _lines(path: Path | str) -> list[tuple[int, str]]:
    """Lines that are not blank, stripped, with their numbers from 1."""
    try:
        data = read_bytes(path)
    except UnreadableFileError as error:
        raise DataError(f"{path}: cannot be read: {error.reason}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not text in UTF-8 (byte {error.start}); save it as UTF-8") from error
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
