"""Lines and fields of text lists, separated by tabs, commas or blanks."""

from __future__ import annotations

import csv
import re
from contextlib import suppress
from pathlib import Path

from vplface.errors import DataError
from vplface.reading import UnreadableFileError, read_bytes

NUMBER = re.compile(r"[0-9]{1,9}")
"""A decimal number as lists contain it."""


def read_rows(path: Path | str) -> list[tuple[int, list[str]]]:
    """Fields of each line that is not blank, stripped, with line numbers from 1."""
    return [(line, [field.strip() for field in _split_fields(text)]) for line, text in read_lines(path)]


def _split_fields(text: str) -> list[str]:
    if "\t" in text:
        return text.split("\t")
    if "," not in text:
        return text.split()
    if '"' in text:
        with suppress(csv.Error):  # quotes that are part of a name
            return next(csv.reader([text], skipinitialspace=True, strict=True))
    return text.split(",")


def read_lines(path: Path | str) -> list[tuple[int, str]]:
    """Lines that are not blank, stripped, with line numbers from 1."""
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
