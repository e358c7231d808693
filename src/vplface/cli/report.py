"""``vplface report``: one page on a run, or on several compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vplface.cli.options import AS_JSON
from vplface.console import print_json, say
from vplface.errors import DataError
from vplface.reading import is_file

if TYPE_CHECKING:
    from vplface.data.pictures import Picture
    from vplface.report import RunRecord


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders, as vplface train writes them; the baseline first.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    title: Annotated[
        str | None, typer.Option(help="The headline; without it, the names of the runs.", show_default=False)
    ] = None,
    pictures: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder of the evaluated pictures, to show the worst errors; may be repeated. "
            "Without it, the folders that the runs' configurations name.",
            show_default=False,
        ),
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """Write one self-contained page: results with intervals, curves, ROC, the most wrong pairs, configuration.

    Several runs are compared on one page. A verdict needs paired differences, comparison.json in the folder
    that holds the runs, as vplface study writes it: the page never ranks runs by overlapping intervals.
    Parts that a run folder lacks are left out, so the run may be unfinished.

    Example:  vplface report runs/quickstart/arcface runs/quickstart/vpl --out quickstart.html
    """
    from vplface.report import read_run, write_report

    records = [read_run(folder) for folder in runs]
    headline = title or ", ".join(record.name for record in records)
    sentence = write_report(out, records, headline, picture_of=_pictures_of(records, pictures or []))
    if as_json:
        values = {"schema": 1, "report": str(out), "runs": [str(folder) for folder in runs], "verdict": sentence}
        print_json(values)
    else:
        for line in sentence.split("\n"):
            say(line)
        say(f"wrote {out}")


def _pictures_of(records: Sequence[RunRecord], given: Sequence[Path]) -> Callable[[str, str], Picture | None]:
    """A look-up of pictures in the given folders, else in those that the configuration names."""
    of_sets: dict[str, list[Path]] = {}
    of_training: list[Path] = []
    for record in records:
        for entry in _entries(record.config, "evaluation", "sets") + _guards(record.config):
            of_sets.setdefault(str(entry.get("name")), []).append(Path(str(entry.get("path"))))
        of_training += [Path(str(entry.get("path"))) for entry in _entries(record.config, "data", "train")]

    def picture_of(set_name: str, name: str) -> Picture | None:
        from vplface.data.pictures import UnreadablePictureError, decode, read_picture_file

        for root in given or of_sets.get(set_name, of_training):
            path = root / name
            # Names come from untrusted files: they must not lead out of the folder.
            try:
                if path.resolve().is_relative_to(root.resolve()) and is_file(path):
                    return decode(read_picture_file(path), str(path))
            except (OSError, RuntimeError, ValueError, DataError, UnreadablePictureError):  # a link loop, a null byte
                return None
        return None

    return picture_of


def _guards(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    evaluation = config.get("evaluation")
    guard = evaluation.get("guard") if isinstance(evaluation, Mapping) else None
    return [guard] if isinstance(guard, Mapping) else _entries(config, "evaluation", "guard")


def _entries(config: Mapping[str, Any], section: str, key: str) -> list[Mapping[str, Any]]:
    content = config.get(section)
    entries = content.get(key) if isinstance(content, Mapping) else None
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
