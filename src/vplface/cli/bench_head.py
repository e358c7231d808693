"""``vplface bench head``: time and memory of a step of the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from vplface import bounds
from vplface.cli.bench_scaling import parse_numbers, print_scaling, scaling
from vplface.cli.options import AS_JSON, DEVICE, DIM, PLOT, THREADS
from vplface.console import Console, print_json, say
from vplface.errors import UsageError
from vplface.tables import Table


def head(
    classes: Annotated[
        str, typer.Option(help="N, number of classes; several, separated by commas, are measured in turn.")
    ] = "100000",
    batch: Annotated[str, typer.Option(help="B, pictures in a step; several are separated by commas.")] = "128,512",
    dim: DIM = 512,
    dtype: Annotated[str, typer.Option(help="Type of the products: float32, bfloat16 or both.")] = "float32,bfloat16",
    arms: Annotated[
        str | None, typer.Option(help="What to measure: names separated by commas. Default: all.", show_default=False)
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, max=bounds.REPEATS, help="Rounds in which each arm takes a step.")] = 5,
    workspace_mb: Annotated[float, typer.Option(min=0, help="Workspace of the head, MiB.")] = 256,
    memory: Annotated[bool, typer.Option(help="Also measure peak memory, in separate processes.")] = True,
    beside: Annotated[
        int,
        typer.Option(
            min=0,
            max=bounds.THREADS,
            help="Also time each arm beside this many busy single-threaded processes, like loader workers.",
        ),
    ] = 0,
    device: DEVICE = "cpu",
    processes: Annotated[
        str | None,
        typer.Option(
            help="Instead of the arms, measure the head with its classes sharded over this many processes, e.g. 1,2.",
            show_default=False,
        ),
    ] = None,
    threads: THREADS = None,
    plot: PLOT = None,
    as_json: AS_JSON = False,
) -> None:
    """Time a step of the head: forward, backward and update, with half of the memory alive.

    Arms take turns in one process on the same data; those that compute the same loss are first checked to do so. Times
    are medians. "floor" is a lower bound: three matrix products of that type, and reading W, momentum and
    M and writing W and momentum once. "extra" is peak memory beyond W, momentum, M and T.

    \b
    vplface bench head                      100,000 classes, B 128 and 512
    vplface bench head --classes 10000,100000,1000000 --plot head.png
    vplface bench head --beside 1           the cost of a busy neighbour to each arm

    With --processes only the head is measured, with its classes sharded over processes of this machine that use gloo:

    \b
    strong     N and B are constant; each process has fewer classes
    weak       N grows with the processes; the number of classes of each is constant
    efficiency logits per second and thread, relative to the smallest number of processes

    \b
    vplface bench head --processes 1,2      one thread a process
    """  # noqa: D301 (the mark before lines that stay as they are)
    from vplface.bench.head import measure
    from vplface.bench.head_arms import ARMS, sharded
    from vplface.bench.machine import machine
    from vplface.bench.problem import Setting

    names = list(ARMS) if arms is None else [name.strip() for name in arms.split(",")]
    if unknown := [name for name in names if name not in ARMS]:
        raise UsageError(f"--arms: unknown arm {unknown[0]!r}; expected some of {', '.join(ARMS)}")
    types = [name.strip() for name in dtype.split(",")]
    if not set(types) <= {"float32", "bfloat16"}:
        raise UsageError(f"--dtype takes float32, bfloat16, or both with a comma, got {dtype!r}")
    settings = [
        Setting(n, b, dim, kind, device, workspace_mb)  # type: ignore[arg-type]  # checked above
        for n in parse_numbers("--classes", classes, 2)
        for b in parse_numbers("--batch", batch, 1, bounds.BATCH)
        for kind in types
    ]
    if processes is not None:
        if arms is not None or plot is not None or device != "cpu" or not memory or beside:
            raise UsageError(
                "--processes measures the head alone, on the CPU: omit --arms, --plot, --device, --no-memory and"
                " --beside"
            )
        threads_each = 1 if threads is None else threads
        print_scaling(scaling(sharded, settings, processes, threads_each, repeats, grows="classes"), as_json)
        return
    if threads is not None:
        raise UsageError("--threads sets the threads of each process; give --processes too")
    results = [measure(setting, names, repeats, memory=memory, beside=beside) for setting in settings]
    if plot is not None:
        from vplface.bench.plot import draw

        draw(plot, machine(), results)
    if as_json:
        print_json({"schema": 1, "machine": machine(), "results": results})
        return
    _show(machine(), results, beside)
    if plot is not None:
        say(f"plot: {plot}")


def _show(machine: Mapping[str, Any], results: Sequence[Mapping[str, Any]], beside: int) -> None:
    console = Console()
    where = machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads"
    console.print(f"{where}, torch {machine['torch']}", highlight=False)
    for result in results:
        floor = result["floor"]
        busy = [f"ms beside {beside}", "× slower"] if beside else []
        extra = ["extra MiB"] if any("extra_mb" in arm for arm in result["arms"].values()) else []
        table = Table(
            f"N {result['classes']:,}, B {result['batch']}, d {result['dim']}, {result['dtype']}: floor"
            f" {1e3 * floor['seconds']:.0f} ms (products {1e3 * floor['products']:.0f},"
            f" memory {1e3 * floor['memory']:.0f})",
            ["arm", "ms per step", "least – most", "× faster", "× floor", *busy, *extra],
        )
        for name, arm in result["arms"].items():
            if "reason" in arm:
                continue
            least, most = arm["spread"]
            neighbour = arm.get("beside")
            table.add_row(
                name,
                f"{1e3 * arm['seconds']:.0f}",
                f"{1e3 * least:.0f} – {1e3 * most:.0f}",
                f"{arm['speedup']:.1f}" if "speedup" in arm else "",
                f"{arm['over_floor']:.2f}",
                *(
                    [f"{1e3 * neighbour['seconds']:.0f}", f"{neighbour['slowdown']:.2f}"]
                    if neighbour
                    else busy and ["", ""]
                ),
                *([f"{arm['extra_mb']:.0f}" if "extra_mb" in arm else ""] if extra else []),
            )
        console.print(table)
        for name, arm in result["arms"].items():
            if "reason" in arm:
                say(f"{name}: {arm['reason']}")
