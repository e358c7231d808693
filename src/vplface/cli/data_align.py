"""``vplface data align``: aligned faces from a folder of photographs."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vplface import bounds
from vplface.cli.align_gate import ALIGN_SCORE, GATE_MODEL, align_gate
from vplface.cli.options import AS_JSON
from vplface.cli.quality_gate import MIN_QUALITY
from vplface.console import print_json, say
from vplface.errors import DataError, UsageError
from vplface.reading import is_folder, read_json

if TYPE_CHECKING:
    from vplface.data.align.folder import Alignment

_REASONS = 5
_DETECTOR_SCORE = 0.6


def align(
    source: Annotated[
        Path,
        typer.Argument(
            help="The photographs: SOURCE/IDENTITY/PICTURE, or pictures in one folder, to any depth.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            help="The folder to write: crops with the same names, and align.csv with the outcome for each picture.",
            show_default=False,
        ),
    ],
    detector_model: Annotated[
        Path | None,
        typer.Option(
            help="YuNet's .onnx file. Without it and without --landmarks it is searched for in the user's cache, as "
            "~/.cache/vplface/face_detection_yunet.onnx.",
            show_default=False,
        ),
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(
            help="Take the faces from this .csv or .json file instead of detecting them: an align.csv, or your own.",
            show_default=False,
        ),
    ] = None,
    faces: Annotated[
        Literal["largest", "center", "all"],
        typer.Option(
            help="Which faces of a picture to take. center: the nearest to the middle, for sets such as LFW that were "
            "cut out around the person they name."
        ),
    ] = "largest",
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help=f"Skip faces with a lower score. Default: {_DETECTOR_SCORE} with the detector, 0 with --landmarks.",
            show_default=False,
        ),
    ] = None,
    min_size: Annotated[
        float, typer.Option(min=0.0, help="Skip faces whose crop covers fewer pixels per side in the photograph.")
    ] = 16,
    search_size: Annotated[
        int,
        typer.Option(
            min=32,
            max=2**14,
            help="Larger pictures are shrunk to this side for detection. YuNet finds faces of 10 to 300 pixels there: "
            "raise it for small faces in large pictures.",
        ),
    ] = 640,
    model: GATE_MODEL = None,
    quality_score: ALIGN_SCORE = None,
    min_quality: MIN_QUALITY = None,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Side of the crops, in pixels.")] = 112,
    picture_format: Annotated[
        Literal["jpg", "png"], typer.Option("--format", help="png is exact; jpg is smaller.")
    ] = "jpg",
    quality: Annotated[int, typer.Option(min=1, max=100, help="Quality of jpg files.")] = 95,
    workers: Annotated[
        int, typer.Option(min=0, max=bounds.PROCESSES, help="Worker processes; the crops do not depend on it.")
    ] = os.cpu_count() or 1,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Also draw photographs with their landmarks beside the crops, 48 at most, to this .png or .jpg.",
            show_default=False,
        ),
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """Turn photographs into the aligned faces that models take: eyes, nose and mouth at ArcFace's five points.

    Pictures without a face, with several, too poor (--model), and those that cannot be read are named in
    TARGET/align.csv and counted; it is an error only if nothing can be aligned. Repeat the command to complete an
    interrupted run. To correct alignments, edit the landmarks in a copy of align.csv, and align with --landmarks into
    another folder.

    Example:  vplface data align photos faces --detector-model face_detection_yunet_2026may.onnx --sheet sheet.png
    """
    if detector_model is not None and landmarks is not None:
        raise UsageError("--detector-model and --landmarks: give only one of them; both say where the faces are")
    if sheet is not None and sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--sheet {sheet}: the name must end in .png or .jpg")
    if not is_folder(source):
        raise DataError(f"{source}: no such folder; give the folder of the pictures, or of folders of them")
    from vplface.data.align import Detector, Face, YuNet, align_folder, read_landmarks  # opencv takes time to import
    from vplface.data.align.folder import OPTIONS, RECORDS
    from vplface.data.align.sheet import write_sheet
    from vplface.data.align.turned_away import turn_away

    gate = align_gate(model, quality_score, min_quality, size)
    detections: Detector | dict[str, list[Face]]
    if landmarks is None:
        detections = YuNet(detector_model, _DETECTOR_SCORE if min_score is None else min_score, search_size)
        found_by = str(detections)
    else:
        least = min_score or 0.0
        listed = read_landmarks(landmarks)
        detections = {name: [face for face in several if face.score >= least] for name, several in listed.items()}
        found_by = f"landmarks in {landmarks.name}, scores from {least:g}"
    if gate is not None:
        found_by += f"; {gate[1]}"
    done = align_folder(
        source, target, detections, found_by=found_by, choice=faces, size=size, min_size=min_size,
        picture_format=picture_format, quality=quality, workers=workers,
    )  # fmt: skip
    if gate is not None:
        done = replace(done, records=turn_away(target, RECORDS, done.records, gate[0]))
    if not done.crops:
        raise DataError(
            f"{source}: none of {done.outcomes.total()} pictures could be aligned ({_format_outcomes(done)}); "
            f"{target / RECORDS} gives the reason for each"
        )
    written = [target / RECORDS, target / OPTIONS]
    if sheet is not None:
        write_sheet(sheet, source, target, done.records)
        written.append(sheet)
    if as_json:
        print_json(_report(done, source, target, written))
        return
    _print_outcomes(done, faces)
    for path in written:
        say(f"wrote {path}")


def _report(done: Alignment, source: Path, target: Path, written: list[Path]) -> dict[str, Any]:
    """The result for ``--json``."""
    from vplface.data.align.folder import OPTIONS

    outcomes = done.outcomes
    return {
        "schema": 1,
        "source": str(source),
        "target": str(target),
        "protocol": read_json(target / OPTIONS),
        "pictures": outcomes.total(),
        "aligned": outcomes["aligned"],
        "crops": done.crops,
        "several_faces": done.several,
        "outcomes": dict(outcomes),
        "kept": done.kept,
        "other_files": dict(done.others),
        "left_out": done.left_out.to_dict(),
        "pictures_per_second": round((outcomes.total() - done.kept) / done.seconds, 1),
        "files": {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in written},
    }


def _print_outcomes(done: Alignment, faces: str) -> None:
    outcomes = done.outcomes
    aligned = {record.name for record in done.records if record.crop}
    unaligned = {record.name: record for record in done.records if record.name not in aligned}
    for record in list(unaligned.values())[:_REASONS]:
        say(f"{record.name}: {record.outcome}{f' ({record.reason})' if record.reason else ''}")
    if len(unaligned) > _REASONS:
        say(f"... and {len(unaligned) - _REASONS} more without a crop")
    new = outcomes.total() - done.kept
    kept = f", {done.kept} of them from an earlier run" if done.kept else ""
    speed = f"; {new / done.seconds:.0f} pictures/s" if new else ""
    say(f"{done.crops} crops of {outcomes.total()} pictures{kept}: {_format_outcomes(done)}{speed}")
    if done.several:
        say(f"{done.several} pictures show several faces; taken: {faces}")
    if done.others:
        others = ", ".join(f"{count} {kind}" for kind, count in done.others.most_common(5))
        say(f"skipped files that are not pictures of a known type: {others}")
    if done.left_out:
        say(f"note: {done.left_out}")


def _format_outcomes(done: Alignment) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in done.outcomes.most_common())
