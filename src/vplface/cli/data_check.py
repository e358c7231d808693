"""``vplface data check``: what is wrong with a set of pictures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vplface import bounds
from vplface.cli.options import AS_JSON, DEVICE, SPLIT
from vplface.cli.preprocessing import COLOR, MEAN, STD, preprocessing_of
from vplface.cli.sheet import PICTURES, require_picture_name, row, write_sheet
from vplface.console import Console, print_json, say
from vplface.errors import UsageError
from vplface.printable import printable_name

if TYPE_CHECKING:
    from vplface.data.check import Finding, Kind
    from vplface.data.pictures import Picture, StoredPictures

_ROWS = 20
_MEANINGS = {
    "unreadable": "no picture, or not there",
    "truncated": "cut short",
    "tiny": "a side shorter than 16 pixels",
    "constant": "shows nothing",
    "duplicate": "same bytes as one before",
    "duplicate-across": "same bytes, two identities",
    "near-duplicate": "same photo as one before",
    "near-duplicate-across": "same photo, two identities",
    "size": "not 112 x 112",
    "single": "alone in its identity",
    "label": "more like another identity",
}


def check(
    path: Annotated[
        Path, typer.Argument(help="The set: a folder, RecordIO, tar shards, parquet, a list.", show_default=False)
    ],
    split: SPLIT = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Also find pictures that are probably of somebody else, by a good model: .onnx file or run folder.",
            show_default=False,
        ),
    ] = None,
    color: COLOR = None,
    mean: MEAN = None,
    std: STD = None,
    margin: Annotated[
        float,
        typer.Option(help="With --model: by how much another identity must be nearer, as a difference of cosines."),
    ] = 0.1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write the pictures to drop here, name<TAB>reason: what convert --drop and a recipe's 'drop' take.",
            show_default=False,
        ),
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS",
            help="Which findings go to --out: their names with commas between, or all. Without it: unreadable, "
            "truncated, tiny, constant, duplicate, duplicate-across.",
            show_default=False,
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Draw findings into this .png or .jpg, up to 20 of a kind.", show_default=False),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=bounds.PROCESSES, help="Processes that read pictures; 0 for none but this one.")
    ] = (os.cpu_count() or 1),
    device: DEVICE = "cpu",
    as_json: AS_JSON = False,
) -> None:
    """Find pictures that should not be trained on: damaged, empty, twice there, or, by a model, of somebody else.

    Nothing is changed. Look at the sheet before you drop what a model or a likeness has found: a face from the side is
    taken for a wrong one, and brothers are alike.

    Example:  vplface data check my_faces --out drop.txt --sheet findings.png
    """
    require_picture_name(sheet)
    preprocessing = preprocessing_of(color, mean, std)

    import numpy as np

    from vplface.data.check import check as check_pictures  # torch and opencv take seconds to import
    from vplface.data.check import dropped, undecodable
    from vplface.data.drop import write_drop
    from vplface.data.formats import open_pictures

    chosen = _chosen(kinds)
    pictures = open_pictures(path, split)
    findings = check_pictures(pictures, workers)
    embedder = None
    if model is not None:
        from vplface.embedder import Embedder
        from vplface.evaluation.labels import suspect_labels

        embedder = Embedder.load(model, device, preprocessing)
        readable = np.setdiff1d(np.arange(len(pictures)), undecodable(findings))
        embeddings = embedder.embed_set(pictures, readable, "sum", workers=workers)
        findings += suspect_labels(pictures, readable, embeddings, margin, device)
    listed = dropped(pictures, findings, chosen)
    if out is not None:
        write_drop(out, listed)
    if sheet is not None:
        _write_sheet(sheet, pictures, findings)

    if as_json:
        print_json(
            {
                "schema": 1,
                "path": str(path),
                "model": None if model is None else str(model),
                "files": {} if embedder is None else embedder.files,
                "pictures": len(pictures),
                "identities": len(pictures.identities),
                "counts": _counts(findings, model is not None),
                "dropped": len(listed),
                "left_out": pictures.left_out.to_dict(),
                "kinds": list(chosen),
                "findings": [
                    {
                        "name": pictures.name(finding.index),
                        "kind": finding.kind,
                        "reason": finding.reason,
                        "other": None if finding.other is None else pictures.name(finding.other),
                    }
                    for finding in findings
                ],
            }
        )
        return
    _tell(path, pictures, findings, chosen, model is not None)
    if pictures.left_out:
        say(f"note: {pictures.left_out}")
    if out is not None:
        say(f"wrote {out}: {len(listed):,} pictures to drop")
    elif listed:
        say(f"{len(listed):,} pictures would be dropped; --out FILE lists them")
    if sheet is not None:
        say(f"wrote {sheet}")


def _chosen(text: str | None) -> tuple[Kind, ...]:
    from vplface.data.check import DROPPED, KINDS

    if text is None:
        return DROPPED
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in (*KINDS, "all")]
    if unknown or not names:
        raise UsageError(f"--kinds {text!r}: {unknown or 'nothing'} is none of {', '.join(KINDS)}, all")
    return tuple(kind for kind in KINDS if kind in names or "all" in names)


def _counts(findings: Sequence[Finding], judged: bool) -> dict[str, int]:
    from vplface.data.check import KINDS

    found = Counter(finding.kind for finding in findings)
    return {kind: found[kind] for kind in KINDS if kind != "label" or judged}


def _tell(
    path: Path, pictures: StoredPictures, findings: Sequence[Finding], chosen: Sequence[Kind], judged: bool
) -> None:
    from rich.table import Table

    counts = _counts(findings, judged)
    table = Table(
        title=f"{printable_name(str(path))}: {len(pictures):,} pictures of {len(pictures.identities):,} identities"
    )
    table.title_justify = "left"
    for name in ("finding", "pictures", "share", "dropped", ""):
        table.add_column(name, justify="right" if name in ("pictures", "share") else "left")
    for kind, count in counts.items():
        share = f"{100 * count / len(pictures):.2f} %" if count else ""
        table.add_row(kind, f"{count:,}", share, "yes" if kind in chosen else "", _MEANINGS[kind])
    Console().print(table)
    for finding in [finding for finding in findings if finding.kind in chosen][:_ROWS]:
        say(f"{printable_name(pictures.name(finding.index))}: {finding.kind}: {finding.reason}")


def _write_sheet(path: Path, pictures: StoredPictures, findings: Sequence[Finding]) -> None:
    """The picture and others of its identity left; what it is compared with, and its identity, right."""
    import numpy as np

    from vplface.data.check import undecodable

    unseen = set(undecodable(findings))
    rows, total = [], 0
    for kind in _MEANINGS:
        of_kind = [finding for finding in findings if finding.kind == kind and finding.index not in unseen]
        if kind == "single" or not of_kind:
            continue
        total += len(of_kind)
        for place in np.unique(np.linspace(0, len(of_kind) - 1, _ROWS).round().astype(int)).tolist():
            finding = of_kind[place]
            right = [] if finding.other is None else _some(pictures, finding.other, unseen)
            caption = f"{kind}: {pictures.name(finding.index)}: {finding.reason}"
            rows.append(row(caption, _some(pictures, finding.index, unseen), right))
    write_sheet(path, f"{len(rows)} of {total} findings; the picture left, what it is compared with right", rows)


def _some(pictures: StoredPictures, index: int, unseen: set[int]) -> list[Picture]:
    import numpy as np

    others = np.flatnonzero(pictures.labels == pictures.labels[index]).tolist()
    chosen = [index, *(other for other in others if other != index and other not in unseen)]
    return [pictures.picture(picture) for picture in chosen[:PICTURES]]
