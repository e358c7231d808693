"""Readers of IJB-B and IJB-C: media and templates, pairs of templates, galleries and probes.

| file | lines |
|---|---|
| ijbc_face_tid_mid.txt | picture, template, medium |
| ijbc_name_5pts_score.txt | picture, x and y of five landmarks, detector's score |
| ijbc_template_pair_label.txt | template, template, 1 for one person or 0 for two |
| ijbc_1N_gallery_G1.csv, ijbc_1N_gallery_G2.csv, ijbc_1N_probe_mixed.csv | TEMPLATE_ID, SUBJECT_ID, ...; a header |

The files are in the set's folder or in ``meta`` below it, the pictures in ``loose_crop``. The names of IJB-B's files
begin with ``ijbb``, and its galleries are called S1 and S2. Fields are separated by blanks, tabs or commas. A template
is a set of media of one person; a medium is a still or the frames of a video.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from vplface.compiled_function import compiled
from vplface.data.pictures import SIZE, Picture, UnreadablePictureError
from vplface.errors import DataError
from vplface.reading import UnreadableFileError, is_file, is_folder, read_bytes

SetName = Literal["ijbb", "ijbc"]
GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}
PICTURES = "loose_crop"

LIMIT = 2**31
"""Largest file of a set that is read, in bytes; IJB-C's largest has 0.3 GB."""

_LONGEST_NUMBER = 64
_NOT_A_NUMBER, _TOO_FEW, _TOO_MANY, _TOO_LARGE = 1, 2, 3, 4


