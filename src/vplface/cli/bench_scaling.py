"""Measurements of one process against several, for ``vplface bench head`` and ``train``."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from vplface import bounds
from vplface.console import Console, print_json, say
from vplface.errors import UsageError
from vplface.tables import Table

if TYPE_CHECKING:
    from vplface.bench.problem import Setting
    from vplface.bench.processes import Make


def scaling(
    make: Make,
    settings: Sequence[Setting],
    processes: str,
    threads: int,
    repeats: int,
    grows: Literal["batch", "classes"],
) -> list[dict[str, Any]]:
    """The measurements of ``processes.scale`` for each setting.

    Raises:
        UsageError: if there are not enough pictures for each process.
    """
    from vplface.bench.machine import cores
    from vplface.bench.processes import scale

    counts = parse_numbers("--processes", processes, 1, bounds.PROCESSES)
    most, pictures = max(counts), 2 if grows == "batch" else 1
    for setting in settings:
        if setting.batch < pictures * most:
            enough = "2 pictures, for its batch statistics" if pictures == 2 else "a picture"
            raise UsageError(f"--batch {setting.batch} is too small: each of {most} processes needs {enough}")
    if most * max(threads, 1) > cores():
        say(f"{most * max(threads, 1)} threads share {cores()} cores: efficiency will be lower", file=sys.stderr)
    return [scale(make, setting, counts, repeats, grows=grows, threads=threads) for setting in settings]


def parse_numbers(option: str, text: str, least: int, most: int = bounds.LARGEST) -> list[int]:
    """Whole numbers from ``least`` to ``most``, separated by commas.

    Raises:
        UsageError: if the text is anything else; the message names the option.
    """
    parts = [part.strip().replace("_", "") for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,10}", part) and least <= int(part) <= most for part in parts):
        raise UsageError(
            f"{option} takes whole numbers from {least} to {most:,} with commas between them, got {text[:60]!r}"
        )
    return [int(part) for part in parts]


def print_scaling(results: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print a table for each setting, or one JSON object."""
    from vplface.bench.machine import machine

    where = machine()
    if as_json:
        print_json({"schema": 1, "machine": where, "results": results})
        return
    console = Console()
    console.print(f"{where['processor']}, {where['cores']} cores, torch {where['torch']}", highlight=False)
    for result in results:
        threads = {entry["threads"] for entry in result["scaling"]}
        name = f"{result['backbone']}, " if "backbone" in result else ""
        size = f"N {result['classes']:,}, B {result['batch']}, d {result['dim']}, {result['dtype']}"
        division = "cores divided" if len(threads) > 1 else f"threads per process: {max(threads)}"
        grows, letter = ("batch", "B") if "backbone" in result else ("classes", "N")
        heads = ["processes", letter, "ms per step", "least – most", "pictures/s", "efficiency"]
        table = Table(f"{name}{size}; {division}", heads)
        for entry in result["scaling"]:
            base = entry["scaling"] == "base"
            least, most = entry["spread"]
            table.add_row(
                f"{entry['processes']}" + ("" if base else f", {entry['scaling']}"),
                f"{entry[grows]:,}",
                f"{1e3 * entry['seconds']:.0f}",
                f"{1e3 * least:.0f} – {1e3 * most:.0f}",
                f"{entry['pictures_per_second']:,.0f}",
                "" if base else f"{entry['efficiency']:.0%}",
            )
        console.print(table)
