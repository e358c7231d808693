"""``vplface identify``: a search of a gallery for the faces in pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vplface import bounds
from vplface.cli.faces import (
    ALIGN,
    DETECTOR_MODEL,
    SHOW,
    THRESHOLD,
    gallery_model,
    photograph_report,
    require_drawing,
    require_prior,
    threshold_or_advice,
    threshold_report,
)
from vplface.cli.options import AS_JSON, DEVICE
from vplface.cli.quality_gate import GATE_SCORE, MIN_QUALITY, quality_check
from vplface.console import print_json, say
from vplface.errors import DataError
from vplface.printable import printable_name

if TYPE_CHECKING:
    from vplface.data.pictures import UnreadablePictureError
    from vplface.deploy.decision import Threshold
    from vplface.deploy.evidence import Evidence
    from vplface.deploy.faces import NoFaceError, Photograph
    from vplface.deploy.gallery import Match
    from vplface.deploy.gallery_search import Search
    from vplface.deploy.quality import FaceQuality

_MOST_DRAWN = 24


def identify(
    gallery: Annotated[
        Path, typer.Argument(help="The gallery, a folder written by vplface enroll.", show_default=False)
    ],
    pictures: Annotated[
        list[Path],
        typer.Argument(help="Photographs, with any number of faces, or aligned faces.", show_default=False),
    ],
    top: Annotated[int, typer.Option(min=1, max=bounds.LARGEST, help="Number of names for each face.")] = 3,
    threshold: THRESHOLD = None,
    prior: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="The probability that a face is the nearest person's before the picture is seen. The probability "
            "after is printed where the operating point has a calibration and the person has one picture.",
            show_default="1/(enrolled people + 1)",
        ),
    ] = None,
    templates: Annotated[
        Literal["best", "mean", "weighted"],
        typer.Option(
            help="Templates to compare a face with: best, the nearest of all enrolled pictures; mean or "
            "weighted (by quality, else by norm), one template for each person. vplface evaluate-identification "
            "--templates measures which is best."
        ),
    ] = "best",
    search: Annotated[
        Literal["auto", "exact", "faiss"],
        typer.Option(
            help="exact: compare with every enrolled picture. faiss: by short codes first, for large galleries (extra "
            "faiss). auto: exact below 100,000 pictures."
        ),
    ] = "auto",
    quality: GATE_SCORE = None,
    min_quality: MIN_QUALITY = None,
    align: ALIGN = "auto",
    detector_model: DETECTOR_MODEL = None,
    model: Annotated[
        Path | None,
        typer.Option(help="The gallery's model, if it has been moved.", show_default=False),
    ] = None,
    show: SHOW = None,
    device: DEVICE = "cpu",
    as_json: AS_JSON = False,
) -> None:
    """Identify the faces in pictures by a gallery.

    For each face the most similar people are given. A person's similarity
    is the highest cosine with one of the enrolled pictures, or the cosine
    with the person's template (--templates). Below the
    threshold a face is unknown. The threshold is the model's operating
    point, or --threshold; without either no decision is made. A face below
    the least quality (--min-quality) is too poor to decide.

    Its FAR is that of one comparison. The more people are enrolled, the more often
    a stranger resembles one of them.

    Example:  vplface identify people party.jpg --show party.png
    """
    require_drawing(show)
    from vplface.deploy.decision import load_operating_point  # torch and opencv take seconds to import
    from vplface.deploy.evidence import evidence_of
    from vplface.deploy.faces import FaceReader
    from vplface.deploy.gallery import EmbedderFingerprint
    from vplface.deploy.gallery_folder import load_gallery
    from vplface.deploy.gallery_search import Search
    from vplface.deploy.quality import embed_and_check
    from vplface.embedder import Embedder
    from vplface.evaluation.provenance import hashes

    people = load_gallery(gallery)
    fingerprint = people.fingerprint
    model = gallery_model(fingerprint, model)
    embedder = Embedder.load(model, device, fingerprint.preprocessing)
    fingerprint.require_same(EmbedderFingerprint.of(model, embedder, fingerprint.flip), str(gallery))
    point = load_operating_point(model, threshold, embedder.weights)
    decision = threshold_or_advice(model, point, threshold, fingerprint.flip, fingerprint.preprocessing)
    require_prior(prior, model, decision)
    index = Search(people, search, gallery, templates)
    _note_limits(index, templates if point is not None else "best")
    read = FaceReader(fingerprint.preprocessing.size, align, detector_model)
    check = quality_check(point, quality, min_quality, device)

    def matches_of(photograph: Photograph) -> list[_Found]:
        crops = [face.picture for face in photograph.faces]
        names = [str(photograph.path)] * len(crops)
        embeddings, qualities = embed_and_check(embedder, crops, fingerprint.flip, names, check)
        return [_Found(*each) for each in zip(index(embeddings, top), qualities, strict=True)]

    def evidence(match: Match) -> Evidence | None:
        one_picture = templates == "best" and people.pictures[match.name] == 1
        return evidence_of(match.similarity, decision, prior or 1 / (len(people.names) + 1)) if one_picture else None

    answers = _identify_all(
        pictures, read, matches_of, decision, evidence, most_drawn=0 if show is None else _MOST_DRAWN
    )
    if show is not None:
        from vplface.cli.faces_drawn import draw_identified

        draw_identified(show, answers.drawings, "" if decision is None else str(decision))
    if as_json:
        protocol = {
            "flip": fingerprint.flip,
            "align": align,
            "preprocessing": fingerprint.preprocessing.to_dict(),
            "search": index.engine,
            "templates": templates,
            "people": len(people.names),
            "enrolled": len(people),
        }
        head = {"schema": 1, "gallery": str(gallery), "model": str(model), "protocol": protocol}
        files = embedder.files | hashes([] if show is None else [show])
        print_json({**head, **threshold_report(decision), **answers.to_dict(), "files": files})
        return
    note = None if decision is None or templates != "best" else decision.false_match_note(len(people))
    for line in filter(None, (*answers.lines, decision, note, None if show is None else f"wrote {show}")):
        say(line)


def _note_limits(index: Search, templates: str) -> None:
    """Say on stderr that the index is not kept, or that a threshold of pairs of pictures does not suit templates."""
    if index.not_kept is not None:
        say(f"note: the index is rebuilt each time, because it could not be stored: {index.not_kept}", file=sys.stderr)
    if templates != "best":
        say(
            "note: the threshold was measured on pairs of pictures, and templates have other similarities: measure "
            f"one with vplface evaluate-identification --templates {templates}, and give it as --threshold",
            file=sys.stderr,
        )


@dataclass(frozen=True)
class _Found:
    """The most similar people for a face, the nearest first, and its quality; None if that is not checked."""

    matches: list[Match]
    quality: FaceQuality | None

    @property
    def too_poor(self) -> bool:
        """Whether the face is too poor to decide by."""
        return self.quality is not None and self.quality.too_poor


@dataclass
class _Answers:
    """Results for all pictures: lines to print, entries for ``--json``, drawings, and pictures without a result."""

    lines: list[str] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    drawings: list[tuple[Photograph, list[tuple[str, bool | None]]]] = field(default_factory=list)
    without_face: list[NoFaceError] = field(default_factory=list)
    unreadable: list[UnreadablePictureError] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The results as entries of the JSON object."""
        return {
            "pictures": self.reports,
            "without_face": [_reason(error) for error in self.without_face],
            "unreadable": [_reason(error) for error in self.unreadable],
        }


