"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

AS_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]
DEVICE = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, ...")]
WORKERS = Annotated[int, typer.Option(min=0, help="Processes that decode pictures beside this one.")]
FLIP = Annotated[
    Literal["none", "sum"],
    typer.Option(help="sum: add the embedding of the mirrored picture, as published figures mostly do."),
]
