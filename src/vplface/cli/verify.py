"""``vplface verify``: a comparison of the faces in two pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vplface.cli.faces import (
    ALIGN,
    DETECTOR_MODEL,
    FLIP_OF_POINT,
    SHOW,
    THRESHOLD,
    load_embedder,
    photograph_report,
    require_drawing,
    require_prior,
    threshold_or_advice,
    threshold_report,
)
from vplface.cli.options import AS_JSON, DEVICE
from vplface.cli.preprocessing import COLOR, MEAN, STD, preprocessing_of
from vplface.cli.quality_gate import GATE_SCORE, MIN_QUALITY, quality_check
from vplface.console import print_json, say
from vplface.errors import UsageError

if TYPE_CHECKING:
    from vplface.deploy.faces import Photograph
    from vplface.deploy.quality import FaceQuality


def verify(
    model: Annotated[
        Path, typer.Argument(help="The model: a run's folder, RUN/best, or an .onnx file.", show_default=False)
    ],
    first: Annotated[
        Path, typer.Argument(help="A photograph, or an aligned face of 112×112.", show_default=False, metavar="A")
    ],
    second: Annotated[Path, typer.Argument(help="Another.", show_default=False, metavar="B")],
    face: Annotated[
        str,
        typer.Option(
            metavar="M,N",
            help="Which face of A and which of B, where they show several: 1 is the largest.",
        ),
    ] = "1,1",
    threshold: THRESHOLD = None,
    prior: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="The probability of one person before the pictures are seen. The probability after is printed where "
            "the operating point has a calibration (vplface evaluate --calibrate).",
            show_default="0.5",
        ),
    ] = None,
    quality: GATE_SCORE = None,
    min_quality: MIN_QUALITY = None,
    align: ALIGN = "auto",
    detector_model: DETECTOR_MODEL = None,
    flip: FLIP_OF_POINT = None,
    show: SHOW = None,
    color: COLOR = None,
    mean: MEAN = None,
    std: STD = None,
    device: DEVICE = "cpu",
    as_json: AS_JSON = False,
) -> None:
    """Measure how similar the faces in two pictures are, and decide whether they are of one person.

    The similarity is the cosine of their embeddings. The threshold is the
    operating point stored with the model, and its FAR is how often
    strangers pass it; vplface evaluate --save-operating-point makes one.
    Without it and without --threshold, no decision is made. Where it has a
    calibration, the probability of one person is given, too. A face below
    the least quality (--min-quality) is too poor to decide.

    Exit status: 0 for any answer, 1 if a file cannot be read
    or shows no face.

    Example:  vplface verify runs/lfw/best a.jpg b.jpg --show pair.png
    """
    require_drawing(show)
    numbers = _face_numbers(face)
    from vplface.deploy.decision import (  # torch takes seconds to import
        DECISION,
        VERDICT,
        decide,
        load_operating_point,
        resolve_flip,
    )
    from vplface.deploy.evidence import evidence_of
    from vplface.deploy.faces import FaceReader
    from vplface.deploy.quality import TOO_POOR, embed_and_check
    from vplface.evaluation.provenance import hashes

    embedder = load_embedder(model, device, preprocessing_of(color, mean, std))
    preprocessing = embedder.card.preprocessing
    point = load_operating_point(model, threshold, embedder.weights)
    flip = resolve_flip(point, flip)
    read = FaceReader(preprocessing.size, align, detector_model)
    photographs, names = [read(path) for path in (first, second)], [str(first), str(second)]
    faces = [photograph.face(number) for photograph, number in zip(photographs, numbers, strict=True)]
    check = quality_check(point, quality, min_quality, device)
    crops = [face.picture for face in faces]
    (a, b), qualities = embed_and_check(embedder, crops, flip, names, check)
    similarity = float(a @ b)
    poor = [name for name, each in zip(names, qualities, strict=True) if each is not None and each.too_poor]
    decision = threshold_or_advice(model, point, threshold, flip, preprocessing)
    require_prior(prior, model, decision)
    same = None if poor else decide(similarity, decision)
    evidence = None if poor else evidence_of(similarity, decision, prior or 0.5)

    _note_several_faces(photographs, numbers)
    verdict = TOO_POOR if poor else VERDICT[same]
    if show is not None:
        from vplface.cli.faces_drawn import draw_pair

        draw_pair(show, photographs, faces, f"similarity {similarity:.4f}: {verdict}", str(decision or ""))
    if as_json:
        print_json(
            {
                "schema": 1,
                "model": str(model),
                "protocol": {"flip": flip, "align": align, "preprocessing": preprocessing.to_dict()},
                "pictures": _pictures(photographs, numbers, qualities),
                "similarity": similarity,
                "same": same,
                "decision": "too poor" if poor else DECISION[same],
                "evidence": None if evidence is None else evidence.to_json(),
                **threshold_report(decision),
                "files": embedder.files | hashes([] if show is None else [show]),
            }
        )
        return
    lines = [f"similarity {similarity:.4f}: {verdict}", *_described(names, qualities), evidence, decision]
    for line in filter(None, (*lines, None if show is None else f"wrote {show}")):
        say(line)


def _pictures(
    photographs: Sequence[Photograph], numbers: Sequence[int], qualities: Sequence[FaceQuality | None]
) -> list[dict[str, Any]]:
    """The two pictures for ``--json``."""
    return [
        photograph_report(photograph) | {"taken": number, "quality": None if quality is None else quality.to_json()}
        for photograph, number, quality in zip(photographs, numbers, qualities, strict=True)
    ]


def _described(names: Sequence[str], qualities: Sequence[FaceQuality | None]) -> list[str]:
    """A line on the quality of each picture, where it was checked."""
    return [
        f"{name}: {quality}{': too poor' if quality.too_poor else ''}"
        for name, quality in zip(names, qualities, strict=True)
        if quality is not None
    ]


def _note_several_faces(photographs: Sequence[Photograph], numbers: Sequence[int]) -> None:
    from vplface.deploy.faces import describe_boxes

    for photograph, number in zip(photographs, numbers, strict=True):
        if len(photograph.faces) > 1:
            say(
                f"note: {photograph.path} shows {len(photograph.faces)} faces{describe_boxes(photograph.boxes)}; "
                f"used: {number}; choose another with --face",
                file=sys.stderr,
            )


def _face_numbers(text: str) -> tuple[int, int]:
    try:
        m, n = map(int, text.split(","))
    except ValueError:
        m = n = 0
    if m < 1 or n < 1:
        raise UsageError(f"--face {text}: expected the numbers of two faces, 1 for the largest, e.g. --face 2,1")
    return m, n
