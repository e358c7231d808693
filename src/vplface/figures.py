"""Pictures by matplotlib: names in them are text and never mathematics, and what a font lacks is drawn as a box."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vplface.errors import DataError, import_extra
from vplface.files import replacing

TITLE_LENGTH = 60
"""The most characters of a name in a picture; see :func:`vplface.printable.printable_name`."""


@contextmanager
def literal_text() -> Iterator[None]:
    """For functions that draw and save, as a decorator: dollar signs and backslashes in texts are what they are.

    Texts on axes are made when the figure is saved, so that this has to be inside too. Numbers on logarithmic axes are
    mathematics to matplotlib and need :func:`plain_numbers`.

    Raises:
        MissingExtraError: without matplotlib.
    """
    matplotlib = import_extra("matplotlib", "plot")
    matplotlib.use("agg")
    literal = {"text.parse_math": False, "text.usetex": False, "axes.formatter.use_mathtext": False}
    with matplotlib.rc_context(literal), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing|Matplotlib currently does not support")
        yield


def plain_numbers(axis: Any) -> None:
    """Label an axis, ``axes.xaxis`` or ``axes.yaxis``, that is logarithmic with 0.01, 1, 100."""
    axis.set_major_formatter(lambda value, _: f"{value:,g}")


def save_figure(figure: Any, path: Path, mode: int | None = None, dpi: int = 160) -> None:
    """Write a figure, at once or not at all, in the format of the name's suffix.

    Args:
        figure: by matplotlib.
        path: the picture.
        mode: see :func:`vplface.files.replacing`.
        dpi: points of an inch.

    Raises:
        DataError: the suffix is of no picture that matplotlib writes, or the file cannot be written.
    """
    data = io.BytesIO()
    kinds = figure.canvas.get_supported_filetypes()
    kind = path.suffix.lower().removeprefix(".")
    if kind not in kinds:
        raise DataError(f"{path}: the name must end in one of {', '.join(sorted(f'.{each}' for each in kinds))}")
    figure.savefig(data, format=kind, dpi=dpi)
    with replacing(path, mode) as temporary:
        temporary.write_bytes(data.getvalue())
