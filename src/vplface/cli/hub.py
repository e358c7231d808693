"""``vplface hub``: models to and from the Hugging Face Hub."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from vplface.cli.options import AS_JSON
from vplface.console import print_json, say

REPO = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the hub.", show_default=False)]


def push(
    model: Annotated[
        Path,
        typer.Argument(help="Folder of the model: a run (its last model), or RUN/best.", show_default=False),
    ],
    repo: REPO,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private, if it is new.")] = False,
    licence: Annotated[
        str,
        typer.Option(
            "--license",
            help="License of the weights, as the hub abbreviates it: mit, cc-by-nc-4.0, other, ... The terms of the "
            "training data may bind you.",
        ),
    ] = "unknown",
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file of 'vplface evaluate MODEL --out FILE.json', for the page; may be repeated. The page "
            "has the run's own figures without it.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write what would be pushed to MODEL/hub, show it, and send nothing.")
    ] = False,
    as_json: AS_JSON = False,
) -> None:
    """Publish a model: weights as safetensors, its card, and a page generated from the run.

    Anyone who can read the repository can use the network. Look at the page first, with --dry-run: training data,
    figures with their protocol and intervals, limits, licence. A model has no training pictures and no prototypes.

    Example:  vplface hub push runs/lfw/best me/lfw --private --license cc-by-nc-4.0 --dry-run
    """
    from vplface.hub import push_to_hub, write_hub_folder  # torch takes seconds to import

    if dry_run:
        files = write_hub_folder(model, model / "hub", repo, licence=licence, evaluations=evaluation or ())
        if as_json:
            _print({"model": str(model), "repo": repo, "pushed": False, "files": _hashes(files)})
            return
        print((model / "hub" / "README.md").read_text(encoding="utf-8"))
        say(f"{model / 'hub'} holds what would be pushed to {repo}; nothing was sent:")
        for path in files:
            say(f"  {path.name:<22}{path.stat().st_size:>14,} bytes")
        return
    url = push_to_hub(model, repo, private=private, licence=licence, evaluations=evaluation or ())
    if as_json:
        _print({"model": str(model), "repo": repo, "pushed": True, "commit": url})
    else:
        say(f"pushed {model}: {url}")


def pull(
    repo: REPO,
    revision: Annotated[
        str | None, typer.Option(help="A branch, a tag or a commit.", show_default="the newest")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder to put the model in.",
            show_default="the hub's cache, a folder not to edit",
        ),
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """Fetch a model that was published with vplface, and check that it can be loaded; prints its folder.

    Only JSON and safetensors are read: no code from the hub is run.

    Example:  vplface hub pull me/lfw --out models/lfw
    """
    from vplface.hub import pull_from_hub

    folder = pull_from_hub(repo, out, revision=revision)
    if as_json:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        _print({"repo": repo, "folder": str(folder), "files": _hashes(files)})
    else:
        say(folder)


def _hashes(files: list[Path]) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _print(values: dict[str, object]) -> None:
    print_json({"schema": 1, **values})
