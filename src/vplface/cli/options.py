"""Options that several commands share, and the parsing of lists of rates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vplface import bounds
from vplface.errors import UsageError

AS_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]
DEVICE = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, ...")]
DIM = Annotated[int, typer.Option(min=1, max=bounds.DIM, help="d, size of an embedding.")]
PLOT = Annotated[Path | None, typer.Option(help="Draw the result into this file (png, svg, pdf).", show_default=False)]
SPLIT = Annotated[
    str | None,
    typer.Option(
        help="Which part of a list, zip archive or parquet set to use, if it has several.", show_default=False
    ),
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


def parse_rates(option: str, text: str) -> list[float]:
    """Rates between 0 and 1, separated by commas.

    Raises:
        UsageError: if the text is anything else; the message names the option.
    """
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} takes rates with commas between them, such as 1e-2,1e-4, got {text!r}") from None
    for rate in rates:
        if not 0 < rate < 1:
            raise UsageError(f"{option} {rate:g}: a rate lies between 0 and 1")
    return rates
