r"""Lists of pictures to drop, with one line per picture: name, tab and reason.

Tabs, line breaks and backslashes in names are written as \t, \n, \r and \\.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from vplface.data.pictures import PictureSet
from vplface.data.spelling import spelled_as_in
from vplface.errors import DataError
from vplface.files import PRIVATE, replacing
from vplface.reading import PICTURE_LIMIT, UnreadableFileError, read_text

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_MEANINGS = {escape: sign for sign, escape in _ESCAPES.items()}


def read_drop(path: Path | str) -> dict[str, str]:
    """Read a list as {name: reason}; reasons may be empty, and blank lines are skipped.

    Raises:
        DataError: the file cannot be read or is not text.
    """
    try:
        text = read_text(path, errors="surrogateescape", limit=PICTURE_LIMIT)
    except UnreadableFileError as error:
        raise DataError(f"{path}: cannot be read: {error.reason}") from error
    dropped = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        name, _, reason = line.partition("\t")
        if name:
            if "\0" in line:
                raise DataError(f"{path}, line {number}: is not text; expected a list of pictures to drop")
            dropped[_unescape(name)] = _unescape(reason)
    return dropped


def write_drop(path: Path | str, dropped: Mapping[str, str]) -> None:
    """Write {name: reason} for :func:`read_drop`; the file is replaced atomically.

    Raises:
        DataError: the file cannot be written.
    """
    lines = (f"{_escape(name)}\t{_escape(reason)}\n" for name, reason in dropped.items())
    with replacing(Path(path), PRIVATE) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8", errors="surrogateescape", newline="\n")


def indices_without(
    pictures: PictureSet, dropped: Collection[str], where: object = "the set"
) -> Int64[np.ndarray, " m"]:
    """Indices of the pictures that are not on the list, in order.

    Raises:
        DataError: names on the list are not in the set, so the list belongs to another set; or no picture is left.
    """
    if not dropped:
        return np.arange(len(pictures))
    unwanted = set(dropped)
    remaining, found = _partition(pictures, unwanted)
    if unwanted - found:
        composable = [name for index in range(len(pictures)) if not (name := pictures.name(index)).isascii()]
        unwanted = spelled_as_in(composable, unwanted)
        remaining, found = _partition(pictures, unwanted)
    missing = sorted(unwanted - found)
    if missing:
        raise DataError(
            f"{where}: {len(missing)} of the {len(unwanted)} pictures to drop are not in the set, such as "
            f"{missing[0]!r}; its names look like {pictures.name(0)!r}. Use a list that was made from this set"
        )
    if not remaining:
        raise DataError(f"{where}: the list drops all {len(pictures)} pictures")
    return np.array(remaining, dtype=np.int64)


def _partition(pictures: PictureSet, unwanted: set[str]) -> tuple[list[int], set[str]]:
    """Indices of the remaining pictures, and the unwanted names that occur."""
    found: set[str] = set()
    remaining = []
    for index in range(len(pictures)):
        name = pictures.name(index)
        if name in unwanted:
            found.add(name)
        else:
            remaining.append(index)
    return remaining, found


def _escape(text: str) -> str:
    return re.sub(r"[\\\t\n\r]", lambda found: _ESCAPES[found[0]], text)


def _unescape(text: str) -> str:
    return re.sub(r"\\[\\tnr]", lambda found: _MEANINGS[found[0]], text)
