"""``vplface bench train``: time of whole training steps, and its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import typer

from vplface import bounds
from vplface.cli.bench_scaling import print_scaling, scaling
from vplface.cli.options import AS_JSON, DEVICE, DIM, PLOT, THREADS
from vplface.console import Console, print_json, say
from vplface.errors import UsageError
from vplface.tables import Table

DEFAULT_BACKBONES = ("tiny", "mobilefacenet", "iresnet50")


def train(
    backbone: Annotated[str, typer.Option(help="Backbones, as in recipes, separated by commas.")] = ",".join(
        DEFAULT_BACKBONES
    ),
    dim: DIM = 512,
    classes: Annotated[int, typer.Option(min=2, max=bounds.LARGEST, help="N, number of classes.")] = 100_000,
    batch: Annotated[
        int, typer.Option(min=2, max=bounds.BATCH, help="B, pictures in a step (for the smallest number of processes).")
    ] = 32,
    dtype: Annotated[
        str, typer.Option(help="Precision of our network and products: float32, bfloat16 or both.")
    ] = "float32,bfloat16",
    repeats: Annotated[
        int, typer.Option(min=1, max=bounds.REPEATS, help="Rounds in which each loop takes a step.")
    ] = 5,
    workspace_mb: Annotated[float, typer.Option(min=0, help="Workspace of the head (in each process), MiB.")] = 256,
    workers: Annotated[
        int,
        typer.Option(min=0, max=bounds.PROCESSES, help="Also time our loops with this many processes for loading."),
    ] = 0,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile our network with torch.compile.")] = False,
    device: DEVICE = "cpu",
    processes: Annotated[
        str | None,
        typer.Option(
            help="Instead of the usual loop, compare this many processes that share batch and classes, e.g. 1,2.",
            show_default=False,
        ),
    ] = None,
    threads: THREADS = None,
    plot: PLOT = None,
    as_json: AS_JSON = False,
) -> None:
    """Pictures per second of whole training steps, and where the time goes.

    A step is loading, backbone, head with half of the memory alive, backward, and both updates, on generated faces with
    random labels. It is compared with a conventional loop for the same step: a folder read by PIL in a DataLoader,
    float32, NCHW, all logits by autograd, torch's SGD. Both begin with the same weights, and their first losses must
    agree. They take turns and load pictures in the loop, so that none prepares batches while another is timed.
    Figures are medians.

    \b
    × usual    pictures per second, relative to the usual loop
    of peak    floating-point operations, as a share of what a large matrix product reaches in that precision
    possible   with --workers: pictures per second as a share of what the parts allow, once loading is done beside them

    \b
    vplface bench train --backbone mobilefacenet --plot step.png
    vplface bench train --backbone iresnet50 --device cuda --compile --batch 512

    With --processes pictures are random and in memory, so that loading is not measured. The processes communicate
    through gloo, and their backbones are wrapped in DistributedDataParallel:

    \b
    strong     B is constant; each process has a smaller part of the batch
    weak       B grows with the processes; the number of pictures of each is constant
    efficiency pictures per second and thread, relative to the smallest number of processes

    \b
    vplface bench train --backbone tiny --classes 10000 --batch 128 --processes 1,2
    """  # noqa: D301 (the mark before lines that stay as they are)
    from vplface.backbones import BACKBONES
    from vplface.backbones.timm import PREFIX
    from vplface.bench.loop import measure
    from vplface.bench.machine import machine
    from vplface.bench.problem import Setting

    networks = [name.strip() for name in backbone.split(",")]
    if unknown := [name for name in networks if name not in BACKBONES and not name.startswith(PREFIX)]:
        raise UsageError(f"--backbone: unknown backbone {unknown[0]!r}; expected some of {', '.join(BACKBONES)}")
    types = [name.strip() for name in dtype.split(",")]
    if not set(types) <= {"float32", "bfloat16"}:
        raise UsageError(f"--dtype takes float32, bfloat16, or both with a comma, got {dtype!r}")
    setting = Setting(classes, batch, dim, device=device, workspace_mb=workspace_mb)
    if processes is not None:
        if plot is not None or compiled or workers or device != "cpu":
            raise UsageError("--processes measures on the CPU: omit --plot, --compile, --workers and --device")
        _scale(networks, types, setting, processes, 1 if threads is None else threads, repeats, as_json)
        return
    if threads is not None:
        raise UsageError("--threads sets the threads of each process; give --processes too")
    results = [measure(setting, network, types, repeats, compiled=compiled, workers=workers) for network in networks]
    if plot is not None:
        from vplface.bench.loop_plot import draw_loops

        draw_loops(plot, machine(), results)
    if as_json:
        print_json({"schema": 1, "machine": machine(), "results": results})
        return
    _show(machine(), results)
    if plot is not None:
        say(f"plot: {plot}")


def _scale(
    networks: Sequence[str],
    types: Sequence[str],
    setting: Any,
    processes: str,
    threads: int,
    repeats: int,
    as_json: bool,
) -> None:
    from vplface.bench.train import training

    settings = [replace(setting, dtype=kind) for kind in types]
    results = []
    for network in networks:
        entries = scaling(partial(training, backbone=network), settings, processes, threads, repeats, grows="batch")
        results += [{"backbone": network, **entry} for entry in entries]
    print_scaling(results, as_json)


def _show(machine: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    from vplface.bench.loop import PARTS

    console = Console()
    where = machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads"
    console.print(f"{where}, torch {machine['torch']}", highlight=False)
    for result in results:
        size = f"N {result['classes']:,}, B {result['batch']}, d {result['dim']}"
        speed = Table(
            f"{result['backbone']}, {result['parameters'] / 1e6:.1f} M parameters; {size};"
            f" {result['flops'] / 1e9:,.0f} GFLOP per step",
            ["loop", "pictures/s", "× usual", "of peak", "ms per step", "least – most"],
        )
        parts = Table("\nmilliseconds per step", ["loop", *PARTS])
        streams = Table("\nloaded by worker processes", ["loop", "pictures/s", "of possible"])
        for name, arm in result["arms"].items():
            least, most = arm["spread"]
            speed.add_row(
                name,
                f"{arm['pictures_per_second']:,.1f}",
                f"{arm['speedup']:.2f}",
                f"{arm['of_peak']:.0%}",
                f"{1e3 * arm['seconds']:,.0f}",
                f"{1e3 * least:,.0f} – {1e3 * most:,.0f}",
            )
            parts.add_row(name, *(f"{1e3 * arm['parts'][part]:,.0f}" for part in PARTS))
            if (found := arm.get("streamed")) is not None:
                streams.add_row(name, f"{found['pictures_per_second']:,.1f}", f"{found['share']:.0%}")
        console.print(speed)
        console.print(parts)
        if streams.row_count:
            console.print(streams)
