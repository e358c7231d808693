"""Command-line arguments for a recipe and changes to it."""

from __future__ import annotations

from typing import Annotated

import typer

from vplface.cli.registries import recipe_names

_RECIPE = typer.Argument(
    metavar="CONFIG",
    help="A YAML file, the name of a shipped recipe (vplface list recipes), or a run folder.",
    show_default=False,
    autocompletion=recipe_names,
)
RecipeArgument = Annotated[str, _RECIPE]
OptionalRecipeArgument = Annotated[str | None, _RECIPE]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Changes to the recipe, e.g. optimizer.lr=0.05 data.train=my_faces schedule.length='30 epochs'.",
        show_default=False,
    ),
]
