"""``vplface data convert``: conversion of a set of pictures to another format."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vplface.cli.options import AS_JSON, SPLIT
from vplface.console import print_json, say
from vplface.data.format_table import Format
from vplface.errors import UsageError

if TYPE_CHECKING:
    from vplface.data.convert import Conversion

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
            help="The new set. The name decides the format: .rec, .tar, .parquet, .csv, .tsv, .bin, or a "
            "folder of pictures; --to chooses one where the name does not.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Format | None,
        typer.Option(
            help="The format of TARGET: folder (IDENTITY/PICTURE), recordio (InsightFace), tar (WebDataset shards), "
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
    """Convert a set of pictures to another format: pictures bit for bit, with the same names and order of identities.

    Repeat the command to resume an interrupted conversion. Pictures that cannot be read from SOURCE are
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
        raise UsageError(
            "a .bin file and --pairs belong together; give both: the list says which pictures the file compares"
        )
    if pairs is not None and drop is not None:
        raise UsageError("--drop does not apply to a .bin file, which holds only the pictures of --pairs")
    pictures = open_pictures(source, split)
    pair_list: Path | None = None
    if pairs is not None:
        done = convert_to_bin(pictures, target, read_pairs(pairs))
    else:
        done = convert_pictures(pictures, source, target, form, {} if drop is None else read_drop(drop))
    if source.suffix.lower() == ".bin" and pairs is None:
        from vplface.data.formats.verification_bin import VerificationBin

        assert isinstance(pictures, VerificationBin)
        pair_list = write_pairs_of_bin(pictures, target, form)

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
                "pairs": None if pair_list is None else str(pair_list),
                "left_out": pictures.left_out.to_dict(),
                "unreadable": [{"path": path, "reason": reason} for path, reason in done.unreadable.items()],
            }
        )
    else:
        say(f"{target}: {_format_conversion(done)}")
        if pair_list is not None:
            say(f"{pair_list}: its pairs")
    if pictures.left_out:
        say(f"note: {pictures.left_out}", file=sys.stderr)
    if done.unreadable:
        for path, reason in list(done.unreadable.items())[:_LINES]:
            say(f"cannot be read: {path}: {reason}", file=sys.stderr)
        if len(done.unreadable) > _LINES:
            say(f"... and {len(done.unreadable) - _LINES:,} more; --json names all", file=sys.stderr)
        raise typer.Exit(1)


def _format_conversion(done: Conversion) -> str:
    counts = {
        "of them from an earlier run": done.resumed,
        "dropped": done.dropped,
        "could not be read and were left out": len(done.unreadable),
    }
    parts = [f"{count:,} {description}" for description, count in counts.items() if count]
    return ", ".join([f"{done.pictures:,} pictures of {done.identities:,} identities", *parts])
