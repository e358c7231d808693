"""``vplface data convert``: a set of pictures in another form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vplface.cli.options import AS_JSON, SPLIT
from vplface.console import print_json, say
from vplface.data.format_table import Format
from vplface.errors import UsageError

_LINES = 20


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="The set: a folder SOURCE/IDENTITY/PICTURE, a .rec, .tar, .parquet, .csv, .tsv or .bin file, a folder "
            "of such files, or a pattern such as 'train-{000..127}.tar'.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            help="The new set. What it will be follows from the name: .rec, .tar, .parquet, .csv, .tsv, .bin, or a "
            "folder of pictures; --to says it where the name does not.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Format | None,
        typer.Option(
            help="The form of TARGET: folder (IDENTITY/PICTURE), recordio (InsightFace), tar (WebDataset shards), "
            "parquet (Hugging Face), list (.csv or .tsv), bin (InsightFace verification).",
            show_default=False,
        ),
    ] = None,
    split: SPLIT = None,
    drop: Annotated[
        Path | None,
        typer.Option(help="Leave out the pictures on this list, which vplface data check writes.", show_default=False),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="For a .bin file: the pairs to put into it, by the names of SOURCE.", show_default=False),
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """Copy a set of pictures into another form: pictures bit for bit, names and the order of identities as they are.

    A conversion that was stopped goes on when the command is repeated. Pictures that cannot be read from SOURCE are
    named and left out, and the exit status is then 1; pictures that can be read but not decoded are copied as they are.
    The pairs of a .bin file are written beside TARGET.

    Example:  vplface data convert faces_webface/train.rec webface/
    """
    from vplface.data.convert import convert as convert_pictures  # opencv and torch take seconds to import
    from vplface.data.convert import convert_to_bin, write_pairs_of_bin
    from vplface.data.drop import read_drop
    from vplface.data.formats import format_of, open_pictures
    from vplface.data.pair_lists import read_pairs

    form = format_of(target) if to is None else to
    if (form == "bin") != (pairs is not None):
        raise UsageError("--pairs and a .bin file go together: it says which pictures the file compares")
    if pairs is not None and drop is not None:
        raise UsageError("--drop has no use with a .bin file: it holds the pictures of --pairs and no others")
    pictures = open_pictures(source, split)
    listed: Path | None = None
    if pairs is not None:
        done = convert_to_bin(pictures, target, read_pairs(pairs))
    else:
        done = convert_pictures(pictures, source, target, form, {} if drop is None else read_drop(drop))
    if source.suffix.lower() == ".bin" and pairs is None:
        from vplface.data.formats.verification_bin import VerificationBin

        assert isinstance(pictures, VerificationBin)
        listed = write_pairs_of_bin(pictures, target, form)

    if as_json:
        print_json(
            {
                "schema": 1,
                "source": str(source),
                "target": str(target),
                "form": form,
                "pictures": done.pictures,
                "identities": done.identities,
                "resumed": done.resumed,
                "dropped": done.dropped,
                "pairs": None if listed is None else str(listed),
                "left_out": pictures.left_out.to_dict(),
                "unreadable": [{"path": path, "reason": reason} for path, reason in done.unreadable.items()],
            }
        )
    else:
        details = [
            f"{count:,} {what}"
            for count, what in (
                (done.resumed, "of them from before"),
                (done.dropped, "dropped"),
                (len(done.unreadable), "could not be read and are left out"),
            )
            if count
        ]
        say(f"{target}: {', '.join([f'{done.pictures:,} pictures of {done.identities:,} identities', *details])}")
        if listed is not None:
            say(f"{listed}: its pairs")
    if pictures.left_out:
        say(f"note: {pictures.left_out}", file=sys.stderr)
    if done.unreadable:
        for path, reason in list(done.unreadable.items())[:_LINES]:
            say(f"cannot be read: {path}: {reason}", file=sys.stderr)
        if len(done.unreadable) > _LINES:
            say(f"... and {len(done.unreadable) - _LINES:,} more; --json names all", file=sys.stderr)
        raise typer.Exit(1)
