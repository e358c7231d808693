"""``vplface evaluate-ijb``: verification and identification of templates on IJB-B and IJB-C."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vplface import bounds
from vplface.cli.evaluation_output import OUT, REPORT, require_endings, write_outputs
from vplface.cli.options import AS_JSON, DEVICE, WORKERS, parse_rates
from vplface.cli.preprocessing import COLOR, MEAN, STD, preprocessing_of
from vplface.cli.rate_tables import show_rates
from vplface.console import print_json, say
from vplface.errors import UsageError
from vplface.reading import is_folder

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from vplface.data.ijb import IJB, Faces, Landmarks
    from vplface.data.pictures import PictureSet, Preprocessing
    from vplface.evaluation.templates import Flags


def evaluate_ijb(
    model: Annotated[
        Path,
        typer.Argument(
            help="The model: a run's folder, RUN/best, or an .onnx file. Or existing embeddings: an .npy "
            "or .npz file, a row for each picture in the order of the set's face_tid_mid.txt.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of the set: loose_crop/ with the pictures (not needed for embeddings), and ijbc_*.txt and "
            "ijbc_*.csv beside it or in meta/.",
            show_default=False,
        ),
    ],
    set_name: Annotated[Literal["ijbb", "ijbc"], typer.Option("--set", help="Which set it is.")] = "ijbc",
    flags: Annotated[
        str,
        typer.Option(
            help="Weights of the faces of a template. N1: by the norm of their embeddings, D1: by the detector's "
            "score, F1: the embedding of the mirrored picture is added; 0: not. For embeddings from a file, F states "
            "how they were computed."
        ),
    ] = "N1D1F1",
    fars: Annotated[
        str, typer.Option(help="False accept rates to give the true accept rate at, with commas.")
    ] = "1e-1,1e-2,1e-3,1e-4,1e-5,1e-6",
    far_rule: Annotated[
        Literal["strict", "nearest"],
        typer.Option(
            help="strict: the actual false accept rate is at most the requested one. nearest: it is the nearest one, "
            "which may exceed it (insightface's rule)."
        ),
    ] = "strict",
    one_to_many: Annotated[
        bool, typer.Option("--one-to-many", help="Also search the probes in the two galleries (1:N).")
    ] = False,
    fpirs: Annotated[
        str,
        typer.Option(help="With --one-to-many: false positive identification rates, with commas."),
    ] = "1e-1,1e-2",
    bootstrap: Annotated[
        int, typer.Option(min=0, max=bounds.REPEATS, help="Resamples of the people for the 95 % intervals; 0 for none.")
    ] = 100,
    color: COLOR = None,
    mean: MEAN = None,
    std: STD = None,
    device: DEVICE = "cpu",
    workers: WORKERS = 0,
    out: OUT = None,
    report: REPORT = None,
    as_json: AS_JSON = False,
) -> None:
    """Measure a model on IJB-B or IJB-C: TAR at FAR of templates, and identification, with 95 % intervals.

    The flags are part of the result: the same model differs by half a percent between them.

    Example:  vplface evaluate-ijb runs/mine/best --data IJBC --set ijbc --one-to-many --workers 2
    """
    far_list, fpir_list = parse_rates("--fars", fars), parse_rates("--fpirs", fpirs)
    require_endings(out, report)
    from vplface.data.ijb import IJB  # torch and opencv take seconds to import
    from vplface.evaluation.embeddings_file import TYPES
    from vplface.evaluation.provenance import hashes
    from vplface.evaluation.templates import Flags, evaluate_one_to_many, evaluate_template_pairs, pool

    try:
        weighting = Flags.parse(flags)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    ijb = IJB(data, set_name)
    faces = ijb.faces()
    pairs = ijb.pairs()
    galleries, probes = (ijb.galleries(), ijb.probes()) if one_to_many else ({}, None)
    stored = model.suffix in TYPES and not is_folder(model)
    landmarks = ijb.landmarks(faces.pictures) if weighting.detector or not stored else None
    set_hashes = hashes(ijb.used)  # before pictures are embedded, which may take hours
    if stored:
        embedded = _read_embeddings(model, ijb, faces)
    else:
        assert landmarks is not None
        preprocessing = preprocessing_of(color, mean, std)
        embedded = _embed(model, ijb, faces, landmarks, weighting, device, preprocessing, workers)
    scores = landmarks.score if weighting.detector and landmarks is not None else None
    templates = pool(embedded.embeddings, faces, norm=weighting.norm, scores=scores)
    if weighting.norm and templates.equal_norms:
        say(
            "note: all embeddings have the same norm, so N1 has no effect: the figures are those of N0. Files of "
            "vplface embed, for example, hold embeddings of unit norm",
            file=sys.stderr,
        )
    evaluations = [
        evaluate_template_pairs(templates, pairs, weighting, fars=far_list, far_rule=far_rule, bootstrap=bootstrap)
    ]
    if probes is not None:
        evaluations.append(
            evaluate_one_to_many(templates, galleries, probes, weighting, fpirs=fpir_list, bootstrap=bootstrap)
        )
    protocols = {evaluation.name: dict(evaluation.protocol) for evaluation in evaluations}
    files = {**embedded.files, **set_hashes}
    values = {
        "schema": 1,
        "model": str(model),
        "data": str(data),
        "protocol": {"name": set_name, "flags": str(weighting), **embedded.protocol, **protocols},
        "metrics": {name: figure for evaluation in evaluations for name, figure in evaluation.metrics_json().items()},
        "files": files,
    }
    titled = {f"{set_name} {evaluation.name}, {weighting}": evaluation for evaluation in evaluations}
    written = write_outputs(out, report, model, values, titled, embedded.sets)
    if as_json:
        print_json(values)
        return
    show_rates(titled, embedded.protocol, files)
    for path in written:
        say(f"wrote {path}")


@dataclass(frozen=True)
class _Embedded:
    """Embeddings of the faces of a set.

    Attributes:
        embeddings: a row for each face.
        protocol: source of the embeddings and preprocessing of the pictures.
        files: SHA-256 of the files of the model or of the embeddings.
        sets: the pictures, empty where the embeddings were read from a file.
    """

    embeddings: Float[np.ndarray, "n dim"]
    protocol: Mapping[str, Any]
    files: Mapping[str, str]
    sets: Sequence[PictureSet] = ()


def _read_embeddings(path: Path, ijb: IJB, faces: Faces) -> _Embedded:
    from vplface.data.ijb import LooseFaces
    from vplface.evaluation.embeddings_file import EmbeddingsFile

    stored = EmbeddingsFile.read(path)
    protocol = {"embeddings": "from a file", "preprocessing": None}
    return _Embedded(stored.of(LooseFaces(ijb.folder, faces.pictures)), protocol, stored.files)


def _embed(
    model: Path,
    ijb: IJB,
    faces: Faces,
    landmarks: Landmarks,
    flags: Flags,
    device: str,
    preprocessing: Preprocessing | None,
    workers: int,
) -> _Embedded:
    from vplface.embedder import Embedder

    embedder = Embedder.load(model, device, preprocessing)
    pictures = ijb.aligned(faces.pictures, landmarks)
    embeddings = embedder.embed_set(
        pictures,
        flip="sum" if flags.flip else "none",
        workers=workers,
        description=f"embedding {ijb.name}",
        unit=False,
    )
    protocol = {"embeddings": "of this model", "preprocessing": embedder.card.preprocessing.to_dict()}
    return _Embedded(embeddings, protocol, embedder.files, [pictures])
