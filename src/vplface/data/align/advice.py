"""The warning about a set that is not aligned, with the command that mends it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vplface.console import say
from vplface.data.align.face import Detector
from vplface.data.align.look import AlignmentLook, look
from vplface.data.align.yunet import SOURCE, YuNet, default_model
from vplface.data.pictures import SIZE, StoredPictures, decode_whole
from vplface.errors import DataError
from vplface.reading import is_file, is_folder

_MIN_SCORE = 0.5
_SEARCH_SIZE = 320

_warned: set[tuple[Path, str | None]] = set()
"""Sets that were warned about: a set is opened several times in a run."""


def find_detector(model: Path | None = None) -> Detector | None:
    """YuNet from a file, or from its default place; None where no file is named and none is there that works.

    Raises:
        DataError: the named file is missing or another network.
    """
    if model is not None:
        return YuNet(model, _MIN_SCORE, _SEARCH_SIZE)
    try:
        return YuNet(default_model(), _MIN_SCORE, _SEARCH_SIZE)
    except DataError:
        return None


def warn_if_unaligned(
    place: Path, pictures: StoredPictures, split: str | None = None, detector_model: Path | None = None
) -> AlignmentLook:
    """Look at a stored set, see :func:`vplface.data.align.look.look`, and warn on stderr, once for each set.

    Args:
        place: path of the set.
        pictures: the set.
        split: the split that was opened.
        detector_model: YuNet's file; None for its default place.
    """

    def read(index: int) -> UInt8[np.ndarray, "h w 3"]:
        return decode_whole(pictures.encoded(index), pictures.where(index))

    return _warn(place, split, read, len(pictures), detector_model)


def warn_if_unaligned_files(
    place: Path, read: Callable[[int], UInt8[np.ndarray, "h w 3"]], count: int, detector_model: Path | None = None
) -> AlignmentLook:
    """As :func:`warn_if_unaligned`, of pictures in a folder; ``read`` gives them as they are stored."""
    return _warn(place, None, read, count, detector_model)


def advice(place: Path, seen: AlignmentLook, split: str | None = None, detector_model: Path | None = None) -> str:
    """The fault of a set and the command that mends it; empty for a set that is not bad."""
    if not seen.bad:
        return ""
    if seen.scale is None:
        return f"{place}: {_reason(seen)}. If they show faces, align them: {_command(place, split, detector_model)}"
    return (
        f"{place}: {_reason(seen)}. Align the original photographs, or if you have none these pictures: "
        f"{_command(place, split, detector_model)}"
    )


def describe(seen: AlignmentLook) -> str:
    """A line on what was seen, for a set that is not bad."""
    if seen.verdict == "aligned":
        by = (
            f"the mean of {seen.pictures} pictures shows a face in its place"
            if seen.distance is None
            else f"in {seen.faces} pictures the landmarks are {seen.distance:.1f} pixels of {SIZE} from the template"
        )
        return f"alignment: good; {by}"
    if seen.verdict == "no faces":
        return f"alignment: not judged; the detector finds faces in {seen.faces} of {seen.pictures} pictures"
    return (
        "alignment: unknown from the mean of the pictures; if they show faces, give YuNet's file with --detector-model"
    )


def _warn(
    place: Path,
    split: str | None,
    read: Callable[[int], UInt8[np.ndarray, "h w 3"]],
    count: int,
    detector_model: Path | None,
) -> AlignmentLook:
    seen = look(read, count, find_detector(detector_model))
    if seen.bad and (place, split) not in _warned:
        _warned.add((place, split))
        say(f"warning: {advice(place, seen, split, detector_model)}", file=sys.stderr)
    return seen


def _reason(seen: AlignmentLook) -> str:
    assert seen.size is not None
    width, height = seen.size
    sizes = f"{width}×{height}" + (f" and {seen.sizes - 1} other sizes" if seen.sizes > 1 else "")
    count = "the picture looked at" if seen.pictures == 1 else f"the {seen.pictures} pictures looked at"
    shape = f"{count} ({sizes}) will be resized to {SIZE}×{SIZE}"
    if seen.verdict == "stretched":
        return f"not aligned: {shape}, which stretches {'what they show' if seen.scale is None else 'the faces'}"
    assert seen.scale is not None
    assert seen.shift is not None
    right, down = seen.shift
    parts = [f"{seen.scale:.2f} of the size of aligned faces"]
    for pixels, far, near in ((right, "right", "left"), (down, "low", "high")):
        if abs(pixels) >= 2:
            parts.append(
                f"{abs(pixels):.0f} pixels too {('far ' if far == 'right' else '')}{far if pixels > 0 else near}"
            )
    what = ", ".join(parts)
    if seen.distance is None:
        return f"not aligned: on average over {count} ({sizes}) the faces are {what}, at {SIZE}×{SIZE}"
    return (
        f"not aligned: in {count} ({sizes}), at {SIZE}×{SIZE}, eyes, nose and mouth are {seen.distance:.0f} pixels "
        f"from their places (in aligned sets 3 to 5); the faces are {what}"
    )


def _command(place: Path, split: str | None, detector_model: Path | None) -> str:
    folder, first = place, ""
    if not is_folder(place) or split is not None:
        folder = place.with_name(f"{place.name.partition('.')[0]}-pictures")
        first = f"vplface data convert {_quoted(place)} {_quoted(folder)}"
        first += f" --split {shlex.quote(split)} && " if split is not None else " && "
    command = f"{first}vplface data align {_quoted(folder)} {_quoted(folder.with_name(f'{folder.name}-aligned'))}"
    command += " --faces center"
    source = ""
    if detector_model is not None:
        command += f" --detector-model {_quoted(detector_model)}"
    elif not is_file(default_model()):
        command += " --detector-model face_detection_yunet_2026may.onnx"
        source = f" (the file is at {SOURCE})"
    return command + source


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
