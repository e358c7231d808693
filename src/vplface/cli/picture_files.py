"""Files of pictures named on the command line, directly or by their folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vplface.data.folder_scan import LeftOut


def picture_files(places: list[Path]) -> tuple[list[Path], LeftOut]:
    """The given files and the pictures below the given folders, without repetition, and the files left out there."""
    from vplface.data.folder_scan import LeftOut, find_pictures, identity_key
    from vplface.reading import is_folder

    files: list[Path] = []
    left_out = LeftOut()
    for place in places:
        if is_folder(place):
            scan = find_pictures(place)
            files += [place / name for name in sorted(scan.pictures, key=identity_key)]
            left_out += scan.left_out
        else:
            files.append(place)
    return list(dict.fromkeys(files)), left_out
