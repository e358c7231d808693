"""``vplface data info``: size, class sizes and expected coverage of a set, and how degraded pictures look."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vplface import bounds
from vplface.cli.degrade import parse_degradations, write_degradation_sheet
from vplface.cli.options import AS_JSON, SPLIT
from vplface.cli.sheet import require_picture_name
from vplface.console import Console, print_json, say
from vplface.errors import UsageError
from vplface.figures import TITLE_LENGTH, literal_text, plain_numbers, save_figure
from vplface.printable import printable_name
from vplface.tables import Table

if TYPE_CHECKING:
    from vplface.data.summary import Summary

Coverage = Mapping[int, Mapping[int, float]]
"""Expected coverage by batch size and Δt."""

BATCHES = (128, 512, 2048)
LIFETIMES = (50, 100, 200, 500, 1000, 2000)
_BAR = 40
_SIZES = 4


def info(
    path: Annotated[
        Path,
        typer.Argument(
            help="The set: a folder PATH/IDENTITY/PICTURE, RecordIO, tar shards, parquet, a list, a .bin file.",
            show_default=False,
        ),
    ],
    split: SPLIT = None,
    sample: Annotated[
        int, typer.Option(min=1, max=bounds.LARGEST, help="Number of pictures to sample for types and sizes.")
    ] = 1000,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw class sizes and expected coverage into this .png, .svg or .pdf.", show_default=False),
    ] = None,
    degrade: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[:KEY=VALUE,...]",
            help="Show some pictures on --sheet as vplface evaluate --degrade makes them: low_resolution, blur, noise, "
            "compression, darkness, occlusion, surveillance or strokes; with options: low_resolution:pixels=7-11. "
            "May be repeated.",
            show_default=False,
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Write a contact sheet to this .png or .jpg file: pictures on the left, degraded on the right.",
            show_default=False,
        ),
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """Describe a set: pictures, identities, pictures per identity, and the coverage that Δt and batch size will give.

    Coverage is the share of classes whose memory is alive, 1 − exp(−p·B·Δt) on average: where it is low, variational
    prototypes change little.

    Example:  vplface data info my_faces --plot classes.png

    Example:  vplface data info my_faces --degrade low_resolution --degrade surveillance --sheet degraded.png
    """
    if plot is not None and plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--plot {plot}: the name must end in .png, .svg or .pdf")
    require_picture_name(sheet)
    if (sheet is None) != (not degrade):
        raise UsageError("--degrade and --sheet go together: what to show, and the file to show it in")
    degradations = parse_degradations(degrade or [])

    from vplface.data.formats import open_pictures  # torch and opencv take seconds to import
    from vplface.data.summary import summarise
    from vplface.prototypes.coverage import expected_coverage

    pictures = open_pictures(path, split)
    summary = summarise(pictures, sample)
    coverage = {
        batch: {delta_t: expected_coverage(summary.class_sizes, batch, delta_t) for delta_t in LIFETIMES}
        for batch in BATCHES
    }
    if plot is not None:
        _draw(plot, path, summary)
    if sheet is not None:
        write_degradation_sheet(sheet, pictures, degradations)
    if as_json:
        print_json(_to_dict(path, summary, coverage, pictures.left_out.to_dict()))
        return
    _print_summary(path, summary, coverage)
    if pictures.left_out:
        say(f"note: {pictures.left_out}")
    for written in (plot, sheet):
        if written is not None:
            say(f"wrote {written}")


def _to_dict(path: Path, summary: Summary, coverage: Coverage, left_out: Mapping[str, Any]) -> dict[str, Any]:
    sizes = summary.class_sizes
    return {
        "schema": 1,
        "path": str(path),
        "pictures": summary.pictures,
        "identities": summary.identities,
        "identities_without_pictures": summary.empty,
        "pictures_per_identity": {
            "mean": float(sizes.mean()),
            "median": float(sorted(sizes.tolist())[len(sizes) // 2]),
            "largest": int(sizes.max()),
        },
        "share_of_identities_with_one_picture": summary.single,
        "histogram": [
            {"from": low, "to": high, "identities": count} for (low, high), count in summary.histogram().items()
        ],
        "sample": {
            "pictures": summary.sampled,
            "formats": summary.formats,
            "sizes": summary.sizes,
            "unreadable": summary.unreadable,
        },
        "bytes": summary.bytes,
        "left_out": left_out,
        "expected_coverage": [
            {"batch_size": batch, "delta_t": delta_t, "coverage": share}
            for batch, shares in coverage.items()
            for delta_t, share in shares.items()
        ],
    }


def _print_summary(path: Path, summary: Summary, coverage: Coverage) -> None:
    console = Console(highlight=False)
    looked = f"of {summary.sampled:,} sampled" if summary.sampled < summary.pictures else "of all"
    rows = [
        ("pictures", f"{summary.pictures:,}, about {_bytes(summary.bytes)}"),
        ("identities", f"{summary.identities:,}; {100 * summary.single:.0f} % have one picture"),
        ("pictures each", f"{summary.pictures / summary.identities:.1f}, at most {summary.class_sizes.max():,}"),
        (f"types, {looked}", _format_shares(summary.formats)),
        (f"sizes, {looked}", _format_shares(summary.sizes)),
    ]
    if summary.empty:
        rows.insert(3, ("without pictures", f"{summary.empty:,} identities"))
    if summary.unreadable:
        rows.append((f"unreadable, {looked}", f"{summary.unreadable:,}; vplface data check names them"))
    table = Table(printable_name(str(path)), text=(0, 1))
    for row in rows:
        table.add_row(*row)
    console.print(table)

    histogram = summary.histogram()
    most = max(histogram.values())
    console.print("\nidentities by number of pictures")
    for (low, high), count in histogram.items():
        label = f"{low}" if low == high else f"{low}–{high}"
        bar = "█" * max(round(_BAR * count / most), int(count > 0))
        console.print(f"{label:>13}  {bar} {count:,}", soft_wrap=True)

    heads = ["batch", *(f"{delta_t:,}" for delta_t in LIFETIMES)]
    shares = Table("\nexpected coverage by Δt (steps) and batch size", heads, text=())
    for batch, row_of in coverage.items():
        shares.add_row(f"{batch:,}", *(f"{100 * share:.3g} %" for share in row_of.values()))
    console.print(shares)


def _format_shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    shown = [f"{name} ({100 * count / total:.0f} %)" for name, count in list(counts.items())[:_SIZES]]
    if len(counts) > _SIZES:
        shown.append(f"and {len(counts) - _SIZES} others")
    return ", ".join(shown) or "none can be read"


def _bytes(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


@literal_text()
def _draw(plot: Path, path: Path, summary: Summary) -> None:
    import numpy as np

    from vplface.errors import import_extra
    from vplface.prototypes.coverage import expected_coverage

    pyplot = import_extra("matplotlib.pyplot", "plot")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    histogram = summary.histogram()
    labels = [f"{low}" if low == high else f"{low}–{high}" for low, high in histogram]
    bars = left.bar(labels, list(histogram.values()), color="#0072b2")
    left.bar_label(bars, [f"{count:,}" if count else "" for count in histogram.values()], fontsize=8)
    left.set_xlabel("pictures of an identity")
    left.set_ylabel("identities")
    left.tick_params(axis="x", rotation=45)
    name = printable_name(path.name, TITLE_LENGTH)
    left.set_title(
        f"{name}: {summary.pictures:,} pictures of {summary.identities:,} identities", loc="left", fontsize=10
    )
    lifetimes = np.unique(np.geomspace(1, 10_000, 60).round().astype(int))
    for batch, colour in zip(BATCHES, ("#d55e00", "#0072b2", "#00876a"), strict=True):
        shares = [expected_coverage(summary.class_sizes, batch, int(delta_t)) for delta_t in lifetimes]
        right.semilogx(lifetimes, shares, color=colour, label=f"batch of {batch:,}")
    right.set_ylim(0, 1)
    plain_numbers(right.xaxis)
    right.set_xlabel("Δt (steps)")
    right.set_title("expected coverage", loc="left", fontsize=10)
    right.legend(frameon=False, loc="lower right")
    right.grid(alpha=0.25)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, plot, dpi=150)
    pyplot.close(figure)
