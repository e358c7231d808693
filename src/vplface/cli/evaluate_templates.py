"""``vplface evaluate-ijb``: IJB-B and IJB-C, one to one and one to many."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vplface import bounds
from vplface.cli.evaluation_output import OUT, REPORT, leave, require_endings
from vplface.cli.options import AS_JSON, DEVICE, WORKERS
from vplface.cli.preprocessing import COLOR, MEAN, STD, preprocessing_of
from vplface.console import Console, print_json, say
from vplface.errors import UsageError
from vplface.printable import printable_name
from vplface.reading import is_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vplface.evaluation import Evaluation


def evaluate_ijb(
    model: Annotated[
        Path,
        typer.Argument(
            help="The model: a run's folder, RUN/best, or an .onnx file. Or embeddings that are there already: an .npy "
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
            help="How the faces of a template are weighed. N1: by the norm of their embeddings, D1: by the detector's "
            "score, F1: the embedding of the mirrored picture is added; 0: not. Of embeddings from a file F says how "
            "they were made."
        ),
    ] = "N1D1F1",
    fars: Annotated[
        str, typer.Option(help="False accept rates to give the true accept rate at, with commas.")
    ] = "1e-1,1e-2,1e-3,1e-4,1e-5,1e-6",
    far_rule: Annotated[
        Literal["strict", "nearest"],
        typer.Option(
            help="strict: the false accept rate reached is at most the one asked for. nearest: it is the nearest one, "
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
    far_list, fpir_list = rates("--fars", fars), rates("--fpirs", fpirs)
    require_endings(out, report)
    from vplface.evaluation.templates import Flags  # torch and opencv take seconds to import

    try:
        chosen = Flags.parse(flags)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    from vplface.data.ijb import IJB, LooseFaces
    from vplface.embedder import Embedder
    from vplface.evaluation.embeddings_file import TYPES, EmbeddingsFile
    from vplface.evaluation.provenance import hashes
    from vplface.evaluation.templates import evaluate_one_to_many, evaluate_template_pairs, pool

    place = IJB(data, set_name)
    faces = place.faces()
    pairs = place.pairs()
    galleries, probes = (place.galleries(), place.probes()) if one_to_many else ({}, None)
    ready = model.suffix in TYPES and not is_folder(model)
    landmarks = place.landmarks(faces.pictures) if chosen.detector or not ready else None
    pictures = None
    files = hashes(place.used)  # before pictures are embedded, which may take hours
    if ready:
        preprocessing = None
        stored = EmbeddingsFile.read(model)
        embeddings, loaded = stored.of(LooseFaces(place.folder, faces.pictures)), stored.files
    else:
        embedder = Embedder.load(model, device, preprocessing_of(color, mean, std))
        preprocessing, loaded = embedder.card.preprocessing.to_dict(), embedder.files
        assert landmarks is not None
        pictures = place.aligned(faces.pictures, landmarks)
        embeddings = embedder.embed_set(
            pictures,
            flip="sum" if chosen.flip else "none",
            workers=workers,
            description=f"embedding {set_name}",
            unit=False,
        )
    files = {**loaded, **files}
    templates = pool(
        embeddings,
        faces,
        norm=chosen.norm,
        scores=landmarks.score if chosen.detector and landmarks is not None else None,
    )
    if chosen.norm and templates.equal_norms:
        say(
            "note: all embeddings are of one norm, so N1 changes nothing: these are N0's figures. vplface embed, for "
            "one, writes embeddings of unit norm",
            file=sys.stderr,
        )
    found = [evaluate_template_pairs(templates, pairs, chosen, fars=far_list, far_rule=far_rule, bootstrap=bootstrap)]
    if probes is not None:
        found.append(evaluate_one_to_many(templates, galleries, probes, chosen, fpirs=fpir_list, bootstrap=bootstrap))
    made = {"embeddings": "from a file" if ready else "of this model", "preprocessing": preprocessing}
    values = {
        "schema": 1,
        "model": str(model),
        "data": str(data),
        "protocol": {
            "name": set_name,
            "flags": str(chosen),
            **made,
            **{evaluation.name: dict(evaluation.protocol) for evaluation in found},
        },
        "metrics": {name: figure for evaluation in found for name, figure in evaluation.metrics_json().items()},
        "files": files,
    }
    titled = {f"{set_name} {evaluation.name}, {chosen}": evaluation for evaluation in found}
    written = leave(out, report, model, values, titled, [] if pictures is None else [pictures])
    if as_json:
        print_json(values)
        return
    show(list(titled.items()), made, files)
    for path in written:
        say(f"wrote {path}")


def rates(option: str, text: str) -> list[float]:
    """Rates with commas between them; raises UsageError."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} takes rates with commas between them, such as 1e-2,1e-4, got {text!r}") from None
    for rate in found:
        if not 0 < rate < 1:
            raise UsageError(f"{option} {rate:g}: a rate lies between 0 and 1")
    return found


def show(evaluations: Sequence[tuple[str, Evaluation]], made: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """Tables for people, the protocols, how the embeddings were made, the files."""
    from rich.table import Table

    from vplface.evaluation.metrics import Metric

    console = Console()
    lines: list[str] = []
    for title, evaluation in evaluations:
        table = Table(title=f"{printable_name(title)} (%)", title_justify="left")
        table.add_column("figure")
        for heading in ("value", "95 % interval", "threshold"):
            table.add_column(heading, justify="right")
        for metric, figure in evaluation.metrics.items():
            ends = figure.interval
            table.add_row(
                Metric.parse(metric).label,
                "—" if figure.value is None else f"{100 * figure.value:.2f}",
                "—" if ends is None else f"{100 * ends[0]:.2f} … {100 * ends[1]:.2f}",
                _thresholds(figure.details.get("threshold")),
            )
            if figure.details.get("reason"):
                lines.append(figure.details["reason"])
        console.print(table)
    lines += [f"Protocol of {evaluation.name}: {_sentence(evaluation.protocol)}." for _, evaluation in evaluations]
    lines.append(f"{_sentence(made).capitalize()}.")
    lines += [f"sha256 {digest}  {path}" for path, digest in files.items()]
    for line in lines:
        say(line)


def _thresholds(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(f"{each:.4f}" for each in value) if isinstance(value, list) else f"{value:.4f}"


def _sentence(told: Mapping[str, Any]) -> str:
    known = {key.replace("_", " "): value for key, value in told.items() if value is not None}
    return "; ".join(f"{key}: {_plain(value)}" for key, value in known.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} ({_plain(each)})" for key, each in value.items())
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
