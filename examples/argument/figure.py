"""How the figures of the argument are asked for, drawn and saved."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

INK, SOFT, GRID, PAPER = "#1d2226", "#5c656d", "#e4e5e0", "#fbfbf9"
PLAIN, VPL, STRONG, CONTROL = "#0072b2", "#d55e00", "#00876a", "#a8568b"
HUES = ("#332288", "#cc6677", "#117733", "#b8962e", "#3a9fd0", "#882255")
DARK = {
    INK: "#e8e8e4", SOFT: "#a6aeb5", GRID: "#30363b", PAPER: "#15181b",
    PLAIN: "#56b0ea", VPL: "#f58a45", STRONG: "#36c9a2", CONTROL: "#dd92c4",
    **dict(zip(HUES, ("#9d90ef", "#ee8d9c", "#5cc07c", "#e0c064", "#88ccee", "#d86a9e"), strict=True)),
}  # fmt: skip
"""The colour that takes each one's place where the page is dark."""

STYLE = {
    "figure.facecolor": PAPER, "axes.facecolor": PAPER, "savefig.facecolor": PAPER, "legend.frameon": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": SOFT, "xtick.color": SOFT, "ytick.color": SOFT,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.titlecolor": INK, "grid.color": GRID, "grid.linewidth": 0.8,
    "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "font.size": 10, "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.titlepad": 8, "legend.fontsize": 9,
    "lines.linewidth": 1.8, "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.12, "figure.constrained_layout.w_pad": 0.08,
    "svg.hashsalt": "argument", "svg.fonttype": "path",
}  # fmt: skip


def options(text: str, steps: int, argv: list[str] | None, **switches: str) -> argparse.Namespace:
    """What every figure can be asked: ``out``, ``json``, ``steps`` and ``seed``, and its own ``switches``."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE.svg", help="draw the figure; without it, only the numbers")
    parser.add_argument("--json", action="store_true", help="print the numbers, and all curves, as one JSON object")
    parser.add_argument("--steps", type=int, default=steps, help="length of a training run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of faces, weights and batches (default: %(default)s)")
    for name, meaning in switches.items():
        parser.add_argument(f"--{name}", action="store_true", help=meaning)
    asked = parser.parse_args(argv)
    if asked.steps < 24:
        parser.error(f"--steps must be at least 24, got {asked.steps}: a shorter run has no stages to tell apart")
    if asked.seed < 0:
        parser.error(f"--seed must not be negative, got {asked.seed}")
    if asked.out is not None and asked.out.suffix != ".svg":
        parser.error(f"--out must end in .svg, got {asked.out}")
    if asked.out is not None and not asked.out.absolute().parent.is_dir():
        parser.error(f"--out: there is no folder {asked.out.absolute().parent}; make it first")
    return asked


def present(asked: argparse.Namespace, numbers: Mapping[str, Any], text: str, draw: Callable[[Figure], None]) -> None:
    """Print ``numbers`` as JSON or else ``text``, and draw if a file was asked for."""
    print(json.dumps(numbers, indent=1, ensure_ascii=False) if asked.json else text)
    if asked.out is None:
        return
    with mpl.rc_context(STYLE):
        figure = Figure()
        draw(figure)
        figure.savefig(asked.out, metadata={"Date": None})
    drawn = asked.out.read_text(encoding="utf-8")
    asked.out.write_text(drawn.replace("<defs>", _dark_style() + "<defs>", 1), encoding="utf-8")


def _dark_style() -> str:
    """Style that recolours the drawing where the page around it, or the reader's system, is dark."""
    rules = "".join(
        f'[style*="{part}: {light}"]{{{part}:{dark}!important}}'
        for light, dark in DARK.items()
        for part in ("fill", "stroke")
    )
    return f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
