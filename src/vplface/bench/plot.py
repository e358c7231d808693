"""A plot of the benchmark of the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vplface.errors import import_extra
from vplface.figures import literal_text, plain_numbers, save_figure

Result = Mapping[str, Any]

INK, OURS = "#1d2226", "#d55e00"
OTHERS = ("#0072b2", "#3b9bd1", "#a8568b", "#a87900", "#00876a", "#7a7a1f", "#8b949b", "#1d6f42")


@literal_text()
def draw(path: Path, machine: Mapping[str, Any], results: Sequence[Result]) -> None:
    """Seconds a step: over N where several were measured, else over B, else as bars; a panel for what is held fixed.

    Args:
        path: the picture; its suffix says the format (png, svg, pdf).
        machine: see ``head.machine``.
        results: see ``head.measure``.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        DataError: if the file cannot be written.
    """
    pyplot = import_extra("matplotlib.pyplot", "plot")
    over = next((key for key in ("classes", "batch") if len({result[key] for result in results}) > 1), None)
    fixed = [key for key in ("classes", "batch", "dtype") if key != over]
    panels: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        panels.setdefault(tuple(result[key] for key in fixed), []).append(result)
    figure, axes = pyplot.subplots(
        1,
        len(panels),
        figsize=(5.0 * len(panels) + 1.6 * (over is not None), 4.4),
        squeeze=False,
        layout="constrained",
        sharey=over is not None,
    )
    for axis, (values, group) in zip(axes[0], panels.items(), strict=True):
        axis.set_title(", ".join(_say(key, value) for key, value in zip(fixed, values, strict=True)), loc="left")
        if over is None:
            _bars(axis, group[0])
        else:
            _lines(axis, sorted(group, key=lambda result: int(result[over])), over)
        axis.spines[["top", "right"]].set_visible(False)
    if over is not None:
        axes[0][0].set_ylabel("seconds a step")
        axes[0][-1].legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.02, 0.5))
    where = machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads"
    figure.suptitle(
        f"Forward, backward and update of the head, half of the memory alive\n{where}, torch {machine['torch']}",
        x=0.01, ha="left", fontsize=11,
    )  # fmt: skip
    save_figure(figure, path)
    pyplot.close(figure)


def _bars(axis: Any, result: Result) -> None:
    timed = {name: arm["seconds"] for name, arm in result["arms"].items() if "seconds" in arm}
    names = list(timed)[::-1]
    colours = [_colour(name, 0) for name in names]
    bars = axis.barh(names, [timed[name] for name in names], color=colours)
    axis.bar_label(bars, [f" {1e3 * timed[name]:.0f} ms" for name in names], fontsize=8)
    axis.axvline(result["floor"]["seconds"], color=INK, linestyle=":", linewidth=1)
    axis.set_xlabel("seconds a step; dotted: three products and one pass over the state")
    axis.set_xscale("log")
    plain_numbers(axis.xaxis)


def _lines(axis: Any, group: Sequence[Result], over: str) -> None:
    sizes = [result[over] for result in group]
    names = list(dict.fromkeys(name for result in group for name in result["arms"]))
    for number, name in enumerate(names):
        seconds = [result["arms"].get(name, {}).get("seconds", float("nan")) for result in group]
        axis.plot(
            sizes, seconds, "o-", color=_colour(name, number), label=name, linewidth=2 if name == "vplface" else 1.2,
            markersize=4,
        )  # fmt: skip
    axis.plot(sizes, [result["floor"]["seconds"] for result in group], ":", color=INK, label="floor")
    axis.set_xscale("log")
    axis.set_yscale("log")
    plain_numbers(axis.yaxis)
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axis.minorticks_off()
    axis.set_xlabel({"classes": "classes N", "batch": "batch B"}[over])
    axis.grid(color="#ecece8")


def _colour(name: str, number: int) -> str:
    return OURS if name == "vplface" else OTHERS[number % len(OTHERS)]


def _say(key: str, value: Any) -> str:
    return str(value) if key == "dtype" else f"{ {'classes': 'N', 'batch': 'B'}[key] } = {value:,}"