def _identify_all(
    pictures: Sequence[Path],
    read: Callable[[Path], Photograph],
    matches_of: Callable[[Photograph], list[_Found]],
    decision: Threshold | None,
    evidence: Callable[[Match], Evidence | None],
    most_drawn: int,
) -> _Answers:
    """Search for the faces of each picture; at most ``most_drawn`` photographs are kept, to be drawn.

    Raises:
        DataError: no picture can be read.
    """
    from vplface.data.pictures import UnreadablePictureError
    from vplface.deploy.faces import NoFaceError
    from vplface.progress import progress

    answers = _Answers()
    failures: list[NoFaceError | UnreadablePictureError] = []
    with progress("identifying", len(pictures)) as advance:
        for path in pictures:
            try:
                photograph = read(path)
            except (NoFaceError, UnreadablePictureError) as error:
                failures.append(error)
            else:
                faces = matches_of(photograph)
                answers.lines += _lines(photograph, faces, decision, evidence)
                answers.reports.append(_report(photograph, faces, decision, evidence))
                if len(answers.drawings) < most_drawn:
                    answers.drawings.append((photograph, [_label(found, decision) for found in faces]))
            advance(1)
    for failure in failures:
        say(failure, file=sys.stderr)
    answers.without_face = [failure for failure in failures if isinstance(failure, NoFaceError)]
    answers.unreadable = [failure for failure in failures if isinstance(failure, UnreadablePictureError)]
    if len(answers.unreadable) == len(pictures):
        raise DataError(f"none of the {len(pictures)} pictures can be read")
    return answers


