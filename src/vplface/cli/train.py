"""``vplface train``: training of a recipe into a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vplface.cli.recipe import OverridesArgument, RecipeArgument
from vplface.console import print_json


def train(
    config: RecipeArgument,
    overrides: OverridesArgument = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the last checkpoint of the run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--init-from",
            metavar="RUN",
            help="Start from the network and prototypes of another run; identities are matched by name.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, and do nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
) -> None:
    """Train a face embedding, evaluate it and write its report.

    The run is kept in runs/NAME: the model, its checkpoints, metrics.jsonl, TensorBoard files and report.html.
    Ctrl-C, SIGTERM and SIGUSR1 save progress and stop; --resume continues. Started by torchrun, each process takes a
    part of every batch and of the classes.

    \b
    vplface train folder data.train=my_faces name=mine   my_faces/PERSON/*.jpg
    vplface train lfw --dry-run                          see the plan first
    vplface train runs/lfw --resume                      resume where it stopped
    vplface train folder data.train=more name=second --init-from runs/mine
    torchrun --nproc-per-node 8 -m vplface train folder data.train=my_faces name=mine
    """  # noqa: D301 (the mark before lines that stay as they are)
    from vplface.cli.plan_tables import show_plan
    from vplface.cli.tables import show_study
    from vplface.config import read_config
    from vplface.strict_yaml import to_yaml
    from vplface.study import run
    from vplface.training.resume import restore_config

    if resume:
        restore_config(Path(config))
    other = [] if init_from is None else [f"init_from={to_yaml(init_from, flow=True)}"]
    settings = read_config(config, [*(overrides or []), *other])
    if dry_run:
        show_plan(settings, json)
        return
    done = run(settings, resume=resume, overwrite=overwrite)
    if done is None:
        return
    if json:
        print_json({"schema": 1, **done.summary, "verdict": done.verdict, "report": str(done.report)})
    else:
        show_study(done)
