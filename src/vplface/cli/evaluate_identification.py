"""``vplface evaluate-identification``: a search for probes in a gallery with up to a million distractors."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from vplface import bounds
from vplface.arrays import ARRAYS_LIMIT, parse_array, parse_arrays
from vplface.cli.evaluation_output import OUT, REPORT, require_endings, write_outputs
from vplface.cli.options import AS_JSON, DEVICE, FLIP, WORKERS, parse_rates
from vplface.cli.preprocessing import COLOR, MEAN, STD, preprocessing_of
from vplface.cli.rate_tables import show_rates
from vplface.cli.template_tables import compared_templates, show_templates
from vplface.console import print_json, say
from vplface.errors import DataError, UsageError
from vplface.reading import is_folder, read_bytes
from vplface.suggest import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from vplface.data.pictures import PictureSet, Preprocessing
    from vplface.embedder import Flip
    from vplface.evaluation import Evaluation
    from vplface.evaluation.identification import IdentificationOptions, TemplateKind


def evaluate_identification(
    model: Annotated[
        Path,
        typer.Argument(
            help="The model: a run's folder, RUN/best, or an .onnx file. Or existing embeddings: an .npz file with the "
            "arrays gallery, probes and distractors, or an .npy file of one array that holds these one after another, "
            "with a row for each picture in the order of the sets.",
            show_default=False,
        ),
    ],
    gallery: Annotated[Path, typer.Option(help="Pictures of known people, DATA/IDENTITY/PICTURE.", show_default=False)],
    probes: Annotated[
        Path,
        typer.Option(
            help="Pictures to be recognised. People are matched by name. May be the gallery itself: pictures are then "
            "not compared with themselves.",
            show_default=False,
        ),
    ],
    distractors: Annotated[
        Path | None,
        typer.Option(
            help="Pictures of people not among the probes, or an .npy file of their embeddings.", show_default=False
        ),
    ] = None,
    mates: Annotated[
        Literal["best", "each"],
        typer.Option(
            help="best: a probe counts once, by its most similar mate, against all other people (TinyFace). each: "
            "every mate of it counts, against the distractors alone (MegaFace)."
        ),
    ] = "best",
    templates: Annotated[
        str | None,
        typer.Option(
            help="Compare ways to use several pictures of a person: best (the nearest picture), mean, weighted (by the "
            "norms of the embeddings), with commas. Rank-k and TPIR at FPIR with their differences from the first one.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        bool,
        typer.Option(
            "--split",
            help="Where gallery and probes are one set: enrol half of the people with half of their pictures; all "
            "other pictures are probes.",
        ),
    ] = False,
    ranks: Annotated[str, typer.Option(help="Ranks up to 100, with commas.")] = "1,5,10",
    fars: Annotated[str, typer.Option(help="False accept rates over all comparisons, with commas.")] = "1e-4,1e-5,1e-6",
    fpirs: Annotated[
        str,
        typer.Option(help="False positive identification rates, with commas, where some probes have no mate."),
    ] = "1e-1,1e-2",
    far_rule: Annotated[
        Literal["strict", "nearest"],
        typer.Option(help="strict: the actual false accept rate is at most the requested one. nearest: the nearest."),
    ] = "strict",
    flip: FLIP = "sum",
    engine: Annotated[
        Literal["exact", "faiss"],
        typer.Option(
            "--search", help="The search library; both are exact. faiss needs the extra faiss and copies the gallery."
        ),
    ] = "exact",
    bootstrap: Annotated[
        int, typer.Option(min=0, max=bounds.REPEATS, help="Resamples of the people for the 95 % intervals; 0 for none.")
    ] = 500,
    color: COLOR = None,
    mean: MEAN = None,
    std: STD = None,
    device: DEVICE = "cpu",
    workers: WORKERS = 0,
    out: OUT = None,
    report: REPORT = None,
    as_json: AS_JSON = False,
) -> None:
    """Measure how well a model finds people in a gallery: rank-k, open set, and TAR at low FAR, with 95 % intervals.

    vplface evaluate-identification runs/mine/best --gallery known --probes visitors --distractors crowd
    vplface evaluate-identification runs/mine/best --gallery faces --probes faces --split --templates best,mean,weighted
    """
    rank_list = _parse_ranks(ranks)
    far_list, fpir_list = parse_rates("--fars", fars), parse_rates("--fpirs", fpirs)
    require_endings(out, report)
    if mates == "each" and distractors is None:
        raise UsageError("--mates each ranks every mate among the distractors: give --distractors")
    from vplface.data.formats import open_pictures  # torch and opencv take seconds to import
    from vplface.evaluation.embeddings_file import TYPES
    from vplface.evaluation.identification import IdentificationOptions

    one_set = os.path.realpath(probes) == os.path.realpath(gallery)
    kinds = _parse_templates(templates, mates, one_set and not split)
    if split and not one_set:
        raise UsageError("--split divides one set: give the same --gallery and --probes, or leave it out")
    sets: dict[str, PictureSet] = {"gallery": open_pictures(gallery)}
    if not one_set:
        sets["probes"] = open_pictures(probes)
    distractor_file = distractors if distractors is not None and distractors.suffix == ".npy" else None
    if distractors is not None and distractor_file is None:
        sets["distractors"] = open_pictures(distractors)
    if model.suffix in TYPES and not is_folder(model):
        embedded = _read_embeddings(model, sets)
    else:
        embedded = _embed(model, sets, device, preprocessing_of(color, mean, std), flip, workers, unit=not kinds)
    arrays, files = embedded.arrays, embedded.files
    if distractor_file is not None:
        content = read_bytes(distractor_file, ARRAYS_LIMIT)
        arrays["distractors"] = _parse_embeddings(distractor_file, content)
        files[str(distractor_file)] = _sha256(content)
    options = IdentificationOptions(mates, rank_list, far_list, fpir_list, far_rule, engine, bootstrap)
    evaluations = _evaluate(sets, arrays, kinds, split, options)
    evaluation = next(iter(evaluations.values()))
    values: dict[str, Any] = {
        "schema": 1,
        "model": str(model),
        "data": {"gallery": str(gallery), "probes": str(probes), "distractors": distractors and str(distractors)},
        "protocol": {"name": evaluation.name, **evaluation.protocol, **embedded.protocol},
        "metrics": evaluation.metrics_json(),
        "files": files,
    }
    if kinds:
        values |= compared_templates(evaluations)
    titled = {f"{evaluation.name}{', ' + title if title else ''}": each for title, each in evaluations.items()}
    written = write_outputs(out, report, model, values, titled, list(sets.values()))
    if as_json:
        print_json(values)
        return
    if kinds:
        show_templates(evaluations, values["differences"])
    show_rates({} if kinds else titled, embedded.protocol, files)
    for path in written:
        say(f"wrote {path}")


def _parse_templates(text: str | None, mates: str, compares_with_itself: bool) -> list[TemplateKind]:
    from vplface.evaluation.identification import TemplateKind

    if text is None:
        return []
    known, kinds = get_args(TemplateKind), [part.strip() for part in text.split(",")]
    for kind in kinds:
        if kind not in known:
            raise UsageError(
                f"--templates takes {', '.join(known)}, with commas, got {kind!r}{did_you_mean(kind, known)}"
            )
    if len(set(kinds)) != len(kinds):
        raise UsageError(f"--templates {text}: names one twice")
    if mates == "each":
        raise UsageError("--templates makes one similarity of the pictures of a person, --mates each counts every one")
    if compares_with_itself:
        raise UsageError(
            "--templates: gallery and probes are one set, so that a picture would be in the template that it is "
            "compared with; add --split, or give other probes"
        )
    return cast("list[TemplateKind]", kinds)


def _evaluate(
    sets: Mapping[str, PictureSet],
    arrays: Mapping[str, Float[np.ndarray, "n dim"]],
    kinds: list[TemplateKind],
    split: bool,
    options: IdentificationOptions,
) -> dict[str, Evaluation]:
    """The evaluation, or one for each kind of template by its title."""
    import numpy as np

    from vplface.evaluation.identification import (
        LabelledEmbeddings,
        evaluate_identification,
        evaluate_templates,
        split_people,
    )

    labelled = {
        name: LabelledEmbeddings(
            arrays[name],
            [pictures.identities[label] for label in pictures.labels],
            [pictures.name(index) for index in range(len(pictures))],
        )
        for name, pictures in sets.items()
        if name != "distractors"
    }
    gallery = labelled["gallery"]
    probes = labelled.get("probes", gallery)
    if split:
        gallery, probes = split_people(gallery)
    if not kinds:
        return {"": evaluate_identification(probes, gallery, arrays.get("distractors"), options)}
    norms = np.linalg.norm(gallery.embeddings, axis=1)
    if "weighted" in kinds and np.ptp(norms) <= 1e-4 * norms.max():
        say(
            "note: all embeddings have the same norm, so that weighted is the mean. Files of vplface embed, for "
            "example, hold embeddings of unit norm; give the model",
            file=sys.stderr,
        )
    found = evaluate_templates(probes, gallery, arrays.get("distractors"), kinds, options)
    return {f"{kind} templates": evaluation for kind, evaluation in found.items()}


@dataclass(frozen=True)
class _Embedded:
    """Embeddings of the sets of pictures.

    Attributes:
        arrays: by the name of the set.
        protocol: source, flip and preprocessing of the embeddings.
        files: SHA-256 of the files of the model or of the embeddings.
    """

    arrays: dict[str, Float[np.ndarray, "n dim"]]
    protocol: dict[str, Any]
    files: dict[str, str]


def _embed(
    model: Path,
    sets: Mapping[str, PictureSet],
    device: str,
    preprocessing: Preprocessing | None,
    flip: Flip,
    workers: int,
    unit: bool,
) -> _Embedded:
    from vplface.embedder import Embedder

    embedder = Embedder.load(model, device, preprocessing)
    prepared = embedder.card.preprocessing.to_dict()
    arrays = {
        name: embedder.embed_set(pictures, flip=flip, workers=workers, description=f"embedding the {name}", unit=unit)
        for name, pictures in sets.items()
    }
    protocol = {"embeddings": "of this model", "flip": flip, "preprocessing": prepared}
    return _Embedded(dict(arrays), protocol, dict(embedder.files))


def _read_embeddings(path: Path, sets: Mapping[str, PictureSet]) -> _Embedded:
    """The embeddings of each set, from arrays of an .npz file or from one array with the sets one after another."""
    content = read_bytes(path, ARRAYS_LIMIT)
    sizes = {name: len(sets[name]) for name in ("gallery", "probes", "distractors") if name in sets}
    if path.suffix == ".npz":
        arrays = {name: _parse_embeddings(path, content, name, rows) for name, rows in sizes.items()}
    else:
        parts = " + ".join(f"{rows} {name}" for name, rows in sizes.items())
        whole = _parse_embeddings(path, content, None, sum(sizes.values()), parts)
        arrays, first = {}, 0
        for name, rows in sizes.items():
            arrays[name] = whole[first : first + rows]
            first += rows
    protocol = {"embeddings": "from a file", "flip": None, "preprocessing": None}
    return _Embedded(arrays, protocol, {str(path): _sha256(content)})


def _parse_ranks(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,3}", part) and 1 <= int(part) <= 100 for part in parts):
        raise UsageError(f"--ranks takes whole numbers from 1 to 100 with commas between them, got {text!r}")
    return [int(part) for part in parts]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _parse_embeddings(
    path: Path, content: bytes, key: str | None = None, rows: int | None = None, parts: str = ""
) -> Float[np.ndarray, "n dim"]:
    """An array of embeddings in the content of a file.

    Args:
        path: of the file.
        content: of the file.
        key: name of the array in an .npz file; None for an .npy file.
        rows: the number of embeddings that the array must have.
        parts: the composition of this number, for the error message.

    Raises:
        DataError: the file does not hold such an array.
    """
    import numpy as np

    array: Float[np.ndarray, "n dim"]
    array = parse_array(content, path) if key is None else parse_arrays(content, path, [key])[key]
    if array.ndim != 2 or not array.size or not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"{path}: embeddings must be an array [n, dim] of floating-point numbers, "
            f"got {array.dtype} {list(array.shape)}"
        )
    if rows is not None and len(array) != rows:
        owner = f"{key} has" if key else "the sets have"
        raise DataError(f"{path}: {len(array)} embeddings where {owner} {rows} pictures{parts and f' ({parts})'}")
    return array
