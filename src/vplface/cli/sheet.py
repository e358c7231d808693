"""Sheets of pictures for inspection: captioned rows that compare pictures left and right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vplface.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

    from vplface.data.pictures import Picture

PICTURES = 4
"""Pictures on each side of a row."""

_SIDE, _GAP, _CAPTION = 112, 24, 22
_WIDTH = 2 * PICTURES * _SIDE + _GAP


def require_picture_name(path: Path | None) -> None:
    """Raise UsageError unless the name of a sheet ends in .png or .jpg."""
    if path is not None and path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--sheet {path}: the name must end in .png or .jpg")


def row(caption: str, left: Sequence[Picture], right: Sequence[Picture]) -> UInt8[np.ndarray, "height width 3"]:
    """A caption, and below it up to four pictures on either side."""
    import numpy as np

    drawn = np.full((_CAPTION + _SIDE, _WIDTH, 3), 255, np.uint8)
    for start, pictures in ((0, left), (PICTURES * _SIDE + _GAP, right)):
        for position, picture in enumerate(pictures[:PICTURES]):
            x = start + position * _SIDE
            drawn[_CAPTION:, x : x + _SIDE] = picture
    _write(drawn, caption)
    return drawn


def write_sheet(path: Path, note: str, rows: Sequence[UInt8[np.ndarray, "height width 3"]]) -> None:
    """Write a note and the rows below it as a picture; raises DataError if it cannot be encoded or written."""
    import cv2
    import numpy as np

    from vplface.files import PRIVATE, replacing

    head = np.full((_CAPTION + 4, _WIDTH, 3), 255, np.uint8)
    _write(head, note)
    encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(np.concatenate([head, *rows]), cv2.COLOR_RGB2BGR))
    if not encoded:
        raise DataError(f"{path}: the sheet could not be encoded")
    with replacing(path, PRIVATE) as temporary:
        temporary.write_bytes(data.tobytes())


def _write(picture: UInt8[np.ndarray, "height width 3"], text: str) -> None:
    import cv2

    cv2.putText(picture, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
