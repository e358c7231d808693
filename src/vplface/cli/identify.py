"""``vplface identify``: who of a gallery is in a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vplface import bounds
from vplface.cli.faces import (
    ALIGN,
    DETECTOR_MODEL,
    SHOW,
    THRESHOLD,
    photograph_report,
    require_drawing,
    threshold_report,
    threshold_told,
)
from vplface.cli.options import AS_JSON, DEVICE
from vplface.console import print_json, say
from vplface.errors import DataError
from vplface.printable import printable_name
from vplface.reading import kind_of

if TYPE_CHECKING:
    from vplface.data.pictures import UnreadablePictureError
    from vplface.deploy.decision import Threshold
    from vplface.deploy.faces import NoFaceError, Photograph
    from vplface.deploy.gallery import EmbedderFingerprint, Match

_MOST_DRAWN = 24


def identify(
    gallery: Annotated[
        Path, typer.Argument(help="The gallery, a folder that vplface enroll has made.", show_default=False)
    ],
    pictures: Annotated[
        list[Path],
        typer.Argument(help="Photographs, with any number of faces, or aligned faces.", show_default=False),
    ],
    top: Annotated[int, typer.Option(min=1, max=bounds.LARGEST, help="How many names to give for each face.")] = 3,
    threshold: THRESHOLD = None,
    search: Annotated[
        Literal["auto", "exact", "faiss"],
        typer.Option(
            help="exact: compare with every enrolled picture. faiss: by short codes first, for large galleries (extra "
            "faiss). auto: exact below 100,000 pictures."
        ),
    ] = "auto",
    align: ALIGN = "auto",
    detector_model: DETECTOR_MODEL = None,
    model: Annotated[
        Path | None,
        typer.Option(help="The gallery's model, if it is not where it was.", show_default=False),
    ] = None,
    show: SHOW = None,
    device: DEVICE = "cpu",
    as_json: AS_JSON = False,
) -> None:
    """Find out who of a gallery the faces in pictures are.

    For each face the most similar people are given. A person's similarity
    is the highest cosine with one of the enrolled pictures. Below the
    threshold a face is unknown: that is the operating point that is kept
    with the model, or --threshold; without one nothing is decided.

    Its FAR is that of one comparison. Among many enrolled people a stranger
    resembles somebody more often.

    Example:  vplface identify people party.jpg --show party.png
    """
    require_drawing(show)
    from vplface.data.pictures import UnreadablePictureError  # torch and opencv take seconds to import
    from vplface.deploy.decision import load_operating_point
    from vplface.deploy.faces import FaceReader, NoFaceError
    from vplface.deploy.gallery import EmbedderFingerprint
    from vplface.deploy.gallery_folder import load_gallery
    from vplface.deploy.gallery_search import Search
    from vplface.embedder import Embedder
    from vplface.evaluation.provenance import hashes
    from vplface.progress import progress

    people = load_gallery(gallery)
    fingerprint = people.fingerprint
    model = model_of(fingerprint, model)
    embedder = Embedder.load(model, device, fingerprint.preprocessing)
    fingerprint.require_same(EmbedderFingerprint.of(model, embedder, fingerprint.flip), str(gallery))
    decided = threshold_told(
        model,
        load_operating_point(model, threshold, embedder.weights),
        threshold,
        fingerprint.flip,
        fingerprint.preprocessing,
    )
    find = Search(people, search, gallery)
    if find.not_kept is not None:
        say(f"note: the index is rebuilt each time, because it could not be stored: {find.not_kept}", file=sys.stderr)
    read = FaceReader(fingerprint.preprocessing.size, align, detector_model)
    told: list[str] = []
    reports: list[dict[str, Any]] = []
    drawn: list[tuple[Photograph, list[tuple[str, bool | None]]]] = []
    without: list[NoFaceError | UnreadablePictureError] = []
    with progress("identifying", len(pictures)) as advance:
        for path in pictures:
            try:
                photograph = read(path)
            except (NoFaceError, UnreadablePictureError) as error:
                without.append(error)
            else:
                crops = [face.picture for face in photograph.faces]
                found = find(embedder(crops, fingerprint.flip, names=[str(path)] * len(crops)), top)
                told += _lines(photograph, found, decided)
                reports.append(_report(photograph, found, decided))
                if show is not None and len(drawn) < _MOST_DRAWN:
                    drawn.append((photograph, [_label(matches, decided) for matches in found]))
            advance(1)
    for reason in without:
        say(reason, file=sys.stderr)
    if not reports and not any(isinstance(reason, NoFaceError) for reason in without):
        raise DataError(f"none of the {len(pictures)} pictures can be read")
    if show is not None:
        from vplface.cli.faces_drawn import draw_identified

        draw_identified(show, drawn, "" if decided is None else str(decided))
    if as_json:
        print_json(
            {
                "schema": 1,
                "gallery": str(gallery),
                "model": str(model),
                "protocol": {
                    "flip": fingerprint.flip, "align": align, "preprocessing": fingerprint.preprocessing.to_dict(),
                    "search": find.engine, "people": len(people.names), "enrolled": len(people),
                },
                **threshold_report(decided),
                "pictures": reports,
                "without_face": [_reason(each) for each in without if isinstance(each, NoFaceError)],
                "unreadable": [_reason(each) for each in without if isinstance(each, UnreadablePictureError)],
                "files": embedder.files | hashes([] if show is None else [show]),
            }
        )  # fmt: skip
        return
    for line in told:
        say(line)
    if decided is not None:
        say(decided)
        if (false_match_note := decided.false_match_note(len(people))) is not None:
            say(false_match_note)
    if show is not None:
        say(f"wrote {show}")


def model_of(fingerprint: EmbedderFingerprint, asked: Path | None) -> Path:
    """Where a gallery's model is; raises DataError if it is gone."""
    model = Path(fingerprint.model) if asked is None else asked
    if kind_of(model) is None:
        raise DataError(
            f"{model}: the gallery's model is not there"
            + (" any more; say where with --model" if asked is None else "")
        )
    return model


