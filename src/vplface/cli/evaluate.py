"""``vplface evaluate``: how well a model tells people apart, under a stated protocol."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vplface.cli.preprocessing import COLOR, INSIGHTFACE, MEAN, STD, preprocessing_of
from vplface.errors import DataError, UsageError

if TYPE_CHECKING:
    from vplface.data.pictures import Preprocessing
    from vplface.evaluation import Evaluation


def evaluate(
    model: Annotated[
        Path,
        typer.Argument(help="The model: a run's folder, RUN/best, or an .onnx file.", show_default=False),
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of aligned faces, DATA/IDENTITY/PICTURE, 112×112 or resized to it.", show_default=False
        ),
    ],
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="List of pairs: LFW's pairs.txt or pairsDevTest.txt, or lines 'left right 1' (0: two people), "
            "optionally with a fold; or CFP's folder Protocol/Split/FP. With several folds the threshold for each is "
            "chosen on the others.",
            show_default=False,
        ),
    ] = None,
    threshold_pairs: Annotated[
        Path | None,
        typer.Option(
            help="Choose the threshold on this list of pairs instead (LFW View 1: pairsDevTrain.txt). A list in one "
            "fold needs it: else the threshold is chosen on the test pairs themselves, which flatters and is called "
            "accuracy@best_threshold.",
            show_default=False,
        ),
    ] = None,
    people: Annotated[
        Path | None,
        typer.Option(
            help="Instead of --pairs: compare all pictures of the people in this list (a name a line, or LFW's "
            "peopleDevTest.txt) with each other. Gives enough impostor pairs for low FAR.",
            show_default=False,
        ),
    ] = None,
    flip: Annotated[
        Literal["none", "sum"],
        typer.Option(help="sum: add the embedding of the mirrored picture, as published figures mostly do."),
    ] = "sum",
    protocol: Annotated[
        Literal["exact", "insightface"],
        typer.Option(
            help="How an accuracy threshold is chosen. exact: among all; insightface: on that project's grid of "
            "squared distances 0, .01, ..., 3.99, to compare with figures made so."
        ),
    ] = "exact",
    far: Annotated[
        list[float] | None,
        typer.Option(
            help="False accept rate to give the true accept rate at; may be repeated.  [default: 1e-2, 1e-3, 1e-4]",
            show_default=False,
        ),
    ] = None,
    far_rule: Annotated[
        Literal["strict", "nearest"],
        typer.Option(
            help="strict: the false accept rate reached is at most the one asked for. nearest: it is the nearest one, "
            "which may exceed it (insightface's rule)."
        ),
    ] = "strict",
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Resamples of the people for the 95 % intervals; 0 for none.")
    ] = 500,
    color: COLOR = None,
    mean: MEAN = None,
    std: STD = None,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, ...")] = "cpu",
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode pictures beside this one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Measure how well a model tells people apart: accuracy, and TAR at fixed FAR, with 95 % intervals.

    The intervals come from resampling people, because pairs of one person stand or fall together. Every figure is
    printed with its protocol; figures made under different protocols must not be compared.

    Example:  vplface evaluate runs/lfw/best --data lfw112 --pairs pairsDevTest.txt --threshold-pairs pairsDevTrain.txt
    """
    if (pairs is None) == (people is None):
        raise UsageError("give either --pairs (a list of pairs) or --people (a list of people, all their pairs)")
    if threshold_pairs is not None and pairs is None:
        raise UsageError("--threshold-pairs needs --pairs to apply the threshold to")
    for rate in far or ():
        if not 0 < rate <= 1:
            raise UsageError(f"--far {rate:g}: a false accept rate is above 0 and at most 1")
    from vplface.data.formats import open_pictures  # torch and opencv take seconds to import
    from vplface.data.pairs import pair_files, read_pairs, read_people
    from vplface.data.selection import narrow
    from vplface.embedder import Embedder
    from vplface.evaluation import FARS, evaluate_all_pairs, evaluate_pairs

    preprocessing = preprocessing_of(color, mean, std)
    try:
        embedder = Embedder.load(model, device, preprocessing)
    except DataError as error:
        if preprocessing is None and model.suffix == ".onnx" and model.is_file():
            raise DataError(f"{error}. For an insightface model: {INSIGHTFACE}") from error
        raise
    if preprocessing is not None:
        print(f"note: pictures are prepared as the command line says: {_prepared(preprocessing)}", file=sys.stderr)
    fars = tuple(far or FARS)
    if pairs is not None:
        evaluation = evaluate_pairs(
            embedder,
            open_pictures(data),
            read_pairs(pairs),
            name=pairs.stem,
            threshold_pairs=None if threshold_pairs is None else read_pairs(threshold_pairs),
            flip=flip,
            fars=fars,
            protocol=protocol,
            far_rule=far_rule,
            bootstrap=bootstrap,
            workers=workers,
        )
    else:
        assert people is not None
        evaluation = evaluate_all_pairs(
            embedder,
            narrow(open_pictures(data), read_people(people), where=data),
            name=f"{people.stem}, all pairs",
            flip=flip,
            fars=fars,
            far_rule=far_rule,
            bootstrap=bootstrap,
            workers=workers,
        )
    if contradicted := evaluation.protocol.get("contradicted_by_folders"):
        print(
            f"note: {contradicted} pairs are of one person by the list but of two by the folders, or the reverse; the "
            "list decides, but the intervals rest on the folders",
            file=sys.stderr,
        )
    lists = [file for path in (pairs, threshold_pairs, people) if path is not None for file in pair_files(path)]
    files = {str(path): _sha256(path) for path in (*_model_files(model), *lists)}
    if as_json:
        from vplface.cli.tables import print_json

        prepared = embedder.card.preprocessing.to_dict()
        print_json(
            {
                "schema": 1,
                "model": str(model),
                "data": str(data),
                "protocol": {"name": evaluation.name, **evaluation.protocol, "preprocessing": prepared},
                "metrics": evaluation.metrics,
                "files": files,
            }
        )
    else:
        _show(evaluation, embedder.card.preprocessing, files)


