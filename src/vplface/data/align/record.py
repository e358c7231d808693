"""Record of an alignment, ``align.csv``: a row per face, and readable as a landmark file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vplface.data.align.face import Face
from vplface.data.align.landmarks import BOX, POINTS, cells, face_in
from vplface.errors import DataError
from vplface.files import replacing
from vplface.reading import read_text

_MOST_BYTES = 2**32
COLUMNS = ("name", "outcome", "crop", "faces", "score", *POINTS, *BOX, "reason")


@dataclass(frozen=True, eq=False)
class Record:
    """Outcome of one face, or of a picture without faces.

    Attributes:
        name: path of the picture below the source.
        outcome: "aligned", "not chosen", "too small", "outside", "no face", "unreadable", "name taken" or "too poor".
        faces: number of faces in the picture.
        face: the face of this row, if any.
        crop: path of the crop below the target; empty without one.
        reason: explanation, if there is no crop.
    """

    name: str
    outcome: str
    faces: int = 0
    face: Face | None = None
    crop: str = ""
    reason: str = ""


def _rows(records: Iterable[Record]) -> str:
    """The records as lines of CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    for record in records:
        plain = {key: str(getattr(record, key)) for key in ("name", "outcome", "crop", "faces", "reason")}
        writer.writerow(plain | ({} if record.face is None else cells(record.face)))
    return text.getvalue()


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write the whole file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(",".join(COLUMNS) + "\n" + _rows(records), encoding="utf-8", errors="surrogateescape")


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Append lines at once, so that they are kept if the process is killed.

    Raises:
        DataError: if the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(_rows(records))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; repeat the command to resume") from error


def read_records(path: Path) -> list[Record]:
    """Read the file back; an incomplete last line is skipped.

    Raises:
        DataError: naming the line, if it is not such a file.
    """
    text = read_text(path, errors="surrogateescape", limit=_MOST_BYTES)
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise DataError(f"{path}: not a record of aligned pictures; choose another folder, or delete this file")
    try:
        return [
            Record(row["name"], row["outcome"], int(row["faces"]), face_in(row), row["crop"], row["reason"])
            for row in reader
        ]
    except (ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; delete this file to start over") from error
