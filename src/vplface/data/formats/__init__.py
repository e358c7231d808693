"""Labelled pictures on disk, in every form that people keep them in; the form is known from the path.

| form | path |
|---|---|
| image folder | a folder ROOT/IDENTITY/PICTURE |
"""

from __future__ import annotations

from pathlib import Path

from vplface.data.formats.image_folder import ImageFolder
from vplface.data.pictures import StoredPictures


def open_pictures(path: Path | str) -> StoredPictures:
    """Open the pictures at ``path``, whatever their form.

    Raises:
        DataError: if nothing is there, or not in a form that is known, or damaged.
    """
    return ImageFolder(path)
