"""``vplface data synth``: a folder of generated faces."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from vplface import bounds
from vplface.console import say
from vplface.errors import DataError, UsageError


def synth(
    out: Annotated[
        Path, typer.Argument(help="The folder to write: OUT/identity/picture, and OUT/synth.json.", show_default=False)
    ],
    identities: Annotated[int, typer.Option(min=1, max=bounds.PEOPLE, help="Number of generated people.")] = 400,
    pictures: Annotated[
        int,
        typer.Option(min=1, max=bounds.PICTURES, help="Pictures per person; with --tail, of the person with the most."),
    ] = 20,
    seed: Annotated[int, typer.Option(min=0, max=bounds.SEED, help="Seed of the people and their pictures.")] = 0,
    first_identity: Annotated[
        int,
        typer.Option(
            min=0,
            max=bounds.SEED,
            help="Number of the first person: test people after the last training person are new.",
        ),
    ] = 0,
    tail: Annotated[
        float,
        typer.Option(min=0.0, max=100.0, help="Exponent of long-tailed sizes, PICTURES·(rank+1)^-TAIL; 0: all equal."),
    ] = 0.0,
    fewest: Annotated[
        int, typer.Option(min=1, max=bounds.PICTURES, help="Minimum number of pictures of a person with --tail.")
    ] = 1,
    label_noise: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of pictures that show another person than their folder says.")
    ] = 0.0,
    difficulty: Annotated[
        float,
        typer.Option(
            min=0.0, max=100.0, help="Scale of pose, expression, light, occlusion and camera; 0: as in passports."
        ),
    ] = 1.0,
    picture_format: Annotated[
        Literal["png", "jpg"], typer.Option("--format", help="png is exact; jpg is smaller.")
    ] = "png",
    workers: Annotated[
        int, typer.Option(min=0, max=bounds.PROCESSES, help="Worker processes; the pictures do not depend on it.")
    ] = os.cpu_count() or 1,
    pairs: Annotated[
        Path | None, typer.Option(help="Also write a list of pairs for verification to this file.", show_default=False)
    ] = None,
    pair_count: Annotated[
        int,
        typer.Option(
            min=20, max=bounds.PAIRS, help="Pairs to write: a multiple of 20, half of them genuine, in 10 folds."
        ),
    ] = 6000,
    sheet: Annotated[
        Path | None, typer.Option(help="Also write a contact sheet, one person per row, to this .png or .jpg.")
    ] = None,
) -> None:
    """Generate faces of people who do not exist, with pose, expression, light, age, occlusion and camera effects.

    The same options give the same pictures. Repeat the command to complete an interrupted run.

    Example:  vplface data synth faces/train --identities 400; vplface data synth faces/test --identities 100
    --first-identity 400 --pairs faces/test_pairs.txt
    """
    from vplface.data.balanced import balanced_pairs
    from vplface.data.contact_sheet import write_sheet
    from vplface.data.pairs import Pairs, write_pairs
    from vplface.data.synthetic_folder import write_synthetic
    from vplface_synthetic import SyntheticFaces

    if pairs is not None and pair_count % 20:
        raise UsageError(f"--pair-count {pair_count}: must be a multiple of 20 (10 folds, half of each genuine)")
    try:
        faces = SyntheticFaces(
            identities, pictures, seed, first_identity, tail=tail, fewest=fewest, label_noise=label_noise,
            difficulty=difficulty,
        )  # fmt: skip
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        drawn = None if pairs is None else balanced_pairs(faces, pair_count, seed)
    except DataError as error:
        raise UsageError(f"--pair-count {pair_count}: {error}") from error
    written = write_synthetic(out, faces, picture_format, workers)
    say(
        f"{out}: {len(faces)} pictures of {identities} people ({written} new)"
        + (f", {int(faces.mislabelled.sum())} of them mislabelled" if label_noise else "")
    )
    if pairs is not None and drawn is not None:
        ending = f".{picture_format}"
        left, right = ([str(Path(name).with_suffix(ending)) for name in names] for names in (drawn.left, drawn.right))
        try:
            pairs.parent.mkdir(parents=True, exist_ok=True)
            write_pairs(pairs, Pairs(left, right, drawn.same, drawn.fold))
        except OSError as error:
            raise DataError(f"{pairs}: cannot be written ({error.strerror})") from error
        say(f"{pairs}: {len(drawn)} pairs in 10 folds")
    if sheet is not None:
        write_sheet(sheet, faces)
        say(f"{sheet}: contact sheet")
