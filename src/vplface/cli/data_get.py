"""``vplface data get``: downloads of public sets of faces from their makers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vplface.errors import UsageError
from vplface.suggest import did_you_mean


def get(
    name: Annotated[str | None, typer.Argument(help="Name of the set; --list shows all.", show_default=False)] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Target folder.", show_default="one of its name")
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="List the sets, and the pages of those that cannot be downloaded.")
    ] = False,
) -> None:
    """Download a set of faces, check it against its known digest, and unpack it.

    The terms are shown first; check whether you may use the pictures. Repeat the command to resume an interrupted
    download.

    Example:  vplface data get lfw
    """
    from vplface.data.catalogue import ELSEWHERE, SETS
    from vplface.data.download import fetch

    if listed:
        _list_all()
        return
    if name is None:
        raise UsageError("no set is named; give one of those that vplface data get --list shows")
    key = name.lower()
    if key in ELSEWHERE:
        there = ELSEWHERE[key]
        raise UsageError(
            f"{name} cannot be downloaded by a program. Get {there.bring} from {there.page} ({there.title})"
        )
    if key not in SETS:
        hint = did_you_mean(key, [*SETS, *ELSEWHERE]) or "."
        raise UsageError(f"unknown set {name!r}{hint} vplface data get --list shows all")
    wanted, folder = SETS[key], Path(key) if to is None else to
    print(f"{wanted.title}\n{wanted.page}\n{wanted.terms}", flush=True)
    for file in wanted.files:
        news = "" if fetch(file, folder) else " is already there"
        print(f"{folder / file.name}{news}", flush=True)


def _list_all() -> None:
    from vplface.data.catalogue import ELSEWHERE, SETS

    print("vplface data get NAME downloads:")
    for name, known in SETS.items():
        print(f"  {name:17} {known.title}\n  {'':17} {known.page}")
    print("\nSets to download yourself from the pages of their makers, with the files that are needed:")
    for name, there in ELSEWHERE.items():
        print(f"  {name:17} {there.title}: {there.bring}\n  {'':17} {there.page}")
