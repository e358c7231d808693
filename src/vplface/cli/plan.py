"""``vplface plan``: what a run will do and cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vplface.cli.recipe import OptionalRecipeArgument, OverridesArgument
from vplface.console import Console, print_json
from vplface.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from vplface.config import Config, VariationalConfig
    from vplface.data.samplers import Sampler
    from vplface.footprint import Footprint, Forecast, NetworkSize, RunSize
    from vplface.plan import Plan

_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e\+?\d\d?)?|\d{1,3}(?:[,_]\d{3})+)([kmb]?)", re.IGNORECASE)
_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_MOST = 10**11

_ALONE = "Without a recipe"
_MEMORY = {
    "weight": "W",
    "momentum": "momentum of W",
    "gradient": "gradient of W",
    "update": "another, while W moves",
    "memory": "M",
    "timer": "T",
    "statistics": "statistics of M",
    "terms": "state of terms",
    "drawn": "copies of drawn classes",
    "workspace": "softmax: exponentials",
    "tiles": "softmax: a tile",
    "features": "gathered embeddings",
    "backbone": "backbone and its optimiser",
    "activations": "backbone: activations",
}
_TRAFFIC = {
    "sizes": "sizes and faults, all-gather",
    "embeddings": "embeddings, all-gather",
    "labels": "labels, all-gather",
    "targets": "target logits, all-reduce",
    "sums": "partition sums, all-reduce",
    "gradients": "their gradient, reduce-scatter",
    "residuals": "residuals of M, all-reduce",
    "backbone": "backbone's gradient, all-reduce",
    "buffers": "its statistics, broadcast",
    "stop": "stop signals, all-reduce",
}


def plan(
    context: typer.Context,
    config: OptionalRecipeArgument = None,
    overrides: OverridesArgument = None,
    gpus: Annotated[str, typer.Option(metavar="P", help="GPUs that share batch and classes.")] = "1",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
    classes: Annotated[
        str | None,
        typer.Option(metavar="N", help="How many, e.g. 2000000, 2e6 or 2M.", rich_help_panel=_ALONE),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(metavar="B", help="Pictures in a step, over all GPUs; 128 a GPU.", rich_help_panel=_ALONE),
    ] = None,
    dim: Annotated[int, typer.Option(min=1, max=2**20, help="Size of an embedding.", rich_help_panel=_ALONE)] = 512,
    backbone: Annotated[
        str, typer.Option(help="As in recipes; ir50 stands for iresnet50.", rich_help_panel=_ALONE)
    ] = "ir50",
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Of products and activations.", rich_help_panel=_ALONE)
    ] = "bfloat16",
    fused: Annotated[
        bool, typer.Option(help="FusedSGD moves W, or torch's SGD by a gradient.", rich_help_panel=_ALONE)
    ] = True,
    memory_dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Type of M.", rich_help_panel=_ALONE)
    ] = "float32",
    sample_rate: Annotated[
        float, typer.Option(help="Share of the classes that a step draws.", rich_help_panel=_ALONE)
    ] = 1.0,
    workspace_mb: Annotated[
        float, typer.Option(help="MiB for exponentials that are kept.", rich_help_panel=_ALONE)
    ] = 256,
    delta_t: Annotated[
        str, typer.Option(metavar="STEPS", help="Lifetime Δt of a memory.", rich_help_panel=_ALONE)
    ] = "200",
    pictures: Annotated[
        str | None, typer.Option(metavar="N", help="Of all classes together.", rich_help_panel=_ALONE)
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Length of the run; needs --pictures.", rich_help_panel=_ALONE)
    ] = None,
) -> None:
    """Show what a run will do and cost: steps, memory, traffic, checkpoints, expected coverage. Nothing is trained.

    With CONFIG the data are opened; it is the same as vplface train CONFIG --dry-run. With --classes it is arithmetic
    alone, for variational ArcFace of scale 64 and SGD with momentum.

    \b
    vplface plan folder data.train=my_faces --gpus 4
    vplface plan --classes 2M --gpus 8 --delta-t 500
    vplface plan --classes 2M --gpus 8 --pictures 40M --epochs 20
    """  # noqa: D301 (the mark before lines that stay as they are)
    ranks = _count("--gpus", gpus)
    if config is not None and classes is not None:
        raise UsageError(f"give either CONFIG or --classes, not both; {config!r} was taken for a CONFIG")
    if config is not None:
        from vplface.config import read_config

        for parameter in context.command.params:
            given = context.get_parameter_source(parameter.name or "")
            if getattr(parameter, "rich_help_panel", None) == _ALONE and given is not None and given.name != "DEFAULT":
                raise UsageError(
                    f"{parameter.opts[0]} goes with --classes; change a recipe by KEY=VALUE, e.g. batch_size=256"
                )
        show_plan(read_config(config, overrides or []), json, ranks)
        return
    if classes is None:
        raise UsageError(
            "give either CONFIG, as in vplface plan quickstart, or --classes, as in vplface plan --classes 2M"
        )

    from vplface.footprint import RunSize, forecast, network_of

    try:
        size = RunSize(
            classes=_count("--classes", classes, least=2),
            batch=128 * ranks if batch is None else _count("--batch", batch),
            gpus=ranks,
            dim=dim,
            precision=precision,
            fused=fused,
            memory_dtype=memory_dtype,
            sample_rate=sample_rate,
            workspace_mb=workspace_mb,
        )
        name = re.sub(r"^ir(?=\d+$)", "iresnet", backbone)
        network = network_of(name, dim, size.pictures_a_pass, precision)
        total = None if pictures is None else _count("--pictures", pictures)
        made = forecast(size, network, _count("--delta-t", delta_t), total, epochs)
    except ConfigError as error:
        raise UsageError(f"--backbone: {error}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    _show_forecast(size, name, network, made, json)


def show_plan(config: Config, as_json: bool, gpus: int = 1) -> None:
    """Print the plan of a configuration, as a table or as JSON."""
    from vplface.plan import plan as make_plan
    from vplface.prototypes import LastFeature

    made = make_plan(config, gpus)
    if as_json:
        told = asdict(made) | {"footprint": _as_json(made.footprint)}
        print_json({"schema": 1, "config": config.model_dump(mode="json"), "gpus": gpus, "plan": told})
        return
    rows = [
        ("classes", f"{made.identities:,}{_shared(made.footprint, gpus)}"),
        ("pictures", f"{made.pictures:,} ({made.pictures / made.identities:.1f} a class)"),
        (
            "steps",
            f"{made.steps:,} ({config.schedule.length}; {made.steps_per_epoch:,} an epoch of {config.batch_size})",
        ),
        ("order of pictures", _sampler(config.data.sampler)),
        (
            "backbone",
            f"{config.backbone.name} → {config.backbone.embedding_dim}, {made.parameters / 1e6:.2f} M parameters",
        ),
        ("loss", f"{config.margin}"),
        ("expected first loss", f"{made.first_loss:.2f}"),
    ]
    if config.variational is None or made.variational_start is None:
        rows.append(("prototypes", "plain"))
    else:
        rows.append(("prototypes", _variational(config.variational, made)))
        if config.variational.memory != LastFeature():
            rows.append(("remembered", f"{config.variational.memory}"))
    rows += [*_coverage(made.coverage), ("pictures that meet own memory", _by_lifetime(made.own))]
    _show(f"plan of {config.run_folder}", [*rows, *_costs(made.footprint)])


def _variational(section: VariationalConfig, made: Plan) -> str:
    delta_t = "by drift" if made.delta_t is None else f"{made.delta_t:,}"
    if made.delta_t is not None and section.lifetime_drift is not None:
        delta_t += " or less, by drift"
    start = section.start_rule(made.steps_per_epoch)
    when = f"from step {start:,}" if isinstance(start, int) else "when drift has settled"
    return f"variational: λ {section.lam}, Δt {delta_t}, {when}"


def _sampler(sampler: Sampler) -> str:
    options = ", ".join(f"{key} {value:,}" for key, value in vars(sampler).items())
    return type(sampler).__name__.lower() + (f": {options}" if options else "")


def _show_forecast(size: RunSize, name: str, network: NetworkSize, made: Forecast, as_json: bool) -> None:
    if as_json:
        told = asdict(made) | {"footprint": _as_json(made.footprint)}
        print_json(
            {
                "schema": 1,
                "job": {**asdict(size), "kind": str(size.kind), "backbone": name},
                "network": asdict(network),
                "plan": told,
            }
        )
        return
    drawn = f", {size.sample_rate:g} of them a step" if size.sample_rate < 1.0 else ""
    rows = [
        ("classes", f"{size.classes:,}{_shared(made.footprint, size.gpus)}{drawn}"),
        ("batch", f"{size.batch:,}" + (f" ({size.pictures_a_pass:,} a GPU)" if size.gpus > 1 else "")),
        ("backbone", f"{name} → {size.dim}, {network.parameters / 1e6:.2f} M parameters"),
        ("products", size.precision),
    ]
    if made.steps_per_epoch is not None:
        whole = "" if made.steps is None else f"{made.steps:,}; "
        rows.append(("steps", f"{whole}{made.steps_per_epoch:,} an epoch"))
    rows += [
        *_coverage(made.coverage),
        ("half of the classes at Δt", f"{made.half_covered:,}"),
        *_costs(made.footprint),
    ]
    _show(f"plan of {size.classes:,} classes on {size.gpus:,} GPU{'s' if size.gpus > 1 else ''}", rows)


def _costs(footprint: Footprint) -> list[tuple[str, str]]:
    """Rows of the table: the parts of memory and traffic that there are, and the checkpoint."""
    memory, traffic, checkpoint = footprint.memory, footprint.traffic, footprint.checkpoint
    rows = [("memory of a GPU" if traffic.total else "memory", _size(memory.total)), *_parts(memory, _MEMORY)]
    if traffic.total:
        rows += [("sent by a GPU in a step", _size(traffic.total)), *_parts(traffic, _TRAFFIC)]
    rows.append(("checkpoint", f"{_size(checkpoint.total)} on disk"))
    rows.append(("  while it is written", f"{_size(footprint.host_bytes)} of CPU memory a process"))
    return rows


def _parts(whole: Any, names: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(f"  {name}", _size(part)) for key, name in names.items() if (part := getattr(whole, key))]


def _coverage(coverage: Mapping[int, float]) -> list[tuple[str, str]]:
    return [("coverage by Δt (steps)", _by_lifetime(coverage))]


def _by_lifetime(shares: Mapping[int, float]) -> str:
    return "   ".join(f"{delta_t:,}: {_share(share)}" for delta_t, share in shares.items())


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.0995 else f"{100 * share:.2g}%"


def _shared(footprint: Footprint, gpus: int) -> str:
    return f" ({footprint.rows:,} a GPU)" if gpus > 1 else ""


def _as_json(footprint: Footprint) -> dict[str, Any]:
    """The footprint, with its totals."""
    told = asdict(footprint)
    for name in ("memory", "traffic", "checkpoint"):
        told[name]["total"] = getattr(footprint, name).total
    return told


def _show(title: str, rows: Sequence[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _size(count: int) -> str:
    if count < 2**20:
        return f"{count:,} bytes"
    return f"{count / 2**20:,.1f} MiB" if count < 2**30 else f"{count / 2**30:,.2f} GiB"


def _count(option: str, text: str, least: int = 1) -> int:
    """A whole number, as people write it."""
    match = _NUMBER.fullmatch(text.strip())
    value = Decimal(0)
    if match is not None:
        value = Decimal(re.sub(r"[,_]", "", match[1])) * _SUFFIXES[match[2].lower()]
    if not least <= value <= _MOST or value % 1:
        raise UsageError(
            f"{option} takes a whole number from {least} to {_MOST:,}, such as 2000000, 2e6, 2M or 100k, got {text!r}"
        )
    return int(value)
