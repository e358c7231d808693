"""``vplface list``: the names that recipes and commands accept."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import typer

from vplface.cli.options import AS_JSON
from vplface.cli.registries import REGISTRIES, Entry
from vplface.console import Console, print_json, say
from vplface.errors import UsageError
from vplface.suggest import did_you_mean_or_known
from vplface.tables import Table

# mypy knows an Enum only by literal members; these are the keys of the registries.
What = Enum("What", {name: name for name in REGISTRIES}, type=str)  # type: ignore[misc]


def _names(context: typer.Context, incomplete: str) -> list[str]:
    what = context.params.get("what")
    found = REGISTRIES[getattr(what, "value", what)]() if what else []
    return [entry.name for entry in found if entry.name.startswith(incomplete)]


def list_(
    what: Annotated[What | None, typer.Argument(help="Names to list.", show_default=False)] = None,
    name: Annotated[
        str | None, typer.Argument(help="Show only this one.", show_default=False, autocompletion=_names)
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """List recipes, backbones, margins, memories, terms, formats, metrics or degradations, with their options.

    Without an argument, show which lists there are.

    Example:  vplface list margins
    """
    if what is None:
        _show_lists(as_json)
        return
    title = str(what.value)
    entries = REGISTRIES[title]()
    if name is not None:
        known = [entry.name for entry in entries]
        if name not in known:
            raise UsageError(f"no {name!r} among the {title}{did_you_mean_or_known(name, known)}")
        entries = [entry for entry in entries if entry.name == name]
    if as_json:
        print_json({title: [_as_json(entry) for entry in entries]})
        return
    table = Table("", ["name", "about", "options and defaults"], text=(0, 1, 2))
    if not any(entry.options for entry in entries):
        table = Table("", ["name", "about"], text=(0, 1))
    for entry in entries:
        options = ", ".join(f"{key} {_shown(value)}" for key, value in entry.options.items())
        table.add_row(entry.name, entry.summary, *([options] if any(each.options for each in entries) else []))
    Console().print(table)
    say(f"More about them: vplface docs {_PAGES[title]}")


def _show_lists(as_json: bool) -> None:
    about = {name: (registry.__doc__ or "").replace("``", "").rstrip(".") for name, registry in REGISTRIES.items()}
    if as_json:
        print_json({"lists": [{"name": name, "about": text} for name, text in about.items()]})
        return
    table = Table("", ["list", "about"], text=(0, 1))
    for name, text in about.items():
        table.add_row(name, text)
    Console().print(table)
    say("vplface list LIST shows the names of one")


_PAGES = {
    "recipes": "recipes",
    "backbones": "backbones",
    "margins": "losses",
    "memories": "method",
    "terms": "losses",
    "formats": "data",
    "metrics": "evaluation",
    "degradations": "evaluation",
}
"""The page of the documentation that describes the names of a list."""


def _as_json(entry: Entry) -> dict[str, Any]:
    options = {key: value if _is_plain(value) else str(value) for key, value in entry.options.items()}
    return {"name": entry.name, "about": entry.summary, "options": options}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple)


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else str(value)
