"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vplface import bounds

AS_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]
DEVICE = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, ...")]
DIM = Annotated[int, typer.Option(min=1, max=bounds.DIM, help="d, size of an embedding.")]
PLOT = Annotated[Path | None, typer.Option(help="Draw the result into this file (png, svg, pdf).", show_default=False)]
SPLIT = Annotated[
    str | None,
    typer.Option(help="Of a list, zip archive or parquet with splits: the part to take.", show_default=False),
]
THREADS = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=bounds.THREADS,
        help="With --processes: threads of each; 0 divides the cores among them.",
        show_default="1",
    ),
]
WORKERS = Annotated[
    int, typer.Option(min=0, max=bounds.PROCESSES, help="Processes that decode pictures beside this one.")
]
FLIP = Annotated[
    Literal["none", "sum"],
    typer.Option(help="sum: add the embedding of the mirrored picture, as published figures mostly do."),
]
