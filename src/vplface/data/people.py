"""Lists of people, in LFW's format or one name per line."""

from __future__ import annotations

from pathlib import Path

from vplface.data.list_lines import NUMBER, read_lines
from vplface.errors import DataError


def read_people(path: Path | str) -> list[str]:
    """Read a list of people.

    The format is LFW's, "NAME<tab>count" lines under a header (the number of people, or the number of folds, each
    with its own header), or one name per line.

    Raises:
        DataError: the file is missing, empty or malformed, or has a duplicate name; the line is named.
    """
    rows = [(line, [field.strip() for field in text.split("\t")]) for line, text in read_lines(path)]
    if not rows:
        raise DataError(f"{path}: holds no names")
    if any(len(fields) > 1 for _, fields in rows):
        rows = _strip_headers(path, rows)
    people: dict[str, int] = {}
    for line, fields in rows:
        if len(fields) > 2 or not fields[0] or (len(fields) == 2 and not NUMBER.fullmatch(fields[1])):
            raise DataError(f"{path}, line {line}: expected a name, or a name, a tab and a count, got {fields}")
        if fields[0] in people:
            raise DataError(f"{path}, line {line}: {fields[0]!r} is already on line {people[fields[0]]}")
        people[fields[0]] = line
    return list(people)


def _strip_headers(path: Path | str, rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    headers = [(position, line, fields[0]) for position, (line, fields) in enumerate(rows) if len(fields) == 1]
    for _, line, text in headers:
        if not NUMBER.fullmatch(text) or len(rows[0][1]) > 1:
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
