"""``vplface bench``: measurements of speed and memory."""

from __future__ import annotations

import typer

from vplface.cli.bench_head import head
from vplface.cli.bench_train import train

bench = typer.Typer(
    no_args_is_help=True,
    help="Measure a step of the head or of training, beside its lower bound and other implementations.",
)
bench.command()(head)
bench.command()(train)
