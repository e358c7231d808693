"""``vplface plan``: the steps, memory and traffic of a run before it is trained."""

from __future__ import annotations

import re
from dataclasses import asdict
from decimal import Decimal
from typing import Annotated, Literal

import typer

from vplface.cli.plan_tables import show_forecast, show_plan
from vplface.cli.recipe import OptionalRecipeArgument, OverridesArgument
from vplface.console import print_json
from vplface.errors import ConfigError, UsageError

_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e\+?\d\d?)?|\d{1,3}(?:[,_]\d{3})+)([kmb]?)", re.IGNORECASE)
_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_MOST = 10**11

_ALONE = "Without a recipe"
_PEOPLE = "How many people a claim needs"


def plan(
    context: typer.Context,
    config: OptionalRecipeArgument = None,
    overrides: OverridesArgument = None,
    gpus: Annotated[str, typer.Option(metavar="P", help="GPUs that share batch and classes.")] = "1",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
    far: Annotated[
        list[float] | None,
        typer.Option(
            help="A false accept rate to claim: show how many people and pairs that needs. Alone; may be repeated.",
            rich_help_panel=_PEOPLE,
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="N", help="Number of classes, e.g. 2000000, 2e6 or 2M.", rich_help_panel=_ALONE),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(metavar="B", help="Pictures in a step, over all GPUs; 128 per GPU.", rich_help_panel=_ALONE),
    ] = None,
    dim: Annotated[int, typer.Option(min=1, max=2**20, help="Size of an embedding.", rich_help_panel=_ALONE)] = 512,
    backbone: Annotated[
        str, typer.Option(help="As in recipes; ir50 stands for iresnet50.", rich_help_panel=_ALONE)
    ] = "ir50",
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Type of products and activations.", rich_help_panel=_ALONE)
    ] = "bfloat16",
    fused: Annotated[bool, typer.Option(help="Update W by FusedSGD or by torch's SGD.", rich_help_panel=_ALONE)] = True,
    clip: Annotated[
        bool,
        typer.Option(
            help="Clip gradients by their common norm, until which FusedSGD holds that of W.", rich_help_panel=_ALONE
        ),
    ] = False,
    memory_dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Type of M.", rich_help_panel=_ALONE)
    ] = "float32",
    sample_rate: Annotated[
        float, typer.Option(help="Share of the classes that a step draws.", rich_help_panel=_ALONE)
    ] = 1.0,
    workspace_mb: Annotated[float, typer.Option(help="MiB for stored exponentials.", rich_help_panel=_ALONE)] = 256,
    delta_t: Annotated[
        str, typer.Option(metavar="STEPS", help="Lifetime Δt of a memory.", rich_help_panel=_ALONE)
    ] = "200",
    pictures: Annotated[
        str | None, typer.Option(metavar="N", help="Pictures in the training set.", rich_help_panel=_ALONE)
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Length of the run; needs --pictures.", rich_help_panel=_ALONE)
    ] = None,
) -> None:
    """Show the size and cost of a run: steps, memory, traffic, checkpoints, expected coverage. Nothing is trained.

    With CONFIG it opens the data, and shows the same as vplface train CONFIG --dry-run. With --classes it only
    calculates, for variational ArcFace of scale 64 and SGD with momentum. With --far it says how many people a test
    set needs, before anybody may claim that false accept rate.

    \b
    vplface plan folder data.train=my_faces --gpus 4
    vplface plan --classes 2M --gpus 8 --delta-t 500
    vplface plan --classes 2M --gpus 8 --pictures 40M --epochs 20
    vplface plan --far 1e-3 --far 1e-4
    """  # noqa: D301 (the mark before lines that stay as they are)
    ranks = _count("--gpus", gpus)
    if far:
        _require_alone(context)
        _show_claims(far, json)
        return
    if config is not None and classes is not None:
        raise UsageError(f"give either CONFIG or --classes, not both; {config!r} was read as CONFIG")
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
            "give CONFIG, as in vplface plan quickstart, or --classes, as in vplface plan --classes 2M, "
            "or --far, as in vplface plan --far 1e-4"
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
            in_backward=not clip,
            memory_dtype=memory_dtype,
            sample_rate=sample_rate,
            workspace_mb=workspace_mb,
        )
        name = re.sub(r"^ir(?=\d+$)", "iresnet", backbone)
        network = network_of(name, dim, size.pictures_a_pass, precision)
        total = None if pictures is None else _count("--pictures", pictures)
        forecasted = forecast(size, network, _count("--delta-t", delta_t), total, epochs)
    except ConfigError as error:
        raise UsageError(f"--backbone: {error}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    show_forecast(size, name, network, forecasted, json)


def _require_alone(context: typer.Context) -> None:
    """Raise UsageError for a parameter that does not go with --far."""
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "")
        if parameter.name not in ("far", "json") and given is not None and given.name != "DEFAULT":
            raise UsageError("--far says how many people a claim needs; it goes alone, or with --json")


def _show_claims(fars: list[float], as_json: bool) -> None:
    from vplface.cli.claims_tables import show_needed
    from vplface.evaluation.claims import needed

    try:
        claims = [needed(far) for far in fars]
    except ValueError as error:
        raise UsageError(f"--far: {error}") from error
    if as_json:
        print_json({"schema": 1, "confidence": 0.95, "claims": [asdict(claim) for claim in claims]})
        return
    show_needed(claims)


def _count(option: str, text: str, least: int = 1) -> int:
    """A whole number such as ``2000000``, ``2,000,000``, ``2e6`` or ``2M``; raises UsageError."""
    match = _NUMBER.fullmatch(text.strip())
    value = Decimal(0)
    if match is not None:
        value = Decimal(re.sub(r"[,_]", "", match[1])) * _SUFFIXES[match[2].lower()]
    if not least <= value <= _MOST or value % 1:
        raise UsageError(
            f"{option} takes a whole number from {least} to {_MOST:,}, such as 2000000, 2e6, 2M or 100k, got {text!r}"
        )
    return int(value)
