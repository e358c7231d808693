"""``vplface study``: training of arms with the same seeds, compared on the same pairs, in one setting or several."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from vplface.cli.recipe import OverridesArgument
from vplface.console import print_json


def study(
    config: Annotated[
        str,
        typer.Argument(
            metavar="STUDY|CONFIG",
            help="A study file, or a recipe with arms: a YAML file, or the name of a shipped recipe.",
            show_default=False,
        ),
    ],
    overrides: OverridesArgument = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Seeds of training, e.g. 0,1,2; without it those of the study file, or 0. A claim about accuracy "
            "needs several.",
            show_default=False,
        ),
    ] = None,
    arms: Annotated[
        str | None, typer.Option(help="Train these arms of a study file, e.g. plain,vpl.", show_default=False)
    ] = None,
    settings: Annotated[
        str | None, typer.Option(help="Train these settings of a study file.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Restart all chosen runs.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs and what they cost; nothing is written.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
) -> None:
    """Train arms side by side, and test whether they differ.

    Arms are named changes to a recipe (its section "arms"). Each is trained with each seed; differences are taken
    on the same pairs and the same resamples of people. A study file has settings too, data sets for example, and is
    trained by several processes at once. Called again, it keeps finished runs and resumes the others.

    \b
    vplface study quickstart --seeds 0,1,2
    vplface study shallow.yaml --dry-run
    vplface study shallow.yaml --settings lfw --arms plain,vpl workers=4
    """  # noqa: D301 (the mark before lines that stay as they are)
    from vplface.cli.estimate_table import show_estimate
    from vplface.cli.tables import show_results, show_study
    from vplface.config import read_config, read_recipe
    from vplface.errors import TrainingInterrupted, UsageError
    from vplface.study import compare_arms, conclude, estimate, grid_of_recipe, is_study, read_grid, run_all

    numbers = None if seeds is None else [number.strip() for number in seeds.split(",")]
    if numbers is not None and not all(re.fullmatch("[0-9]{1,18}", number) for number in numbers):
        raise UsageError(f"--seeds takes different whole numbers with commas between them (0,1,2), got {seeds!r}")
    chosen = None if numbers is None else [int(number) for number in numbers]
    if chosen is not None and len(set(chosen)) < len(chosen):
        raise UsageError(f"--seeds takes different whole numbers with commas between them (0,1,2), got {seeds!r}")
    if is_study(read_recipe(config)):
        grid = read_grid(config, overrides or [], seeds=chosen, arms=_names(arms), settings=_names(settings))
        if not dry_run:
            try:
                failed = run_all(grid, overwrite=overwrite)
            except TrainingInterrupted as error:
                again = shlex.join(["vplface", *(word for word in sys.argv[1:] if word != "--overwrite")])
                raise TrainingInterrupted(f"{error} Go on with: {again}", error.preempted) from error
            done = conclude(grid, failed)
            if json:
                print_json({"schema": 1, **done.summary, "verdict": done.verdict, "report": str(done.report)})
            else:
                cells = grid.chosen
                show_results(done, _unique(cell.setting for cell in cells), _unique(cell.arm for cell in cells))
            if failed:
                raise typer.Exit(1)
            return
    else:
        for option, given in (("--arms", arms), ("--settings", settings)):
            if given is not None:
                raise UsageError(f"{option} chooses a part of a study file; {config} is a recipe")
        recipe = read_config(config, overrides or [])
        if not dry_run:
            compared = compare_arms(recipe, chosen or [0], overwrite=overwrite)
            if json:
                report = str(compared.report)
                print_json({"schema": 1, **compared.summary, "verdict": compared.verdict, "report": report})
            else:
                show_study(compared)
            return
        grid = grid_of_recipe(recipe, chosen or [0])
    show_estimate(estimate(grid), json)


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]
