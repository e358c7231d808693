"""Reader of landmark files, with the faces of each picture from any detector or by hand."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vplface.data.align.face import LANDMARKS, Face
from vplface.errors import DataError
from vplface.reading import PICTURE_LIMIT, UnreadableFileError, parse_json, read_text

POINTS = tuple(f"{name}_{axis}" for name in LANDMARKS for axis in "xy")
BOX = ("box_x", "box_y", "box_width", "box_height")


def read_landmarks(path: Path | str) -> dict[str, list[Face]]:
    """Read the faces of each picture, by the picture's path below the folder that is aligned.

    A ``.csv`` file has a row per face and a first row with the names of its columns: ``name``, the ten coordinates
    ``left_eye_x``, ``left_eye_y``, ``right_eye_x``, ... ``right_mouth_y`` and, if known, ``score`` and ``box_x``,
    ``box_y``, ``box_width``, ``box_height``. Other columns are ignored. A row without coordinates means a picture
    without a face. ``align.csv``, the record of an alignment, has this format.

    A ``.json`` file is an object of ``{"NAME": {"landmarks": [[x, y], five of them], "score": ..., "box": [x, y,
    width, height]}}``, or a list of such objects where a picture has several faces.

    Coordinates are in pixels of the picture as it is shown, its EXIF orientation applied.

    Raises:
        DataError: the file cannot be read, lacks a column, or has an invalid number or face; the line or picture is
            named.
    """
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".json"):
        raise DataError(f"{path}: a landmark file is a .csv or a .json file")
    try:
        text = read_text(path, "utf-8-sig", "surrogateescape", PICTURE_LIMIT)
    except UnreadableFileError as error:
        raise DataError(f"{path}: cannot be read: {error.reason}") from error
    found = _from_json(text, path) if path.suffix.lower() == ".json" else _from_csv(text, path)
    if not found:
        raise DataError(f"{path}: holds no pictures")
    return found


def cells(face: Face) -> dict[str, str]:
    """The columns of a face in a CSV file; numbers are written so that they are read back exactly."""
    values = dict(zip(POINTS, face.landmarks.flatten().tolist(), strict=True)) | {"score": face.score}
    if face.box is not None:
        values |= dict(zip(BOX, face.box, strict=True))
    return {name: repr(value).removesuffix(".0") for name, value in values.items()}


def face_in(row: Mapping[str, str | None]) -> Face | None:
    """The inverse of :func:`cells`: None where a row has no coordinates; raises ValueError if they are invalid."""
    points = [row.get(name) or "" for name in POINTS]
    if not any(points):
        return None
    box = [row.get(name) or "" for name in BOX]
    return _face(_numbers(points, POINTS), row.get("score") or 1.0, _numbers(box, BOX) if any(box) else None)


def _numbers(texts: list[str], names: tuple[str, ...]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError:
        wrong = next(name for name, text in zip(names, texts, strict=True) if not _is_number(text))
        raise ValueError(f"{wrong} is not a number: {texts[names.index(wrong)]!r}") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _face(landmarks: Any, score: Any, box: Any) -> Face:
    try:
        points = np.asarray(landmarks, np.float64).reshape(5, 2)
        surest = float(score)
        edges = None if box is None else np.asarray(box, np.float64).reshape(4).tolist()
    except (TypeError, ValueError):
        raise ValueError(
            f"expected five points [x, y], a number as score and a box [x, y, width, height], got {landmarks!r}, "
            f"{score!r} and {box!r}"
        ) from None
    if not np.isfinite([surest, *(edges or ())]).all():
        raise ValueError("the score or the box is not finite")
    return Face(points, surest, None if edges is None else (edges[0], edges[1], edges[2], edges[3]))


def _from_csv(text: str, path: Path) -> dict[str, list[Face]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    found: dict[str, list[Face]] = {}
    try:
        missing = {"name", *POINTS} - set(reader.fieldnames or ())
        if missing:
            ordered = [name for name in ("name", *POINTS) if name in missing]
            raise DataError(f"{path}: lacks the columns {', '.join(ordered)}; the first line names the columns")
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{path}, line {reader.line_num}: expected {len(reader.fieldnames or ())} cells")
            if not row["name"]:
                raise DataError(f"{path}, line {reader.line_num}: has no name")
            faces = found.setdefault(row["name"], [])
            face = face_in(row)
            if face is not None:
                faces.append(face)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error
    return found


def _from_json(text: str, path: Path) -> dict[str, list[Face]]:
    value = parse_json(text, str(path))
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected an object from names to faces, got a {type(value).__name__}")
    found: dict[str, list[Face]] = {}
    for name, entry in value.items():
        faces = found[name] = []
        for face in entry if isinstance(entry, list) else [entry]:
            if not isinstance(face, dict) or "landmarks" not in face:
                raise DataError(f"{path}, {name!r}: expected an object with the key 'landmarks', or a list of them")
            try:
                faces.append(_face(face["landmarks"], face.get("score", 1.0), face.get("box")))
            except ValueError as error:
                raise DataError(f"{path}, {name!r}: {error}") from error
    return found