def _reason(error: NoFaceError | UnreadablePictureError) -> dict[str, str]:
    return {"path": error.where, "reason": error.reason}


def _lines(photograph: Photograph, faces: list[list[Match]], threshold: Threshold | None) -> list[str]:
    from vplface.deploy.faces import describe_box

    numbered = enumerate(zip(photograph.boxes, faces, strict=True), 1)
    lines = [f"  {number}  {describe_box(box)}  {_told(matches, threshold)}" for number, (box, matches) in numbered]
    return [f"{photograph.path}:", *lines]


def _told(matches: list[Match], threshold: Threshold | None) -> str:
    from vplface.deploy.decision import decide

    names = [f"{printable_name(match.name)} {match.similarity:.4f}" for match in matches]
    if decide(matches[0].similarity, threshold) is False:
        return f"unknown (nearest: {', '.join(names)})"
    known = sum(decide(match.similarity, threshold) is not False for match in matches)
    below = f" (below the threshold: {', '.join(names[known:])})" if names[known:] else ""
    return ", ".join(names[:known]) + below


def _label(matches: list[Match], threshold: Threshold | None) -> tuple[str, bool | None]:
    from vplface.deploy.decision import name_and_decision

    name, known = name_and_decision(matches, threshold)
    return f"{printable_name(name, 60)} {matches[0].similarity:.2f}", known


def _report(photograph: Photograph, faces: list[list[Match]], threshold: Threshold | None) -> dict[str, Any]:
    from vplface.deploy.decision import decide

    report = photograph_report(photograph)
    for face, matches in zip(report["faces"], faces, strict=True):
        known = decide(matches[0].similarity, threshold)
        face["name"] = matches[0].name if known else None
        face["known"] = known
        face["matches"] = [{**vars(match), "known": decide(match.similarity, threshold)} for match in matches]
    return report
