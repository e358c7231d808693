"""``vplface bench``: measurements of speed and memory."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vplface.cli.options import AS_JSON
from vplface.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vplface.bench.head import Setting
    from vplface.bench.processes import Make

bench = typer.Typer(
    no_args_is_help=True, help="Measure speed and memory, beside what is possible and what others need."
)


@bench.callback()
def benchmarks() -> None:
    """Measure speed and memory, beside what is possible and what others need."""


@bench.command()
def head(
    classes: Annotated[str, typer.Option(help="N, number of classes; several with commas are swept.")] = "100000",
    batch: Annotated[str, typer.Option(help="B, pictures in a step; several with commas.")] = "128,512",
    dim: Annotated[int, typer.Option(min=1, help="d, size of an embedding.")] = 512,
    dtype: Annotated[str, typer.Option(help="Type of the products: float32, bfloat16 or both.")] = "float32,bfloat16",
    arms: Annotated[
        str | None, typer.Option(help="What to measure, names with commas; all unless given.", show_default=False)
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds in which each arm takes a step.")] = 5,
    workspace_mb: Annotated[float, typer.Option(min=0, help="Workspace of the head, MiB.")] = 256,
    memory: Annotated[bool, typer.Option(help="Also measure peak memory, in processes of their own.")] = True,
    device: Annotated[str, typer.Option(help="Where it runs: cpu, cuda, ...")] = "cpu",
    processes: Annotated[
        str | None,
        typer.Option(
            help="Instead of the arms, measure the head with its classes shared by so many processes, e.g. 1,2.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="With --processes: threads of each; 0 divides the cores among them.  [default: 1]",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the result into this file (png, svg, pdf).", show_default=False)
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """Time a step of the head: forward, backward and update, with half of the memory alive.

    Arms take turns in one process on the same data; those that compute the same loss are first checked to do so. Times
    are medians. "floor" is what must be done at least: three matrix products of that type, and reading W, momentum and
    M and writing W and momentum once. "extra" is peak memory beyond W, momentum, M and T.

    \b
    vplface bench head                      100,000 classes, B 128 and 512
    vplface bench head --classes 10000,100000,1000000 --plot head.png

    With --processes the head alone, its classes sharded over processes of this machine that talk through gloo:

    \b
    strong     N and B stay; each process has fewer classes
    weak       N grows with the processes; each has as many classes as one alone
    efficiency logits a second and thread, as a share of the fewest processes'

    \b
    vplface bench head --processes 1,2      one thread a process
    """  # noqa: D301 (the mark before lines that stay as they are)
    from vplface.bench.head import ARMS, Setting, machine, measure, sharded

    chosen = list(ARMS) if arms is None else [name.strip() for name in arms.split(",")]
    if unknown := [name for name in chosen if name not in ARMS]:
        raise UsageError(f"--arms: no arm {unknown[0]!r}; there are: {', '.join(ARMS)}")
    types = [each.strip() for each in dtype.split(",")]
    if not set(types) <= {"float32", "bfloat16"}:
        raise UsageError(f"--dtype takes float32, bfloat16, or both with a comma, got {dtype!r}")
    settings = [
        Setting(n, b, dim, each, device, workspace_mb)  # type: ignore[arg-type]  # checked above
        for n in _numbers("--classes", classes, 2)
        for b in _numbers("--batch", batch, 1)
        for each in types
    ]
    if processes is not None:
        if arms is not None or plot is not None or device != "cpu" or not memory:
            raise UsageError(
                "--processes times one arm, on the CPU: leave out --arms, --plot, --device and --no-memory"
            )
        counted = 1 if threads is None else threads
        _tell_scaling(_scale(sharded, settings, processes, counted, repeats, grows="classes"), as_json)
        return
    if threads is not None:
        raise UsageError("--threads is of the processes: give --processes too")
    results = [measure(setting, chosen, repeats, memory=memory) for setting in settings]
    if plot is not None:
        from vplface.bench.plot import draw

        draw(plot, machine(), results)
    if as_json:
        from vplface.cli.tables import print_json

        print_json({"schema": 1, "machine": machine(), "results": results})
        return
    _show(machine(), results)
    if plot is not None:
        print(f"plot: {plot}")


@bench.command()
def train(
    backbone: Annotated[str, typer.Option(help="Which network, as in recipes: tiny, iresnet18, ...")] = "tiny",
    dim: Annotated[int, typer.Option(min=1, help="d, size of an embedding.")] = 512,
    classes: Annotated[int, typer.Option(min=2, help="N, number of classes.")] = 10_000,
    batch: Annotated[int, typer.Option(min=1, help="B, pictures in a step of the fewest processes.")] = 128,
    dtype: Annotated[str, typer.Option(help="Precision of the network and the products: float32 or bfloat16.")] = (
        "float32"
    ),
    processes: Annotated[str, typer.Option(help="Numbers of processes to compare, with commas.")] = "1,2",
    threads: Annotated[int, typer.Option(min=0, help="Threads of each process; 0 divides the cores among them.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds in which each setting takes a step.")] = 10,
    workspace_mb: Annotated[float, typer.Option(min=0, help="Workspace of the head in each process, MiB.")] = 256,
    as_json: AS_JSON = False,
) -> None:
    """Pictures per second of whole training steps on the CPU, with one process and with several.

    A step is what training does between loading and logging: bytes to network input, backbone, head with half of the
    memory alive, backward, both updates. Pictures are random and in memory, so that loading is not measured. The
    processes share the classes; their backbones are wrapped in DistributedDataParallel and talk through gloo.

    \b
    strong     B stays; each process has a smaller part of the batch
    weak       B grows with the processes; each has as many pictures as one alone
    efficiency pictures a second and thread, as a share of the fewest processes'

    Each process has one thread unless --threads says otherwise. Settings take turns; times are medians. The losses of
    the first steps are compared with those of one process that takes the same batch.

    \b
    vplface bench train
    vplface bench train --backbone iresnet18 --batch 32 --processes 1,2,4
    """  # noqa: D301 (the mark before lines that stay as they are)
    from vplface.backbones import BACKBONES
    from vplface.bench.head import Setting
    from vplface.bench.train import training

    if backbone not in BACKBONES:
        raise UsageError(f"--backbone: no backbone {backbone!r}; there are: {', '.join(BACKBONES)}")
    if dtype not in ("float32", "bfloat16"):
        raise UsageError(f"--dtype takes float32 or bfloat16, got {dtype!r}")
    setting = Setting(classes, batch, dim, dtype, workspace_mb=workspace_mb)  # type: ignore[arg-type]  # checked above
    make = partial(training, backbone=backbone)
    [result] = _scale(make, [setting], processes, threads, repeats, grows="batch")
    _tell_scaling([{"backbone": backbone, **result}], as_json)


def _scale(
    make: Make,
    settings: Sequence[Setting],
    processes: str,
    threads: int,
    repeats: int,
    grows: Literal["batch", "classes"],
) -> list[dict[str, Any]]:
    from vplface.bench.head import cores
    from vplface.bench.processes import scale

    counts = _numbers("--processes", processes, 1)
    most, pictures = max(counts), 2 if grows == "batch" else 1
    for setting in settings:
        if setting.batch < pictures * most:
            enough = "2 pictures, for its batch statistics" if pictures == 2 else "a picture"
            raise UsageError(f"--batch {setting.batch} is too small: each of {most} processes needs {enough}")
    if most * max(threads, 1) > cores():
        print(f"{most * max(threads, 1)} threads share {cores()} cores: efficiency suffers from that", file=sys.stderr)
    return [scale(make, setting, counts, repeats, grows=grows, threads=threads) for setting in settings]


def _numbers(option: str, text: str, least: int) -> list[int]:
    parts = [part.strip().replace("_", "") for part in text.split(",")]
    if not all(part.isdigit() and int(part) >= least for part in parts):
        raise UsageError(f"{option} takes whole numbers of at least {least} with commas between them, got {text!r}")
    return [int(part) for part in parts]


def _show(machine: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    where = machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads"
    console.print(f"{where}, torch {machine['torch']}", highlight=False)
    for result in results:
        floor = result["floor"]
        table = Table(
            title=f"N {result['classes']:,}, B {result['batch']}, d {result['dim']}, {result['dtype']}: floor"
            f" {1e3 * floor['seconds']:.0f} ms (products {1e3 * floor['products']:.0f},"
            f" memory {1e3 * floor['memory']:.0f})",
            title_justify="left",
        )
        table.add_column("arm")
        for heading in ("ms a step", "least – most", "× faster", "× floor", "extra MiB"):
            table.add_column(heading, justify="right")
        for name, arm in result["arms"].items():
            if "reason" in arm:
                table.add_row(name, arm["reason"])
                continue
            least, most = arm["spread"]
            table.add_row(
                name,
                f"{1e3 * arm['seconds']:.0f}",
                f"{1e3 * least:.0f} – {1e3 * most:.0f}",
                f"{arm['speedup']:.1f}" if "speedup" in arm else "",
                f"{arm['over_floor']:.2f}",
                f"{arm['extra_mb']:.0f}" if "extra_mb" in arm else "",
            )
        console.print(table)


def _tell_scaling(results: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from vplface.bench.head import machine
    from vplface.cli.tables import print_json

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
        each = "cores divided" if len(threads) > 1 else f"threads a process: {max(threads)}"
        table = Table(title=f"{name}{size}; {each}", title_justify="left")
        grows, letter = ("batch", "B") if "backbone" in result else ("classes", "N")
        table.add_column("processes")
        for heading in (letter, "ms a step", "least – most", "pictures/s", "efficiency"):
            table.add_column(heading, justify="right")
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


@bench.command()
def data(
    path: Annotated[
        Path | None,
        typer.Option("--data", help="A set in any form; faces are generated unless given.", show_default=False),
    ] = None,
    pictures: Annotated[int, typer.Option(min=1, help="How many pictures to take, evenly over the set.")] = 1500,
    batch: Annotated[int, typer.Option(min=1, help="B, pictures in a batch.")] = 128,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds in which each arm loads all of them.")] = 9,
    workers: Annotated[int, typer.Option(min=0, help="Measure with so many worker processes as well.")] = 0,
    startup: Annotated[
        int | None,
        typer.Option(min=1, help="Instead, time the opening of a RecordIO set of so many records.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the result into this file (png, svg, pdf).", show_default=False)
    ] = None,
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
    from vplface.cli.tables import print_json

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
        print(f"plot: {plot}")


def _show_loading(machine: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    from rich.console import Console
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
    from rich.console import Console
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


@bench.command("eval")
def evaluation(
    stages: Annotated[
        str | None,
        typer.Option(
            help="What to measure, names or their beginnings with commas; all unless given.", show_default=False
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: whether it runs, not how fast.")] = False,
    as_json: AS_JSON = False,
) -> None:
    """Time evaluations of the sizes that people run, on made-up embeddings, each stage in a process of its own.

    \b
    ijbc       469,375 faces in 23,124 templates, 15,658,489 pairs, 19,593 probes in two galleries of 3,531 people
    megaface   3,530 probes among 1,000,000 distractors
    lfw        6,000 pairs in ten folds, 1,000 replicates; the others have 100

    "floor" is what cannot be avoided, the matrix products and reading the embeddings once, at the speed that this
    machine shows just before and after. Peak memory is that of the whole process.

    \b
    vplface bench eval
    vplface bench eval --stages ijbc
    """  # noqa: D301 (the mark before lines that stay as they are)
    from vplface.bench.eval import QUICK, STAGES, Size, measure
    from vplface.bench.head import machine
    from vplface.cli.tables import print_json
    from vplface.progress import progress

    begun = [""] if stages is None else [each.strip() for each in stages.split(",")]
    if unknown := [each for each in begun if not any(name.startswith(each) for name in STAGES)]:
        raise UsageError(f"--stages: no stage {unknown[0]!r}; there are: {', '.join(STAGES)}")
    chosen = [name for name in STAGES if name.startswith(tuple(begun))]
    results = []
    with progress("measuring", len(chosen)) as advance:
        for name in chosen:
            results.append(measure(name, QUICK if quick else Size()))
            advance(1, name)
    where = machine()
    if as_json:
        print_json({"schema": 1, "machine": where, "quick": quick, "results": results})
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"{where['processor']}, {where['cores']} cores", highlight=False)
    table = Table(title="small sizes" if quick else None, title_justify="left")
    table.add_column("stage")
    for heading in ("seconds", "of processors", "floor", "peak MiB"):
        table.add_column(heading, justify="right")
    for result in results:
        numbers = (result[key] for key in ("seconds", "processor_seconds", "floor_seconds"))
        table.add_row(result["stage"], *(f"{number:.2f}" for number in numbers), f"{result['peak_mb']:,.0f}")
    console.print(table)
