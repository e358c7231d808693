"""``vplface study``: training of arms with the same seeds, compared on the same pairs, in one setting or several."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from vplface.cli.recipe import OverridesArgument
from vplface.console import print_json
from vplface.errors import UsageError

if TYPE_CHECKING:
    from vplface.config import Config
    from vplface.study import Grid, Results, Study


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
    folds: Annotated[
        str | None, typer.Option(help="Train these folds of a study file, e.g. 1,2.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Restart all chosen runs.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs and what they cost; nothing is written.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
) -> None:
    """Train arms side by side, and test whether they differ.

    Arms are named changes to a recipe (its section "arms"). Each is trained with each seed; differences are taken
    on the same pairs and the same resamples of people. A study file also has settings, for example data sets, and
    folds of people, and is trained by several processes at once. Repeat the command to resume: finished runs are
    kept.

    \b
    vplface study quickstart --seeds 0,1,2
    vplface study shallow.yaml --dry-run
    vplface study shallow.yaml --settings lfw --arms plain,vpl workers=4
    """  # noqa: D301 (the mark before lines that stay as they are)
    from vplface.config import read_config, read_recipe
    from vplface.study import is_study, read_grid

    seed_list = _numbers("--seeds", seeds)
    if is_study(read_recipe(config)):
        grid = read_grid(
            config,
            overrides or [],
            seeds=seed_list,
            arms=_names(arms),
            settings=_names(settings),
            folds=_numbers("--folds", folds),
        )
        _run_study(grid, overwrite=overwrite, dry_run=dry_run, as_json=json)
        return
    for option, value in (("--arms", arms), ("--settings", settings), ("--folds", folds)):
        if value is not None:
            raise UsageError(f"{option} selects a part of a study file, but {config} is a recipe")
    recipe = read_config(config, overrides or [])
    _run_recipe(recipe, seed_list or [0], overwrite=overwrite, dry_run=dry_run, as_json=json)


def _run_study(grid: Grid, *, overwrite: bool, dry_run: bool, as_json: bool) -> None:
    """Train a study file and print its results; exit status 1 if a run has failed."""
    from vplface.cli.estimate_table import show_estimate
    from vplface.cli.tables import show_results
    from vplface.errors import TrainingInterrupted
    from vplface.study import conclude, estimate, run_all

    if dry_run:
        show_estimate(estimate(grid), as_json)
        return
    try:
        failed = run_all(grid, overwrite=overwrite)
    except TrainingInterrupted as error:
        command = shlex.join(["vplface", *(word for word in sys.argv[1:] if word != "--overwrite")])
        raise TrainingInterrupted(f"{error} Continue with: {command}", error.preempted) from error
    results = conclude(grid, failed)
    if as_json:
        _print_json(results)
    else:
        cells = grid.chosen
        show_results(results, _unique(cell.setting for cell in cells), _unique(cell.arm for cell in cells))
    if failed:
        raise typer.Exit(1)


def _run_recipe(config: Config, seeds: list[int], *, overwrite: bool, dry_run: bool, as_json: bool) -> None:
    """Train the arms of a recipe and print their comparison."""
    from vplface.cli.estimate_table import show_estimate
    from vplface.cli.tables import show_study
    from vplface.study import compare_arms, estimate, grid_of_recipe

    if dry_run:
        show_estimate(estimate(grid_of_recipe(config, seeds)), as_json)
        return
    compared = compare_arms(config, seeds, overwrite=overwrite)
    if as_json:
        _print_json(compared)
    else:
        show_study(compared)


def _print_json(results: Results | Study) -> None:
    print_json({"schema": 1, **results.summary, "verdict": results.verdict, "report": str(results.report)})


def _numbers(option: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    numbers = [int(part) for part in parts if re.fullmatch("[0-9]{1,18}", part)]
    if len(set(numbers)) < len(parts):
        raise UsageError(f"{option} takes different whole numbers with commas between them (0,1,2), got {text!r}")
    return numbers


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]