def _model_files(model: Path) -> Sequence[Path]:
    return [model] if model.is_file() else [model / "model.safetensors", model / "model.json"]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _show(evaluation: Evaluation, preprocessing: Preprocessing, files: Mapping[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from vplface.report.verdict import metric_name

    table = Table(title=f"{evaluation.name} (%)", title_justify="left")
    table.add_column("figure")
    for heading in ("value", "95 % interval", "threshold"):
        table.add_column(heading, justify="right")
    for metric, figure in evaluation.metrics.items():
        if figure["value"] is None:
            table.add_row(metric_name(metric), "—", "", "")
            continue
        ends = figure["ci95"]
        spread = "" if figure.get("std") is None else f" ± {100 * figure['std']:.2f}"
        table.add_row(
            metric_name(metric),
            f"{100 * figure['value']:.2f}{spread}",
            "—" if ends is None else f"{100 * ends[0]:.2f} … {100 * ends[1]:.2f}",
            f"{figure['threshold']:.4f}",
        )
    console = Console()
    console.print(table)
    lines = [figure["reason"] for figure in evaluation.metrics.values() if figure.get("reason")]
    lines += [f"Protocol: {_sentence(evaluation.protocol)}; pictures: {_prepared(preprocessing)}."]
    lines += [f"sha256 {digest}  {path}" for path, digest in files.items()]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _sentence(protocol: Mapping[str, Any]) -> str:
    all_of = f"all pairs of {protocol['pictures']:,} pictures: " if protocol["kind"] == "all pairs" else ""
    counted = f"{protocol['genuine']:,} genuine, {protocol['impostors']:,} impostor"
    parts = [f"{all_of}{protocol['pairs']:,} pairs ({counted}) of {protocol['identities']:,} people"]
    if protocol["kind"] == "pair list":
        spread = f", ± the standard deviation over {protocol['folds']} folds" if protocol["folds"] > 1 else ""
        parts.append(
            f"threshold chosen on {protocol['threshold_from']} by the rule {protocol['accuracy_rule']}{spread}"
        )
    parts.append(f"accepted: {protocol['accept']}; flip: {protocol['flip']}; FAR rule: {protocol['far_rule']}")
    if protocol["bootstrap"]:
        parts.append(f"intervals: {protocol['bootstrap']} resamples of the people, seed {protocol['seed']}")
    return "; ".join(parts)


def _prepared(preprocessing: Preprocessing) -> str:
    mean, std = (",".join(f"{number:g}" for number in numbers) for numbers in (preprocessing.mean, preprocessing.std))
    return f"{preprocessing.color.upper()}, mean {mean}, std {std}"