@dataclass(frozen=True, eq=False)
class Faces:
    """Template and medium of each face.

    Attributes:
        pictures: distinct names of the pictures, in the order of the file.
        picture: position of each face's picture; a picture may be in several templates.
        template: number of each face's template.
        medium: number of each face's medium.
    """

    pictures: list[str]
    picture: Int64[np.ndarray, " n"]
    template: Int64[np.ndarray, " n"]
    medium: Int64[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Detected landmarks of each picture.

    Attributes:
        points: left eye, right eye, nose, left and right corner of the mouth, x and y in pixels.
        score: the detector's confidence.
    """

    points: Float32[np.ndarray, "n 5 2"]
    score: Float64[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class TemplatePairs:
    """Pairs of templates by number, and whether the two show one person."""

    left: Int64[np.ndarray, " p"]
    right: Int64[np.ndarray, " p"]
    same: Bool[np.ndarray, " p"]


@dataclass(frozen=True, eq=False)
class TemplateList:
    """A gallery or a list of probes: templates, each once in the order of the file, and their subjects."""

    template: Int64[np.ndarray, " t"]
    subject: Int64[np.ndarray, " t"]


class IJB:
    """The folder of one of the sets; files are read when they are asked for.

    Args:
        folder: holds the files of the module's table.
        name: ``"ijbb"`` or ``"ijbc"``.

    Raises:
        DataError: no such folder.
    """

    def __init__(self, folder: Path | str, name: SetName) -> None:
        if name not in get_args(SetName):
            raise ValueError(f"name must be one of {', '.join(get_args(SetName))}, got {name!r}")
        self.folder, self.name = Path(folder), name
        if not is_folder(self.folder):
            raise DataError(f"{self.folder}: no such folder; it should hold {name}_face_tid_mid.txt and so on")
        self.used: list[Path] = []
        """The files that were read."""

    def faces(self) -> Faces:
        """Pictures, templates and media."""
        return read_faces(self._file("face_tid_mid.txt"))

    def landmarks(self, pictures: Sequence[str]) -> Landmarks:
        """Landmarks and scores of the pictures named."""
        return read_landmarks(self._file("name_5pts_score.txt"), pictures)

    def pairs(self) -> TemplatePairs:
        """The pairs of the 1:1 protocol."""
        return read_template_pairs(self._file("template_pair_label.txt"))

    def galleries(self) -> dict[str, TemplateList]:
        """The two galleries of the 1:N protocol, by name."""
        return {each: read_templates(self._file(f"1N_gallery_{each}.csv")) for each in GALLERIES[self.name]}

    def probes(self) -> TemplateList:
        """The probes of the 1:N protocol, for both galleries."""
        return read_templates(self._file("1N_probe_mixed.csv"))

    def aligned(self, pictures: Sequence[str], landmarks: Landmarks) -> LooseFaces:
        """The pictures, warped to 112 x 112 by their landmarks; raises DataError if there is no folder of them."""
        folder = self.folder / PICTURES
        if not is_folder(folder):
            raise DataError(f"{folder}: no such folder; the pictures of {self.name} should lie there")
        return LooseFaces(folder, pictures, landmarks)

    def _file(self, ending: str) -> Path:
        name = f"{self.name}_{ending}"
        for path in (self.folder / name, self.folder / "meta" / name):
            if is_file(path):
                self.used.append(path)
                return path
        raise DataError(f"{self.folder}: no {name} there, nor in {self.folder / 'meta'}")


class LooseFaces:
    """Loosely cropped pictures, warped to 112 x 112; a :class:`~vplface.data.pictures.PictureSet` of unknown people.

    Args:
        folder: where the pictures are.
        pictures: their names.
        landmarks: of each; None if only the names are needed.
    """

    def __init__(self, folder: Path, pictures: Sequence[str], landmarks: Landmarks | None = None) -> None:
        self._folder, self._names, self._landmarks = folder, pictures, landmarks

    @property
    def identities(self) -> Sequence[str]:
        """One name, because it is not known who is on a picture."""
        return ["unknown"]

    @property
    def labels(self) -> Int64[np.ndarray, " n"]:
        """Label of each picture, always 0."""
        return np.zeros(len(self._names), np.int64)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """The picture's name in the files of the set."""
        return self._names[index]

    def picture(self, index: int) -> Picture:
        """The warped picture; raises UnreadablePictureError with its path and the reason."""
        from vplface.data.align import TEMPLATE, similarity, warp
        from vplface.data.pictures import decode_whole

        assert self._landmarks is not None
        path = self._folder / self._names[index]
        try:
            data = read_bytes(path)
        except UnreadableFileError as error:
            raise UnreadablePictureError(str(path), error.reason) from error
        try:
            matrix = similarity(self._landmarks.points[index].astype(np.float64), TEMPLATE)
        except ValueError as error:
            raise UnreadablePictureError(str(path), f"its landmarks are not those of a face: {error}") from error
        return warp(decode_whole(data, str(path)), matrix, SIZE)


def read_faces(path: Path | str) -> Faces:
    """Read lines "picture template medium".

    Raises:
        DataError: if the file is missing, empty or malformed; the line is named.
    """
    names, numbers = _named_rows(path, 2, "picture template medium")
    for column in numbers.T:
        if len(wrong := np.flatnonzero((column != np.rint(column)) | (np.abs(column) > 2**53))):
            raise DataError(f"{path}, line {_line_of(path, int(wrong[0]))}: template and medium must be whole numbers")
    position: dict[str, int] = {}
    picture = np.array([position.setdefault(name, len(position)) for name in names], np.int64)
    template, medium = numbers.T.astype(np.int64)
    return Faces(list(position), picture, template, medium)


def read_landmarks(path: Path | str, pictures: Sequence[str]) -> Landmarks:
    """Read lines "picture x1 y1 ... x5 y5 score", in any order, for the pictures named.

    Raises:
        DataError: if the file is missing or malformed (the line is named), or lacks some of the pictures.
    """
    names, numbers = _named_rows(path, 11, "picture x1 y1 x2 y2 x3 y3 x4 y4 x5 y5 score")
    if names == list(pictures):
        rows = np.arange(len(names))
    else:
        position = {name: row for row, name in enumerate(names)}
        if missing := [name for name in pictures if name not in position]:
            raise DataError(
                f"{path}: {len(missing)} of {len(pictures)} pictures have no line there, such as {missing[0]!r}"
            )
        rows = np.array([position[name] for name in pictures], np.int64)
    chosen = numbers[rows]
    return Landmarks(chosen[:, :10].reshape(-1, 5, 2).astype(np.float32), chosen[:, 10].copy())


def read_template_pairs(path: Path | str) -> TemplatePairs:
    """Read lines "template template 1|0"; fifteen million take a second or two.

    Raises:
        DataError: if the file is missing, empty or malformed; the line is named.
    """
    values, line = _integers(path, 3)
    if len(wrong := np.flatnonzero((values[:, 2] != 0) & (values[:, 2] != 1))):
        first = int(wrong[0])
        raise DataError(f"{path}, line {line[first]}: the third number must be 0 or 1, got {values[first, 2]}")
    return TemplatePairs(values[:, 0].copy(), values[:, 1].copy(), values[:, 2] == 1)


def read_templates(path: Path | str) -> TemplateList:
    """Read a gallery or a list of probes: a header with TEMPLATE_ID and SUBJECT_ID, then a line per picture.

    Raises:
        DataError: if the file is missing, empty or malformed, or if it gives a template two subjects.
    """
    rows = _rows(path)
    header = [field.strip().upper() for field in next(rows, (1, []))[1]]
    if not {"TEMPLATE_ID", "SUBJECT_ID"} <= set(header):
        raise DataError(f"{path}, line 1: expected a header with TEMPLATE_ID and SUBJECT_ID, got {','.join(header)!r}")
    at, of = header.index("TEMPLATE_ID"), header.index("SUBJECT_ID")
    subjects: dict[int, int] = {}
    for line, fields in rows:
        if not any(field.strip() for field in fields):
            continue
        try:
            template, subject = int(fields[at]), int(fields[of])
            if max(abs(template), abs(subject)) >= 2**63:
                raise ValueError("too large")
        except (IndexError, ValueError):
            raise DataError(
                f"{path}, line {line}: TEMPLATE_ID and SUBJECT_ID must be whole numbers, got {','.join(fields)[:80]!r}"
            ) from None
        if subjects.setdefault(template, subject) != subject:
            raise DataError(
                f"{path}, line {line}: template {template} shows subject {subject} here and subject "
                f"{subjects[template]} above"
            )
    if not subjects:
        raise DataError(f"{path}: lists no templates")
    return TemplateList(np.array([*subjects], np.int64), np.array([*subjects.values()], np.int64))


def _rows(path: Path | str) -> Iterator[tuple[int, list[str]]]:
    """Lines of fields, with their numbers."""
    rows = csv.reader(_text(path).splitlines())
    try:
        for fields in rows:
            yield rows.line_num, fields
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: cannot be read: {error}") from error


def _named_rows(path: Path | str, numbers: int, form: str) -> tuple[list[str], Float64[np.ndarray, "n numbers"]]:
    """Lines of a name and ``numbers`` finite numbers."""
    names: list[str] = []
    values: list[list[str]] = []
    for line, text in enumerate(_text(path).split("\n"), start=1):
        fields = text.replace(",", " ").split()
        if not fields:
            continue
        if len(fields) != numbers + 1:
            raise DataError(f"{path}, line {line}: expected {form!r}, got {len(fields)} fields: {text.strip()[:80]!r}")
        if max(map(len, fields[1:])) > _LONGEST_NUMBER:  # an array of text is as wide as its longest
            raise DataError(f"{path}, line {line}: a number of more than {_LONGEST_NUMBER} characters")
        names.append(fields[0])
        values.append(fields[1:])
    if not names:
        raise DataError(f"{path}: holds no lines {form!r}")
    try:
        parsed = np.array(values).astype(np.float64)
    except ValueError:
        parsed = np.full((len(names), numbers), np.nan)
    if not np.isfinite(parsed).all():
        wrong = next(row for row, fields in enumerate(values) if not all(map(_is_finite, fields)))
        raise DataError(
            f"{path}, line {_line_of(path, wrong)}: expected {form!r} with finite numbers, "
            f"got {' '.join((names[wrong], *values[wrong]))[:120]!r}"
        )
    return names, parsed


def _is_finite(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _line_of(path: Path | str, row: int) -> int:
    """Line number of a row; blank lines do not count as rows."""
    filled = (line for line, text in enumerate(_text(path).split("\n"), start=1) if text.replace(",", " ").strip())
    return next(line for position, line in enumerate(filled) if position == row)


def _bytes(path: Path | str) -> bytes:
    return read_bytes(path, LIMIT)


def _text(path: Path | str) -> str:
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not text in UTF-8 (byte {error.start})") from error


def _integers(path: Path | str, columns: int) -> tuple[Int64[np.ndarray, "n columns"], Int64[np.ndarray, " n"]]:
    """Table of whole numbers, and the line number of each row."""
    data = np.frombuffer(_bytes(path).removeprefix(b"\xef\xbb\xbf"), np.uint8)
    rows = int(np.count_nonzero(data == ord("\n"))) + 1
    values, line_of = np.empty((rows, columns), np.int64), np.empty(rows, np.int64)
    count, line, fault = _parse(data, values, line_of)
    if fault:
        said = data.tobytes().split(b"\n")[line - 1].decode("utf-8", "replace").strip()
        raise DataError(f"{path}, line {line}: expected {columns} whole numbers, got {said[:80]!r}: {_FAULTS[fault]}")
    if not count:
        raise DataError(f"{path}: is empty; expected lines of {columns} whole numbers")
    return values[:count], line_of[:count]


_FAULTS = {
    _NOT_A_NUMBER: "not a whole number",
    _TOO_FEW: "too few",
    _TOO_MANY: "too many",
    _TOO_LARGE: "too large a number",
}


@compiled(nogil=True)
def _parse(
    data: UInt8[np.ndarray, " bytes"], values: Int64[np.ndarray, "rows columns"], line_of: Int64[np.ndarray, " rows"]
) -> tuple[int, int, int]:
    """Fill the table; returns the number of rows, the current line, and the code of its fault, or 0."""
    row, column, line, position = 0, 0, 1, 0
    while position <= len(data):
        byte = data[position] if position < len(data) else 10
        if byte == 10:  # the end of a line
            if 0 < column < values.shape[1]:
                return row, line, _TOO_FEW
            if column:
                line_of[row] = line
                row += 1
            column, line, position = 0, line + 1, position + 1
        elif byte == 32 or byte == 9 or byte == 13 or byte == 44:  # blank, tab, carriage return, comma
            position += 1
        else:
            if column == values.shape[1]:
                return row, line, _TOO_MANY
            negative = byte == 45
            position += negative
            number, first = 0, position
            while position < len(data) and 48 <= data[position] <= 57:
                number = number * 10 + data[position] - 48
                position += 1
            if position - first > 18:
                return row, line, _TOO_LARGE
            at_end = position == len(data) or data[position] <= 32 or data[position] == 44
            if position == first or not at_end:
                return row, line, _NOT_A_NUMBER
            values[row, column] = -number if negative else number
            column += 1
    return row, line, 0
