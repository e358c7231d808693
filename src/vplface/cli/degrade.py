"""The option ``--degrade``: degradations as text, ``KIND:KEY=VALUE,KEY=VALUE``, and a sheet that shows them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from vplface.cli.sheet import PICTURES, row, write_sheet
from vplface.errors import DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from vplface.data.degrade import Degradation
    from vplface.data.pictures import PictureSet

DEGRADE = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND[:KEY=VALUE,...]",
        help="Make pictures poor, too: low_resolution, blur, noise, compression, darkness, occlusion, surveillance or "
        "strokes. With options, e.g. low_resolution:pixels=7-11,share=0.2,seed=0: the strength of the kind, the share "
        "of the pictures, and probes=true to leave the first picture of each pair (or one picture of each person) as "
        "it is. May be repeated.",
        show_default=False,
    ),
]

_ROWS = 2
"""Rows of pictures for each degradation."""

_RANGE = re.compile(r"([\d.]+)-([\d.]+)")


def parse_degradations(texts: Sequence[str]) -> list[Degradation]:
    """The degradations of all ``--degrade``.

    Raises:
        UsageError: a text is not a degradation, or two are the same; the message names it.
    """
    found: list[Degradation] = []
    for text in texts:
        degradation = _parsed(text)
        if degradation in found:
            raise UsageError(f"--degrade {text}: is given twice")
        found.append(degradation)
    return found


def _parsed(text: str) -> Degradation:
    from vplface.config.degrade import read_degradation  # opencv takes a second to import

    kind, _, given = text.partition(":")
    options: dict[str, object] = {"kind": kind}
    for part in given.split(",") if given else []:
        key, separator, value = part.partition("=")
        if not separator or key in options:
            reason = "key is given twice" if separator else "has no ="
            raise UsageError(
                f"--degrade {text}: {part!r}: {reason}; write KIND:KEY=VALUE,KEY=VALUE, for example "
                "low_resolution:pixels=7-11,share=0.2"
            )
        ends = _RANGE.fullmatch(value)
        options[key] = value if ends is None else list(ends.groups())
    try:
        degradation = read_degradation(options)
    except ValueError as error:
        raise UsageError(f"--degrade {text}: {error}") from error
    assert degradation is not None
    return degradation


def write_degradation_sheet(path: Path, pictures: PictureSet, degradations: Sequence[Degradation]) -> None:
    """Write a picture with some pictures of a set on the left, and their degraded versions on the right.

    The pictures are evenly spaced in the set, the same for all degradations, whether among the share or not.

    Raises:
        DataError: no picture can be read, or the sheet cannot be written.
    """
    import numpy as np

    from vplface.data.pictures import UnreadablePictureError

    clean = []
    for index in np.unique(np.linspace(0, len(pictures) - 1, _ROWS * PICTURES).round().astype(int)).tolist():
        with suppress(UnreadablePictureError):
            clean.append((pictures.picture(index), pictures.name(index)))
    if not clean:
        raise DataError(f"{path}: none of the pictures to show can be read; vplface data check names them")
    rows = []
    for degradation in degradations:
        for start in range(0, len(clean), PICTURES):
            some = clean[start : start + PICTURES]
            caption = "" if start else str(degradation).replace("–", "-")  # OpenCV draws ASCII alone
            rows.append(row(caption, [each for each, _ in some], [degradation(*each) for each in some]))
    write_sheet(path, "left: the pictures; right: the same, degraded", rows)
