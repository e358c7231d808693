"""``vplface import-config``: a configuration of arcface_torch in, a recipe out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vplface import bounds
from vplface.cli.options import AS_JSON
from vplface.console import print_json, say
from vplface.errors import UsageError
from vplface.paths import argument
from vplface.reading import kind_of

if TYPE_CHECKING:
    from vplface.training.translation import Remark, Translation


def import_config(
    config: Annotated[
        Path,
        typer.Argument(
            help="A Python file with lines config.KEY = VALUE, e.g. configs/ms1mv3_r50.py.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The recipe to write; on stdout if none is given.", show_default=False)
    ] = None,
    gpus: Annotated[
        int, typer.Option(min=1, max=bounds.LARGEST, help="GPUs it was trained on: batch_size is that of one there.")
    ] = 1,
    as_json: AS_JSON = False,
) -> None:
    """Translate a configuration of insightface's arcface_torch to a recipe.

    The file is read, never run: literals, arithmetic of numbers, and
    config.a = config.b. What would have to be run is named with its line and
    left to fill in. A base.py beside it is read first, as arcface_torch does.
    Every key is translated, or said to mean nothing here, or to be unknown.
    The recipe says so in comments, together with what is written alike and
    means something else.

    \b
    vplface import-config configs/ms1mv3_r50.py --gpus 8 --out ms1mv3_r50.yaml
    vplface plan ms1mv3_r50.yaml
    """  # noqa: D301 (the mark before lines that stay as they are)
    if out is not None and kind_of(out) is not None:
        raise UsageError(f"--out {out}: is there already; give another name, or remove it")
    from vplface.files import replacing
    from vplface.training.arcface_torch import translate

    made = translate(config, gpus)
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(made.to_yaml(), encoding="utf-8")
    if as_json:
        print_json(_report(made, config, out))
    elif out is None:
        print(made.to_yaml(), end="")
    else:
        _show(made, out)


def _report(made: Translation, config: Path, out: Path | None) -> dict[str, Any]:
    return {
        "schema": 1,
        "config": str(config),
        "out": None if out is None else str(out),
        "recipe": made.recipe,
        "origins": {line.key: line.origin for line in made.lines},
        "to_fill_in": [vars(remark) for remark in made.to_fill_in],
        "no_counterpart": [vars(remark) for remark in made.no_counterpart],
        "unknown": [vars(remark) for remark in made.unknown],
        "differences": made.differences,
    }


def _show(made: Translation, out: Path) -> None:
    parts: list[tuple[str, list[Remark]]] = [
        ("to fill in", made.to_fill_in),
        ("without a counterpart here", made.no_counterpart),
        ("unknown, left out", made.unknown),
    ]
    say(f"wrote {out}: {len(made.lines)} values, each with the line it comes from")
    for title, remarks in parts:
        if remarks:
            say(f"{title}:")
            for remark in remarks:
                say(f"  {remark}")
    if made.differences:
        say("means something else there:")
        for difference in made.differences:
            say(f"  {difference}")
    say(f"next: vplface plan {argument(out)}")
