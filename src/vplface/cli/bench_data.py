"""``vplface bench data``: loading pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vplface import bounds
from vplface.cli.options import AS_JSON, PLOT
from vplface.console import Console, print_json, say
from vplface.errors import UsageError


def data(
    path: Annotated[
        Path | None,
        typer.Option("--data", help="A set in any form; faces are generated unless given.", show_default=False),
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=1, max=bounds.LARGEST, help="How many pictures to take, evenly over the set.")
    ] = 1500,
    batch: Annotated[int, typer.Option(min=1, max=bounds.BATCH, help="B, pictures in a batch.")] = 128,
    repeats: Annotated[
        int, typer.Option(min=1, max=bounds.REPEATS, help="Rounds in which each arm loads all of them.")
    ] = 9,
    workers: Annotated[
        int, typer.Option(min=0, max=bounds.PROCESSES, help="Measure with so many worker processes as well.")
    ] = 0,
    startup: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=bounds.LARGEST,
            help="Instead, time the opening of a RecordIO set of so many records.",
            show_default=False,
        ),
    ] = None,
    plot: PLOT = None,
    as_json: AS_JSON = False,
) -> None:
    """Pictures per second that one core loads from RecordIO, tar shards and a folder.

    The same files in each form are read in random order, decoded, flipped at random, collated and made a batch of
    floats, as training does. Beside them: cv2.imdecode of the same bytes and nothing else, and what is usual in
    PyTorch, PIL and a DataLoader over a folder. Arms take turns; figures are medians. Without workers, processor time
    counts.

    \b
    bytes      without floats: batches as they leave a worker
    imdecode   as a share of bare decoding
    × usual    times PIL and a DataLoader

    \b
    vplface bench data --data lfw112 --workers 2 --plot loading.png
    vplface bench data --startup 5000000    how long it takes to open five million records
    """  # noqa: D301 (the mark before lines that stay as they are)
    from vplface.bench.data import measure
    from vplface.bench.data import startup as measure_startup
    from vplface.bench.head import machine

    if startup is not None:
        if path is not None or workers or plot is not None:
            raise UsageError("--startup measures one thing only: leave out --data, --workers and --plot")
        opened = measure_startup(startup, repeats)
        if as_json:
            print_json({"schema": 1, "machine": machine(), "startup": opened})
        else:
            _show_startup(opened)
        return
    if pictures < batch:
        raise UsageError(f"--pictures {pictures} is less than a batch; --batch is {batch}")
    result = measure(path, pictures, batch, repeats, workers)
    if plot is not None:
        from vplface.bench.data_plot import draw_loading

        draw_loading(plot, machine(), result)
    if as_json:
        print_json({"schema": 1, "machine": machine(), **result})
        return
    _show_loading(machine(), result)
    if plot is not None:
        say(f"plot: {plot}")


def _show_loading(machine: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    from rich.table import Table

    console = Console()
    console.print(f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}", highlight=False)
    size = f"{result['pictures']:,} pictures of {result['bytes_per_picture']:,} bytes, B {result['batch']}"
    for key in ("one_process", "workers"):
        if key not in result:
            continue
        how = "one core" if key == "one_process" else f"{result[key]['processes']} workers"
        table = Table(title=f"{how}: {size}", title_justify="left")
        table.add_column("arm")
        for heading in ("pictures/s", "least – most", "imdecode", "× usual"):
            table.add_column(heading, justify="right")
        for name, arm in result[key]["arms"].items():
            if "reason" in arm:
                table.add_row(name, arm["reason"])
                continue
            least, most = arm["spread"]
            table.add_row(
                name,
                f"{arm['pictures_per_second']:,.0f}",
                f"{least:,.0f} – {most:,.0f}",
                f"{arm['of_decoding']:.0%}" if "of_decoding" in arm else "",
                f"{arm['over_usual']:.2f}",
            )
        console.print(table)


def _show_startup(result: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{result['records']:,} records, {result['identities']:,} identities", title_justify="left")
    table.add_column("opening")
    for heading in ("seconds", "least – most", "processor"):
        table.add_column(heading, justify="right")
    for name, opened in result["opening"].items():
        least, most = opened["spread"]
        table.add_row(
            name,
            f"{opened['seconds']:.2f}",
            f"{least:.2f} – {most:.2f}",
            f"{opened['processor_seconds']:.2f}",
        )
    Console().print(table)
