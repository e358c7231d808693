"""Output files of an evaluation: the whole result as JSON, and a page."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vplface.errors import UsageError
from vplface.printable import printable_json

if TYPE_CHECKING:
    from vplface.data.pictures import Picture, PictureSet
    from vplface.evaluation import Evaluation
    from vplface.report import RunRecord

OUT = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Store the whole result in this .json file: figures, curves, the worst mistakes, hashes, versions.",
        show_default=False,
    ),
]
REPORT = Annotated[
    Path | None,
    typer.Option(help="Write a self-contained page with curves and pictures to this .html file.", show_default=False),
]


def require_endings(out: Path | None, report: Path | None) -> None:
    """Raises UsageError if the extension of a file is not that of its kind."""
    for option, path, kind in (("--out", out, ".json"), ("--report", report, ".html")):
        if path is not None and path.suffix != kind:
            raise UsageError(f"{option} {path}: the name must end in {kind}")


def store(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON-ready values atomically; raises DataError if the file cannot be written."""
    from vplface.files import PRIVATE, replacing

    with replacing(path, PRIVATE) as temporary:
        text = printable_json(json.dumps(values, ensure_ascii=False, allow_nan=False)) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_page(
    path: Path,
    records: Sequence[RunRecord],
    title: str,
    sets: Mapping[str, Sequence[PictureSet]],
    comparisons: Sequence[Mapping[str, Mapping[str, Any]]] = (),
) -> None:
    """Write the page on some models' evaluations, with the pictures of each evaluation where they are available."""
    from vplface.data.pictures import UnreadablePictureError
    from vplface.report import write_evaluation

    @functools.cache
    def places(evaluation: str) -> dict[str, tuple[PictureSet, int]]:
        return {
            pictures.name(index): (pictures, index) for pictures in sets[evaluation] for index in range(len(pictures))
        }

    def picture_of(evaluation: str, name: str) -> Picture | None:
        try:
            pictures, index = places(evaluation)[name]
            return pictures.picture(index)
        except (KeyError, UnreadablePictureError):
            return None  # embeddings can be evaluated where the pictures are not

    write_evaluation(path, records, title, comparisons, picture_of=picture_of)


def write_outputs(
    out: Path | None,
    report: Path | None,
    model: Path,
    values: Mapping[str, Any],
    evaluations: Mapping[str, Evaluation],
    sets: Sequence[PictureSet],
) -> list[Path]:
    """Write the requested .json file and page on one model; returns their paths."""
    from vplface.evaluation.provenance import versions
    from vplface.report import RunRecord

    date = datetime.now(UTC).isoformat(timespec="seconds")
    whole = {title: evaluation.to_dict() for title, evaluation in evaluations.items()}
    if out is not None:
        store(out, {**values, "versions": versions(), "date": date, "evaluations": whole})
    if report is not None:
        record = RunRecord(
            folder=model,
            name=str(model),
            environment={**versions(), "date": date},
            evaluations=whole,
            files=values["files"],
        )
        write_page(report, [record], str(values["protocol"]["name"]), dict.fromkeys(evaluations, sets))
    return [path for path in (out, report) if path is not None]
