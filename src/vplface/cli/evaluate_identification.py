"""``vplface evaluate-identification``: probes, a gallery, and up to a million distractors."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vplface import bounds
from vplface.arrays import ARRAYS_LIMIT, parse_array, parse_arrays
from vplface.cli.evaluate_templates import rates, show
from vplface.cli.evaluation_output import OUT, REPORT, leave, require_endings
from vplface.cli.options import AS_JSON, DEVICE, FLIP, WORKERS
from vplface.cli.preprocessing import COLOR, MEAN, STD, preprocessing_of
from vplface.console import print_json, say
from vplface.errors import DataError, UsageError
from vplface.reading import is_folder, read_bytes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from vplface.data.pictures import PictureSet


def evaluate_identification(
    model: Annotated[
        Path,
        typer.Argument(
            help="The model: a run's folder, RUN/best, or an .onnx file. Or embeddings that are there already: an .npz "
            "file with the arrays gallery, probes and distractors, or an .npy file of one array with these below each "
            "other, a row for each picture in the order of the sets.",
            show_default=False,
        ),
    ],
    gallery: Annotated[
        Path, typer.Option(help="Pictures of people that are known, DATA/IDENTITY/PICTURE.", show_default=False)
    ],
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
            help="Pictures of nobody among the probes, or an .npy file of their embeddings.", show_default=False
        ),
    ] = None,
    mates: Annotated[
        Literal["best", "each"],
        typer.Option(
            help="best: a probe counts once, by its most similar mate, against all other people (TinyFace). each: "
            "every mate of it counts, against the distractors alone (MegaFace)."
        ),
    ] = "best",
    ranks: Annotated[str, typer.Option(help="Ranks up to 100, with commas.")] = "1,5,10",
    fars: Annotated[str, typer.Option(help="False accept rates over all comparisons, with commas.")] = "1e-4,1e-5,1e-6",
    fpirs: Annotated[
        str,
        typer.Option(help="False positive identification rates, with commas, where some probes have no mate."),
    ] = "1e-1,1e-2",
    far_rule: Annotated[
        Literal["strict", "nearest"],
        typer.Option(help="strict: the false accept rate reached is at most the one asked for. nearest: the nearest."),
    ] = "strict",
    flip: FLIP = "sum",
    engine: Annotated[
        Literal["exact", "faiss"],
        typer.Option(
            "--search", help="What searches; both are exact. faiss needs the extra faiss and copies the gallery."
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

    Example:  vplface evaluate-identification runs/mine/best --gallery known --probes visitors --distractors crowd
    """
    rank_list = _ranks(ranks)
    far_list, fpir_list = rates("--fars", fars), rates("--fpirs", fpirs)
    require_endings(out, report)
    if mates == "each" and distractors is None:
        raise UsageError("--mates each ranks every mate among the distractors: give --distractors")
    from vplface.data.formats import open_pictures  # torch and opencv take seconds to import
    from vplface.embedder import Embedder
    from vplface.evaluation.embeddings_file import TYPES
    from vplface.evaluation.identification import IdentificationOptions, LabelledEmbeddings
    from vplface.evaluation.identification import evaluate_identification as identify

    sets: dict[str, PictureSet] = {"gallery": open_pictures(gallery)}
    if os.path.realpath(probes) != os.path.realpath(gallery):
        sets["probes"] = open_pictures(probes)
    others = distractors if distractors is not None and distractors.suffix == ".npy" else None
    if distractors is not None and others is None:
        sets["distractors"] = open_pictures(distractors)
    preprocessing = None
    ready = model.suffix in TYPES and not is_folder(model)
    if ready:
        arrays, files = _read(model, {name: len(pictures) for name, pictures in sets.items()})
    else:
        embedder = Embedder.load(model, device, preprocessing_of(color, mean, std))
        preprocessing, files = embedder.card.preprocessing.to_dict(), embedder.files
        arrays = {
            name: embedder.embed_set(pictures, flip=flip, workers=workers, description=f"embedding the {name}")
            for name, pictures in sets.items()
        }
    if others is not None:
        data = read_bytes(others, ARRAYS_LIMIT)
        arrays["distractors"] = _array(others, data)
        files = {**files, str(others): _digest(data)}

    sides = {
        name: LabelledEmbeddings(
            arrays[name],
            [pictures.identities[label] for label in pictures.labels],
            [pictures.name(index) for index in range(len(pictures))],
        )
        for name, pictures in sets.items()
        if name != "distractors"
    }
    evaluation = identify(
        sides.get("probes", sides["gallery"]),
        sides["gallery"],
        arrays.get("distractors"),
        IdentificationOptions(mates, rank_list, far_list, fpir_list, far_rule, engine, bootstrap),
    )
    made = {
        "embeddings": "from a file" if ready else "of this model",
        "flip": None if ready else flip,
        "preprocessing": preprocessing,
    }
    values = {
        "schema": 1,
        "model": str(model),
        "data": {
            "gallery": str(gallery),
            "probes": str(probes),
            "distractors": distractors and str(distractors),
        },
        "protocol": {"name": evaluation.name, **evaluation.protocol, **made},
        "metrics": evaluation.metrics_json(),
        "files": files,
    }
    written = leave(out, report, model, values, {evaluation.name: evaluation}, list(sets.values()))
    if as_json:
        print_json(values)
        return
    show([(evaluation.name, evaluation)], made, files)
    for path in written:
        say(f"wrote {path}")


def _ranks(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,3}", part) and 1 <= int(part) <= 100 for part in parts):
        raise UsageError(f"--ranks takes whole numbers from 1 to 100 with commas between them, got {text!r}")
    return [int(part) for part in parts]


def _read(path: Path, sizes: dict[str, int]) -> tuple[dict[str, Float[np.ndarray, "n dim"]], dict[str, str]]:
    """The embeddings of each set, and the file's SHA-256 by its path."""
    data = read_bytes(path, ARRAYS_LIMIT)
    files = {str(path): _digest(data)}
    if path.suffix == ".npz":
        return {name: _array(path, data, name, rows) for name, rows in sizes.items()}, files
    order = [name for name in ("gallery", "probes", "distractors") if name in sizes]
    whole = _array(path, data, None, sum(sizes.values()), " + ".join(f"{sizes[name]} {name}" for name in order))
    found: dict[str, Float[np.ndarray, "n dim"]] = {}
    first = 0
    for name in order:
        found[name] = whole[first : first + sizes[name]]
        first += sizes[name]
    return found, files


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _array(
    path: Path, data: bytes, key: str | None = None, rows: int | None = None, counted: str = ""
) -> Float[np.ndarray, "n dim"]:
    """An array of embeddings in the bytes of a file."""
    import numpy as np

    array: Float[np.ndarray, "n dim"]
    array = parse_array(data, path) if key is None else parse_arrays(data, path, [key])[key]
    if array.ndim != 2 or not array.size or not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"{path}: embeddings must be an array [n, dim] of floating-point numbers, "
            f"got {array.dtype} {list(array.shape)}"
        )
    if rows is not None and len(array) != rows:
        what = f"{key} has" if key else "the sets have"
        raise DataError(f"{path}: {len(array)} embeddings where {what} {rows} pictures{counted and f' ({counted})'}")
    return array
