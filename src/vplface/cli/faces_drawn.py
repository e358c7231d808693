"""Drawings of photographs with their faces, and with names or a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vplface.errors import import_extra
from vplface.figures import TITLE_LENGTH, literal_text, save_figure
from vplface.files import PRIVATE
from vplface.printable import printable_name

if TYPE_CHECKING:
    from vplface.deploy.faces import FoundFace, Photograph

_COLOURS = {True: "#1a7f37", False: "#b3261e", None: "#31456a"}
_COLUMNS = 3
_TALLEST = 1.5


@literal_text()
def draw_pair(path: Path, photographs: Sequence[Photograph], taken: Sequence[FoundFace], title: str, note: str) -> None:
    """Two pictures beside each other, below each the face that the model saw."""
    high = 4 * min(_TALLEST, max(map(_tallness, photographs)))
    figure = _figure(8, high + 2.6)
    grid = figure.add_gridspec(2, 2, height_ratios=(high, 1.8))
    for column, (photograph, face) in enumerate(zip(photographs, taken, strict=True)):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(photograph.picture)
        axes.set_title(printable_name(photograph.path.name, TITLE_LENGTH), fontsize=9)
        for other in photograph.faces:
            _frame(axes, other, _COLOURS[None], 2.5 if other is face else 0.8)
        below = figure.add_subplot(grid[1, column])
        below.imshow(face.picture)
        for panel in (axes, below):
            panel.set_axis_off()
    figure.suptitle(title, fontsize=13)
    figure.supxlabel(note, fontsize=8)
    save_figure(figure, path, PRIVATE, dpi=130)


@literal_text()
def draw_identified(
    path: Path, pictures: Sequence[tuple[Photograph, Sequence[tuple[str, bool | None]]]], note: str
) -> None:
    """Photographs, each face framed and named; green for known, red for unknown."""
    photographs = [photograph for photograph, _ in pictures]
    columns = min(_COLUMNS, max(1, len(photographs)))
    rows = max(1, -(-len(photographs) // columns))
    side = 8 if columns == 1 else 4
    high = side * min(_TALLEST, max(map(_tallness, photographs), default=1.0))
    figure = _figure(side * columns, rows * (high + 0.3) + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    for axes, (photograph, labels) in zip(grid, pictures, strict=False):
        axes.imshow(photograph.picture)
        axes.set_title(printable_name(photograph.path.name, TITLE_LENGTH), fontsize=9, pad=9)
        for face, (label, known) in zip(photograph.faces, labels, strict=True):
            _frame(axes, face, _COLOURS[known], 1.8)
            x, y = (0, 0) if face.box is None else face.box[:2]
            axes.text(
                x, y, label, fontsize=8, color="white", va="bottom" if y else "top",
                bbox={"facecolor": _COLOURS[known], "edgecolor": "none", "pad": 1.5},
            )  # fmt: skip
    figure.supxlabel(note, fontsize=8)
    save_figure(figure, path, PRIVATE, dpi=130)


def _tallness(photograph: Photograph) -> float:
    height, width = photograph.picture.shape[:2]
    return float(height / width)


def _figure(width: float, height: float) -> Any:
    return import_extra("matplotlib.figure", "plot").Figure((width, height), layout="constrained")


def _frame(axes: Any, face: FoundFace, colour: str, width: float) -> None:
    if face.box is None:
        return
    x, y, wide, high = face.box
    rectangle = import_extra("matplotlib.patches", "plot").Rectangle
    axes.add_patch(rectangle((x, y), wide, high, fill=False, edgecolor=colour, linewidth=width))
