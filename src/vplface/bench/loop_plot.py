"""A plot of the benchmark of whole steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vplface.bench.loop import PARTS
from vplface.bench.plot import INK, OTHERS, OURS
from vplface.errors import import_extra
from vplface.figures import literal_text, save_figure

_COLOURS = dict(zip(PARTS, (OTHERS[6], OTHERS[5], OTHERS[1], OURS, OTHERS[0], OTHERS[3]), strict=True))


@literal_text()
def draw_loops(path: Path, machine: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Milliseconds per picture as bars, cut into the parts of a step; a panel for each backbone.

    Args:
        path: the picture; its suffix says the format (png, svg, pdf).
        machine: see ``head.machine``.
        results: see ``loop.measure``.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        DataError: if the file cannot be written.
    """
    pyplot = import_extra("matplotlib.pyplot", "plot")
    rows = max(len(result["arms"]) for result in results)
    figure, axes = pyplot.subplots(
        len(results), 1, figsize=(9.0, 1.4 + len(results) * (0.8 + 0.36 * rows)), squeeze=False, layout="constrained"
    )
    for axis, result in zip(axes[:, 0], results, strict=True):
        names = list(result["arms"])[::-1]
        left = [0.0] * len(names)
        for part in PARTS:
            width = [1e3 * result["arms"][name]["parts"][part] / result["batch"] for name in names]
            axis.barh(names, width, left=left, color=_COLOURS[part], label=part, height=0.7)
            left = [a + b for a, b in zip(left, width, strict=True)]
        for row, (name, end) in enumerate(zip(names, left, strict=True)):
            arm = result["arms"][name]
            text = f"  {arm['pictures_per_second']:,.0f} pictures/s, × {arm['speedup']:.1f}"
            axis.text(end, row, text, va="center", fontsize=9, color=INK)
        axis.set_xlim(0, 1.3 * max(left))
        axis.set_title(f"{result['backbone']}, N = {result['classes']:,}, B = {result['batch']}", loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1][0].set_xlabel("milliseconds per picture")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(PARTS), frameon=False)
    where = machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads"
    figure.suptitle(f"A training step\n{where}, torch {machine['torch']}", x=0.01, ha="left", fontsize=11)
    save_figure(figure, path)
    pyplot.close(figure)
