"""``vplface data check``: damaged, repeated and mislabelled pictures of a set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vplface import bounds
from vplface.cli.alignment import LOOK
from vplface.cli.options import AS_JSON, DEVICE, SPLIT
from vplface.cli.preprocessing import COLOR, MEAN, STD, preprocessing_of
from vplface.cli.sheet import PICTURES, require_picture_name, row, write_sheet
from vplface.console import Console, print_json, say
from vplface.errors import UsageError
from vplface.printable import printable_name
from vplface.tables import Table

if TYPE_CHECKING:
    from vplface.data.check import Finding, Kind
    from vplface.data.pictures import Picture, StoredPictures
    from vplface.embedder import Embedder

_ROWS = 20
_MEANINGS = {
    "unreadable": "not a picture, or missing",
    "truncated": "cut short",
    "tiny": "a side shorter than 16 pixels",
    "constant": "no visible content",
    "duplicate": "same bytes as an earlier one",
    "duplicate-across": "same bytes, two identities",
    "near-duplicate": "same photo as an earlier one",
    "near-duplicate-across": "same photo, two identities",
    "size": "not 112 x 112",
    "single": "the only one of its identity",
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
            help="Also find pictures that are probably of another person, with a good model: .onnx file or run folder.",
            show_default=False,
        ),
    ] = None,
    color: COLOR = None,
    mean: MEAN = None,
    std: STD = None,
    margin: Annotated[
        float,
        typer.Option(help="With --model: how much nearer another identity must be, as a difference of cosines."),
    ] = 0.1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write the pictures to drop here, name<TAB>reason, for convert --drop and a recipe's 'drop'.",
            show_default=False,
        ),
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS",
            help="Findings to write to --out: names separated by commas, or all. Default: unreadable, "
            "truncated, tiny, constant, duplicate, duplicate-across.",
            show_default=False,
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Draw findings into this .png or .jpg, up to 20 of a kind.", show_default=False),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=bounds.PROCESSES, help="Processes that read pictures; 0: only this one.")
    ] = (os.cpu_count() or 1),
    device: DEVICE = "cpu",
    detector_model: LOOK = None,
    as_json: AS_JSON = False,
) -> None:
    """Find pictures that should not be trained on: damaged, empty, repeated, or, with a model, of another person.

    Nothing is changed. Look at the sheet before you drop pictures that a model or a similarity has found: profile faces
    are often flagged wrongly, and brothers look alike.

    Example:  vplface data check my_faces --out drop.txt --sheet findings.png
    """
    require_picture_name(sheet)
    preprocessing = preprocessing_of(color, mean, std)

    from vplface.data.align.advice import describe, warn_if_unaligned  # torch and opencv take seconds to import
    from vplface.data.check import check as check_pictures
    from vplface.data.check import dropped
    from vplface.data.drop import write_drop
    from vplface.data.formats import open_pictures

    drop_kinds = _parse_kinds(kinds)
    pictures = open_pictures(path, split)
    alignment = warn_if_unaligned(path, pictures, split, detector_model)
    findings = check_pictures(pictures, workers)
    model_files: Mapping[str, str] = {}
    if model is not None:
        from vplface.embedder import Embedder

        embedder = Embedder.load(model, device, preprocessing)
        model_files = embedder.files
        findings += _suspect_labels(pictures, findings, embedder, margin, workers, device)
    to_drop = dropped(pictures, findings, drop_kinds)
    if out is not None:
        write_drop(out, to_drop)
    if sheet is not None:
        _write_sheet(sheet, pictures, findings)

    counts = _counts(findings, with_labels=model is not None)
    if as_json:
        print_json(
            {
                "schema": 1,
                "path": str(path),
                "model": None if model is None else str(model),
                "files": model_files,
                "pictures": len(pictures),
                "identities": len(pictures.identities),
                "counts": counts,
                "dropped": len(to_drop),
                "left_out": pictures.left_out.to_dict(),
                "alignment": alignment.to_dict(),
                "kinds": list(drop_kinds),
                "findings": [_to_dict(pictures, finding) for finding in findings],
            }
        )
        return
    _print_findings(path, pictures, findings, drop_kinds, counts)
    if not alignment.bad:
        say(describe(alignment))
    if pictures.left_out:
        say(f"note: {pictures.left_out}")
    if out is not None:
        say(f"wrote {out}: {len(to_drop):,} pictures to drop")
    elif to_drop:
        say(f"{len(to_drop):,} pictures would be dropped; --out FILE lists them")
    if sheet is not None:
        say(f"wrote {sheet}")


def _suspect_labels(
    pictures: StoredPictures, findings: Sequence[Finding], embedder: Embedder, margin: float, workers: int, device: str
) -> list[Finding]:
    """Pictures that can be decoded and are nearer to another identity than to their own."""
    import numpy as np

    from vplface.data.check import undecodable
    from vplface.evaluation.labels import suspect_labels

    readable = np.setdiff1d(np.arange(len(pictures)), undecodable(findings))
    embeddings = embedder.embed_set(pictures, readable, "sum", workers=workers)
    return suspect_labels(pictures, readable, embeddings, margin, device)


def _to_dict(pictures: StoredPictures, finding: Finding) -> dict[str, str | None]:
    return {
        "name": pictures.name(finding.index),
        "kind": finding.kind,
        "reason": finding.reason,
        "other": None if finding.other is None else pictures.name(finding.other),
    }


def _parse_kinds(text: str | None) -> tuple[Kind, ...]:
    from vplface.data.check import DROPPED, KINDS

    if text is None:
        return DROPPED
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in (*KINDS, "all")]
    if unknown or not names:
        raise UsageError(f"--kinds {text!r}: expected some of {', '.join(KINDS)}, or all; got {unknown or 'none'}")
    return tuple(kind for kind in KINDS if kind in names or "all" in names)


def _counts(findings: Sequence[Finding], *, with_labels: bool) -> dict[str, int]:
    from vplface.data.check import KINDS

    counts = Counter(finding.kind for finding in findings)
    return {kind: counts[kind] for kind in KINDS if kind != "label" or with_labels}


def _print_findings(
    path: Path,
    pictures: StoredPictures,
    findings: Sequence[Finding],
    drop_kinds: Sequence[Kind],
    counts: Mapping[str, int],
) -> None:
    table = Table(
        f"{printable_name(str(path))}: {len(pictures):,} pictures of {len(pictures.identities):,} identities",
        ["finding", "pictures", "share", "dropped", ""],
        text=(0, 3, 4),
    )
    for kind, count in counts.items():
        share = f"{100 * count / len(pictures):.2f} %" if count else ""
        table.add_row(kind, f"{count:,}", share, "yes" if kind in drop_kinds else "", _MEANINGS[kind])
    Console().print(table)
    for finding in [finding for finding in findings if finding.kind in drop_kinds][:_ROWS]:
        say(f"{printable_name(pictures.name(finding.index))}: {finding.kind}: {finding.reason}")


def _write_sheet(path: Path, pictures: StoredPictures, findings: Sequence[Finding]) -> None:
    """Draw each finding on the left and its counterpart on the right, both with other pictures of their identities."""
    import numpy as np

    from vplface.data.check import undecodable

    unseen = set(undecodable(findings))
    rows, total = [], 0
    for kind in _MEANINGS:
        of_kind = [finding for finding in findings if finding.kind == kind and finding.index not in unseen]
        if kind == "single" or not of_kind:
            continue
        total += len(of_kind)
        for position in np.unique(np.linspace(0, len(of_kind) - 1, _ROWS).round().astype(int)).tolist():
            finding = of_kind[position]
            right = [] if finding.other is None else _some(pictures, finding.other, unseen)
            caption = f"{kind}: {pictures.name(finding.index)}: {finding.reason}"
            rows.append(row(caption, _some(pictures, finding.index, unseen), right))
    write_sheet(path, f"{len(rows)} of {total} findings; left: the picture, right: its counterpart", rows)


def _some(pictures: StoredPictures, index: int, unseen: set[int]) -> list[Picture]:
    import numpy as np

    others = np.flatnonzero(pictures.labels == pictures.labels[index]).tolist()
    shown = [index, *(other for other in others if other != index and other not in unseen)]
    return [pictures.picture(picture) for picture in shown[:PICTURES]]
