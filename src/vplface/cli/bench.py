"""``vplface bench``: measurements of speed and memory."""

from __future__ import annotations

import typer

from vplface.cli.bench_data import data
from vplface.cli.bench_eval import evaluation
from vplface.cli.bench_head import head
from vplface.cli.bench_train import train

bench = typer.Typer(
    no_args_is_help=True, help="Measure speed and memory, beside what is possible and what others need."
)
bench.command()(head)
bench.command()(train)
bench.command()(data)
bench.command("eval")(evaluation)
