"""A contact sheet: some identities, one per row, to inspect generated pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vplface.data.pictures import PictureSet
from vplface.errors import DataError, import_extra

cv2 = import_extra("cv2", "train")


def contact_sheet(
    pictures: PictureSet, rows: int = 12, columns: int = 10, enlarge: int = 2
) -> UInt8[np.ndarray, "h w 3"]:
    """The first ``columns`` pictures of the first ``rows`` identities, RGB; missing pictures stay black."""
    labels = np.asarray(pictures.labels)
    sheet = np.zeros((rows * 112, columns * 112, 3), dtype=np.uint8)
    for row in range(min(rows, len(pictures.identities))):
        for column, index in enumerate(np.flatnonzero(labels == row)[:columns].tolist()):
            sheet[row * 112 : row * 112 + 112, column * 112 : column * 112 + 112] = pictures.picture(index)
    enlarged: UInt8[np.ndarray, "h w 3"] = cv2.resize(
        sheet, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC
    )
    return enlarged


def write_sheet(path: Path | str, pictures: PictureSet) -> None:
    """Write a contact sheet as a picture file.

    Raises:
        DataError: if the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg"):
        raise DataError(f"{path}: the name of a contact sheet must end in .png or .jpg")
    coded = cv2.imencode(path.suffix, cv2.cvtColor(contact_sheet(pictures), cv2.COLOR_RGB2BGR))[1]
    try:
        path.write_bytes(coded.tobytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
