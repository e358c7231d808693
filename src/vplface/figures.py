"""Matplotlib figures with literal text, in which missing glyphs are drawn as boxes."""

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
"""Longest name in a figure, in characters; see :func:`vplface.printable.printable_name`."""


@contextmanager
def literal_text() -> Iterator[None]:
    """Disable math text within the block, so that dollar signs and backslashes are literal.

    Also a decorator. Saving the figure must be inside, since it creates the axis labels. Logarithmic axes need
    :func:`plain_numbers`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = import_extra("matplotlib", "plot")
    matplotlib.use("agg")
    literal = {"text.parse_math": False, "text.usetex": False, "axes.formatter.use_mathtext": False}
    with matplotlib.rc_context(literal), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing|Matplotlib currently does not support")
        yield


def plain_numbers(axis: Any) -> None:
    """Label a logarithmic axis, ``axes.xaxis`` or ``axes.yaxis``, with plain numbers: 0.01, 1, 100."""
    axis.set_major_formatter(lambda value, _: f"{value:,g}")


def save_figure(figure: Any, path: Path, mode: int | None = None, dpi: int = 160) -> None:
    """Write a figure atomically, in the format of the path's suffix.

    Args:
        figure: matplotlib's figure.
        path: output file.
        mode: see :func:`vplface.files.replacing`.
        dpi: resolution, in dots per inch.

    Raises:
        DataError: matplotlib does not support the suffix, or the file cannot be written.
    """
    data = io.BytesIO()
    kinds = figure.canvas.get_supported_filetypes()
    kind = path.suffix.lower().removeprefix(".")
    if kind not in kinds:
        raise DataError(f"{path}: the name must end in one of {', '.join(sorted(f'.{each}' for each in kinds))}")
    figure.savefig(data, format=kind, dpi=dpi)
    with replacing(path, mode) as temporary:
        temporary.write_bytes(data.getvalue())
