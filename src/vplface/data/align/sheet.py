"""Contact sheet of an alignment: photographs with landmarks, beside their crops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vplface.data.align.face import Face
from vplface.data.align.record import Record
from vplface.data.pictures import UnreadablePictureError, decode_whole, read_picture_file
from vplface.errors import DataError, import_extra
from vplface.files import PRIVATE, replacing

cv2 = import_extra("cv2", "train")

_SIDE, _CAPTION, _GAP = 224, 20, 12
_COLUMNS, _MOST = 4, 48
_COLOURS = ((230, 60, 60), (60, 120, 255), (60, 220, 60), (255, 190, 0), (230, 60, 230))
"""RGB colours of left eye, right eye, nose, left and right corner of the mouth."""


def write_sheet(path: Path, source: Path, target: Path, records: Sequence[Record]) -> int:
    """Draw up to 48 pictures, evenly over the names: each with its faces marked, beside its first crop.

    Pictures without a crop have a grey field with the reason instead. The cropped face has a thick outline. Unreadable
    pictures are not shown.

    Returns:
        Number of pictures shown.

    Raises:
        DataError: there is nothing to show, or the file cannot be written.
    """
    pictures: dict[str, list[Record]] = {}
    for record in records:
        if record.outcome not in ("unreadable", "name taken"):
            pictures.setdefault(record.name, []).append(record)
    names = list(pictures)
    if not names:
        raise DataError(f"{path}: no pictures to show")
    shown = [names[index] for index in np.linspace(0, len(names) - 1, min(len(names), _MOST)).round().astype(int)]
    fields = [_field(source, target, pictures[name]) for name in shown]
    columns = min(_COLUMNS, len(fields))
    fields += [np.full_like(fields[0], 255)] * (-len(fields) % columns)
    rows = [np.concatenate(fields[start : start + columns], axis=1) for start in range(0, len(fields), columns)]
    data = cv2.imencode(path.suffix, cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))[1]
    with replacing(path, PRIVATE) as temporary:
        temporary.write_bytes(data.tobytes())
    return len(shown)


def _field(source: Path, target: Path, records: list[Record]) -> UInt8[np.ndarray, "h w 3"]:
    field = np.full((_CAPTION + _SIDE + _GAP, 2 * _SIDE + 2 * _GAP, 3), 255, np.uint8)
    taken = next((record for record in records if record.crop), None)
    details = "" if taken is None or taken.face is None else _describe(taken.face, taken.faces)
    _put(field[:_CAPTION], f"{Path(records[0].name).name}  {details}")
    photograph = _read(source / records[0].name)
    if photograph is not None:
        _place(field[_CAPTION:, :_SIDE], _marked(photograph, records))
    beside = field[_CAPTION : _CAPTION + _SIDE, _SIDE + _GAP // 2 : 2 * _SIDE + _GAP // 2]
    crop = None if taken is None else _read(target / taken.crop)
    if crop is None:
        beside[:] = 225
        _put(beside[:_CAPTION], records[0].outcome)
    else:
        _place(beside, crop)
    return field


def _describe(face: Face, faces: int) -> str:
    several = f", one of {faces} faces" if faces > 1 else ""
    return f"{face.score:.2f}, {face.side:.0f} px{several}"


def _marked(photograph: UInt8[np.ndarray, "h w 3"], records: list[Record]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Photograph at display size, with the landmarks and the squares that become crops."""
    scale = _SIDE / max(photograph.shape[:2])
    marked = _scaled(photograph, scale)
    for record in records:
        if record.face is not None:
            square = np.rint(_square(record.face) * scale * 8).astype(np.int32)  # in eighths of a pixel
            thick = 2 if record.outcome == "aligned" else 1
            cv2.polylines(marked, [square], True, (255, 255, 255), thick, cv2.LINE_AA, 3)
            for (x, y), colour in zip((record.face.landmarks * scale).tolist(), _COLOURS, strict=True):
                cv2.circle(marked, (round(x), round(y)), 3, colour, -1, cv2.LINE_AA)
    return marked


def _square(face: Face) -> np.ndarray:
    """Corners of the crop in the photograph, [4, 2]."""
    corners = np.array([(0, 0), (111, 0), (111, 111), (0, 111)])
    scaled, shift = face.matrix[:, :2], face.matrix[:, 2]
    return np.linalg.solve(scaled, (corners - shift).T).T


def _place(field: np.ndarray, picture: np.ndarray) -> None:
    scale = _SIDE / max(picture.shape[:2])
    shown = picture if scale == 1 else _scaled(picture, scale)
    field[: shown.shape[0], : shown.shape[1]] = shown


def _scaled(picture: np.ndarray, scale: float) -> np.ndarray:
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))


def _read(path: Path) -> UInt8[np.ndarray, "h w 3"] | None:
    try:
        return decode_whole(read_picture_file(path), str(path))
    except UnreadablePictureError:  # deleted during the alignment
        return None


def _put(field: np.ndarray, text: str) -> None:
    cv2.putText(field, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