def _reason(error: NoFaceError | UnreadablePictureError) -> dict[str, str]:
    return {"path": error.where, "reason": error.reason}


def _lines(
    photograph: Photograph,
    faces: list[_Found],
    threshold: Threshold | None,
    evidence: Callable[[Match], Evidence | None],
) -> list[str]:
    from vplface.deploy.faces import describe_box
    from vplface.deploy.quality import TOO_POOR

    lines = [f"{photograph.path}:"]
    for number, (box, found) in enumerate(zip(photograph.boxes, faces, strict=True), 1):
        if found.too_poor:
            lines.append(f"  {number}  {describe_box(box)}  {TOO_POOR}: {found.quality}")
            continue
        lines.append(f"  {number}  {describe_box(box)}  {_format_matches(found.matches, threshold)}")
        if (worth := evidence(found.matches[0])) is not None:
            lines.append(f"     {worth}")
    return lines


def _format_matches(matches: list[Match], threshold: Threshold | None) -> str:
    from vplface.deploy.decision import decide

    names = [f"{printable_name(match.name)} {match.similarity:.4f}" for match in matches]
    if decide(matches[0].similarity, threshold) is False:
        return f"unknown (nearest: {', '.join(names)})"
    known = sum(decide(match.similarity, threshold) is not False for match in matches)
    below = f" (below the threshold: {', '.join(names[known:])})" if names[known:] else ""
    return ", ".join(names[:known]) + below


def _label(found: _Found, threshold: Threshold | None) -> tuple[str, bool | None]:
    from vplface.deploy.decision import name_and_decision

    if found.too_poor:
        return "too poor", None
    name, known = name_and_decision(found.matches, threshold)
    return f"{printable_name(name, 60)} {found.matches[0].similarity:.2f}", known


def _report(
    photograph: Photograph,
    faces: list[_Found],
    threshold: Threshold | None,
    evidence: Callable[[Match], Evidence | None],
) -> dict[str, Any]:
    from vplface.deploy.decision import KNOWN, decide

    report = photograph_report(photograph)
    for face, found in zip(report["faces"], faces, strict=True):
        decision = None if found.too_poor else threshold
        known = decide(found.matches[0].similarity, decision)
        face["name"] = found.matches[0].name if known else None
        face["known"] = known
        face["decision"] = "too poor" if found.too_poor else KNOWN[known]
        face["quality"] = None if found.quality is None else found.quality.to_json()
        worth = None if found.too_poor else evidence(found.matches[0])
        face["evidence"] = None if worth is None else worth.to_json()
        face["matches"] = [{**vars(match), "known": decide(match.similarity, decision)} for match in found.matches]
    return report
