"""``vplface data get``: public sets of faces from where their makers put them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vplface.errors import UsageError
from vplface.suggest import did_you_mean


def get(
    name: Annotated[str | None, typer.Argument(help="Which set; --list names them.", show_default=False)] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder to put it into.", show_default="one of its name")
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Name the sets, those that cannot be downloaded with where they are.")
    ] = False,
) -> None:
    """Download a set of faces, check it against its known digest, and unpack it.

    The terms are shown first; whether you may use the pictures is for you to find out. A download that was stopped
    goes on when the command is repeated.

    Example:  vplface data get lfw
    """
    from vplface.data.catalogue import ELSEWHERE, SETS
    from vplface.data.download import fetch

    if listed:
        _list_all()
        return
    if name is None:
        raise UsageError("which set? vplface data get --list names them")
    key = name.lower()
    if key in ELSEWHERE:
        there = ELSEWHERE[key]
        raise UsageError(f"{name} cannot be downloaded by a program. {there.title}: {there.page}. Bring: {there.bring}")
    if key not in SETS:
        hint = did_you_mean(key, [*SETS, *ELSEWHERE]) or "."
        raise UsageError(f"no set is called {name!r}{hint} See vplface data get --list")
    wanted, folder = SETS[key], Path(key) if to is None else to
    print(f"{wanted.title}\n{wanted.page}\n{wanted.terms}", flush=True)
    for file in wanted.files:
        news = "" if fetch(file, folder) else " was there"
        print(f"{folder / file.name}{news}", flush=True)


def _list_all() -> None:
    from vplface.data.catalogue import ELSEWHERE, SETS

    print("vplface data get NAME downloads:")
    for name, known in SETS.items():
        print(f"  {name:17} {known.title}\n  {'':17} {known.page}")
    print("\nTo be had from their makers' pages, and what to bring from there:")
    for name, there in ELSEWHERE.items():
        print(f"  {name:17} {there.title}: {there.bring}\n  {'':17} {there.page}")
