"""Lists of pictures as other tools write them, without a line of column names: .lst and .txt files.

The first line decides the form; fields are separated by tabs, or by blanks where a line has no tab.

- MXNet (im2rec): ``KEY LABEL [LABEL ...] PATH``; the first label is the identity.
- InsightFace (face2rec2): ``ALIGNED PATH LABEL [BOX LANDMARKS]`` where ALIGNED is 0 or 1.
- many trainers, such as FaceX-Zoo: ``PATH LABEL``, or ``LABEL PATH``.

Paths start from the list's folder, or are absolute. Whole numbers may be written as decimals: 3.000000 is identity 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from vplface.data.folder_scan import LeftOut, ending_of, is_picture
from vplface.data.formats.picture_list import PictureList, Row, list_lines
from vplface.data.spelling import spelled_on_disk
from vplface.errors import DataError
from vplface.reading import is_file

_NUMBER = re.compile(r"(\d+)(?:\.0*)?")
_TRIED = 100
"""Pictures of which one must be there."""

_Form: TypeAlias = Callable[[list[str]], tuple[str, str] | None]
"""The path and the label of a line's fields; None if they are of another form."""

FORMS = "KEY LABEL PATH (MXNet), ALIGNED PATH LABEL (InsightFace), PATH LABEL or LABEL PATH"


def open_text_list(path: Path) -> PictureList:
    """Open a list of pictures without column names.

    Raises:
        DataError: the list is missing, malformed (the line is named) or empty, or none of its first hundred pictures is
            where it says.
    """
    rows = _rows(path)
    first = [row for _, row in zip(range(_TRIED), rows, strict=False)]
    if first and not any(is_file(spelled_on_disk(path.parent, row.path)) for row in first):
        raise DataError(
            f"{path}: none of the first {len(first)} pictures is there, such as {path.parent / first[0].path}; paths "
            "in a list start from its folder: move the list to the folder that they start from"
        )
    return PictureList.from_rows(path, path.parent, chain(first, rows), None)


def _rows(path: Path) -> Iterator[Row]:
    form: _Form | None = None
    for number, line in enumerate(list_lines(path), start=1):
        text = line.strip("\r\n \t")
        if not text:
            continue
        fields = [field.strip() for field in text.split("\t")] if "\t" in text else text.split()
        place = f"{path}, line {number}"
        if form is None:
            form = next((each for each in (_mxnet, _insightface, _path_label, _label_path) if each(fields)), None)
            if form is None:
                raise DataError(f"{place}: {text[:200]!r} is not a line of a list of pictures; known are {FORMS}")
        found = form(fields)
        if found is None:
            raise DataError(f"{place}: {text[:200]!r} is of another form than the first line of the list")
        where, label = found
        yield Row(place, where.replace("\\", "/"), _identity(label), "")


def _mxnet(fields: list[str]) -> tuple[str, str] | None:
    *numbers, where = fields
    return (where, numbers[1]) if len(numbers) > 1 and all(map(_is_number, numbers)) and _is_path(where) else None


def _insightface(fields: list[str]) -> tuple[str, str] | None:
    if len(fields) < 3 or fields[0] not in ("0", "1") or not _is_path(fields[1]):
        return None
    return fields[1], fields[2]


def _path_label(fields: list[str]) -> tuple[str, str] | None:
    return (fields[0], fields[1]) if len(fields) == 2 and _is_path(fields[0]) and not _is_path(fields[1]) else None


def _label_path(fields: list[str]) -> tuple[str, str] | None:
    return _path_label(fields[::-1])


def _is_path(text: str) -> bool:
    """Whether a field has the suffix of a picture, of a supported kind or not."""
    return is_picture(text) or bool(LeftOut.of({ending_of(text): 1}))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _identity(label: str) -> str:
    number = _NUMBER.fullmatch(label)
    return number[1] if number else label
