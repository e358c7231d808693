"""A plot of the benchmark of loading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loading import DECODING, USUAL

from vplface.bench.plot import INK, OTHERS, OURS
from vplface.errors import import_extra
from vplface.figures import literal_text, save_figure


@literal_text()
def draw_loading(path: Path, machine: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Pictures a second as bars; a panel for one core and one for workers.

    Args:
        path: the picture; its suffix says the format (png, svg, pdf).
        machine: see ``head.machine``.
        result: see ``loading.measure``.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        DataError: if the file cannot be written.
    """
    pyplot = import_extra("matplotlib.pyplot", "plot")
    panels = [key for key in ("one_process", "workers") if key in result]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(6.5 * len(panels), 3.6), squeeze=False, layout="constrained"
    )
    for axis, key in zip(axes[0], panels, strict=True):
        arms = {name: arm for name, arm in result[key]["arms"].items() if "reason" not in arm}
        names = list(arms)[::-1]
        speeds = [arms[name]["pictures_per_second"] for name in names]
        bars = axis.barh(names, speeds, color=[OTHERS[6] if name in (DECODING, USUAL) else OURS for name in names])
        axis.bar_label(bars, [f" {speed:,.0f}" for speed in speeds], fontsize=8, color=INK)
        axis.margins(x=0.15)
        axis.set_xlabel("pictures a second, to batches of floats unless it says bytes")
        title = "one core" if key == "one_process" else f"{result[key]['processes']} worker processes"
        axis.set_title(title, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"Loading {result['pictures']:,} pictures of {result['bytes_per_picture']:,} bytes, random order and flips\n"
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}",
        x=0.01, ha="left", fontsize=11,
    )  # fmt: skip
    save_figure(figure, path)
    pyplot.close(figure)
