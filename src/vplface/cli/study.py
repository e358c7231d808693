"""``vplface study``: the arms of a recipe, trained with the same seeds and compared on the same pairs."""

from __future__ import annotations

from typing import Annotated

import typer

from vplface.cli.recipe import CONFIG, OVERRIDES


def study(
    config: CONFIG,
    overrides: OVERRIDES = None,
    seeds: Annotated[
        str, typer.Option(help="Seeds of training, e.g. 0,1,2. A claim about accuracy needs several.")
    ] = "0",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start all runs anew.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
) -> None:
    """Train the arms of a recipe side by side, and say whether they can be told apart.

    Arms are named changes to the recipe (its section "arms"). Each is trained with each seed; differences are taken
    on the same pairs and the same resamples of people. Called again, it keeps what is finished and resumes what is
    not.
    """
    from vplface.cli.tables import print_json, show_study
    from vplface.errors import UsageError
    from vplface.study import compare_arms
    from vplface.training.config import read_config

    numbers = seeds.split(",")
    if not all(number.strip().isdigit() for number in numbers) or len(set(numbers)) < len(numbers):
        raise UsageError(f"--seeds takes different whole numbers with commas between them (0,1,2), got {seeds!r}")
    done = compare_arms(read_config(config, overrides or []), [int(number) for number in numbers], overwrite=overwrite)
    if json:
        print_json({"schema": 1, **done.summary, "verdict": done.verdict, "report": str(done.report)})
    else:
        show_study(done)
