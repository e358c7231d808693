"""``vplface evaluate``: verification accuracy of models under a stated protocol."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vplface import bounds
from vplface.cli.alignment import LOOK, look_at_alignment
from vplface.cli.degrade import DEGRADE, parse_degradations
from vplface.cli.evaluation_output import OUT, REPORT, require_endings, store, write_page
from vplface.cli.evaluation_quality import DISCARD, GATE, QUALITY, Gate, QualityMeasure, QualityOptions
from vplface.cli.options import AS_JSON, DEVICE, FLIP, WORKERS
from vplface.cli.preprocessing import COLOR, INSIGHTFACE, MEAN, STD, preprocessing_of
from vplface.cli.stored_threshold import note_same_people, promise_of, require_people
from vplface.console import print_json, say
from vplface.errors import DataError, UsageError
from vplface.reading import is_file

if TYPE_CHECKING:
    from vplface.cli.evaluation_result import Result
    from vplface.data.pictures import Preprocessing
    from vplface.embedder import Embedder
    from vplface.evaluation import EvalOptions
    from vplface.evaluation.task import VerificationTask


def evaluate(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="The model: a run's folder, RUN/best, an .onnx file, or existing embeddings, .npz with "
            "names (as vplface embed writes) or .npy in the order of the pictures. Give several to compare them.",
            show_default=False,
            metavar="MODEL",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="The aligned faces, 112×112 or resized to it: a folder DATA/IDENTITY/PICTURE, or another form that "
            "vplface reads. An InsightFace .bin file contains its pairs.",
            show_default=False,
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
            "fold needs it: else the threshold is chosen on the test pairs, and the figure, which is biased upwards, "
            "is called accuracy@best_threshold.",
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
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Compare each further model with the first, pair by pair: differences with intervals, and McNemar's "
            "exact test on the accuracy.",
        ),
    ] = False,
    groups: Annotated[
        Path | None,
        typer.Option(
            help="A CSV file of lines 'name,group', the name of an identity or of a picture: give the errors of each "
            "group at the common thresholds of --far and --fmr. After a first line 'name,age', ages in years.",
            show_default=False,
        ),
    ] = None,
    operating_point: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure the threshold in this operating_point.json as it is, on other people: FMR and FNMR with "
            "bounds, and whether the promised false accept rate holds.",
            show_default=False,
        ),
    ] = None,
    hard: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="K",
            help="With --people: compare each person with the K nearest strangers, too, and show how FMR and "
            "thresholds move.",
            show_default=False,
        ),
    ] = 0,
    calibrate: Annotated[
        Literal["logistic", "isotonic"] | None,
        typer.Option(
            help="With --people: fit log-likelihood ratios to one half of the people and judge them on the other half. "
            "--save-operating-point stores them; verify and identify then give probabilities.",
            show_default=False,
        ),
    ] = None,
    quality: QUALITY = None,
    discard: DISCARD = 0.2,
    degrade: DEGRADE = None,
    flip: FLIP = "sum",
    protocol: Annotated[
        Literal["exact", "insightface"],
        typer.Option(
            help="How an accuracy threshold is chosen. exact: among all scores; insightface: on that project's grid of "
            "squared distances 0, .01, ..., 3.99, to compare with figures computed on it."
        ),
    ] = "exact",
    far: Annotated[
        list[float] | None,
        typer.Option(
            help="False accept rate to give the true accept rate at; may be repeated.",
            show_default="1e-2, 1e-3, 1e-4",
        ),
    ] = None,
    fmr: Annotated[
        list[float] | None,
        typer.Option(
            help="False match rate to give the false non-match rate at: the same points, given as errors.",
            show_default=False,
        ),
    ] = None,
    far_rule: Annotated[
        Literal["strict", "nearest"],
        typer.Option(
            help="strict: the actual false accept rate is at most the requested one. nearest: it is the nearest one, "
            "which may exceed it (insightface's rule)."
        ),
    ] = "strict",
    bootstrap: Annotated[
        int, typer.Option(min=0, max=bounds.REPEATS, help="Resamples of the people for the 95 % intervals; 0 for none.")
    ] = 500,
    color: COLOR = None,
    mean: MEAN = None,
    std: STD = None,
    device: DEVICE = "cpu",
    workers: WORKERS = 0,
    detector_model: LOOK = None,
    out: OUT = None,
    report: REPORT = None,
    save_operating_point: Annotated[
        float | None,
        typer.Option(
            metavar="FAR",
            help="Store the threshold at this false accept rate with the model, for the commands that decide.",
            show_default=False,
        ),
    ] = None,
    gate: GATE = None,
    as_json: AS_JSON = False,
) -> None:
    """Measure how well a model distinguishes people: accuracy, TAR at fixed FAR, EER, with 95 % intervals.

    The intervals come from resampling people, because pairs of one person are correlated. Every figure is
    printed with its protocol; do not compare figures of different protocols.

    Example:  vplface evaluate runs/lfw/best --data lfw112 --pairs pairsDevTest.txt --threshold-pairs pairsDevTrain.txt

    Example:  vplface evaluate old.onnx new.onnx --data lfw112 --pairs pairs.txt --compare --report page.html

    Example:  vplface evaluate runs/lfw/best --data ours --people ours.txt --operating-point operating_point.json

    Example:  vplface evaluate runs/lfw/best --data lfw112 --pairs pairs.txt --degrade low_resolution:pixels=7-11

    Example:  vplface evaluate runs/lfw/best --data ours --people ours.txt --quality norm,recognisability
    """
    if people is not None and (pairs is not None or threshold_pairs is not None):
        raise UsageError("--people compares all pairs of people; omit --pairs and --threshold-pairs")
    _check_rates({"--far": far or [], "--fmr": fmr or [], "--save-operating-point": [save_operating_point]})
    _check_models(models, compare=compare, bootstrap=bootstrap)
    require_people(operating_point, hard, calibrate, people, bootstrap)
    degradations = parse_degradations(degrade or [])
    asked = QualityOptions.of(quality, discard, gate, save_operating_point)
    require_endings(out, report)
    preprocessing = preprocessing_of(color, mean, std)

    from vplface.data.pair_lists import pair_files  # torch and opencv take seconds to import
    from vplface.evaluation import FARS, EvalOptions
    from vplface.evaluation.groups import read_groups
    from vplface.evaluation.operating_point import operating_point_path
    from vplface.evaluation.provenance import hashes
    from vplface.evaluation.task import open_task

    fars = tuple(far or FARS)
    if save_operating_point is not None:
        if len(models) > 1:
            raise UsageError("--save-operating-point is for one model at a time")
        operating_point_path(models[0])
        fars = tuple(dict.fromkeys((*fars, save_operating_point)))
    task = open_task(data, pairs, threshold_pairs, people)
    alignment = look_at_alignment(models, data, task, detector_model)
    degraded = [replace(task.with_degraded(each), name=f"{task.name}, {each}") for each in degradations]
    grouped = None if groups is None else read_groups(groups, task.pictures)
    promise = promise_of(operating_point, models, flip, preprocessing)
    fmrs = tuple(fmr or ())
    options = EvalOptions(flip, fars, fmrs, protocol, far_rule, bootstrap, 0, grouped, promise, hard, calibrate, True)
    lists = [path for path in (data, people, groups) if path is not None and is_file(path)]
    lists += [file for path in (pairs, threshold_pairs) if path is not None for file in pair_files(path)]
    digests = hashes(lists)  # before pictures are embedded, which may take hours
    note_same_people(operating_point, data, digests)
    tasks, results = [task, *degraded], []
    for model in models:
        measured = _measure(model, data, tasks, options, asked, preprocessing, device, workers, alone=len(models) == 1)
        results.append(replace(measured, files={**measured.files, **digests}))
    if contradicted := results[0].evaluation.protocol.get("contradicted_by_folders"):
        say(
            f"note: for {contradicted} pairs, list and folders disagree on whether they show one person or two; the "
            "list decides, but the intervals are computed from the folders",
            file=sys.stderr,
        )
    first, *others = results
    differences = {str(other.model): _differences(first, other) for other in others if compare}
    written = _write(results, differences, [task, *degraded], asked.gate, save_operating_point, out, report)
    if as_json:
        print_json(_object([result.to_dict() for result in results], differences) | alignment)
        return
    _show(results, differences)
    for path in written:
        say(f"wrote {path}")


def _write(
    results: Sequence[Result],
    differences: Mapping[str, Mapping[str, Mapping[str, Any]]],
    tasks: Sequence[VerificationTask],
    gate: Gate | None,
    far: float | None,
    out: Path | None,
    report: Path | None,
) -> list[Path]:
    """Write the operating point at a false accept rate, the result and the page, where asked for; returns the paths."""
    written = []
    if far is not None:
        written.append(results[0].operating_point(far, gate).save(results[0].model))
    if out is not None:
        store(out, _object([result.stored() for result in results], differences))
        written.append(out)
    if report is not None:
        sets = {each.name: [each.pictures] for each in tasks}
        records = [result.record() for result in results]
        write_page(report, records, tasks[0].name, sets, list(differences.values()))
        written.append(report)
    return written


def _check_rates(of_options: Mapping[str, Sequence[float | None]]) -> None:
    """Raise UsageError for an option whose value is not a false accept rate."""
    for option, rates in of_options.items():
        for rate in rates:
            if rate is not None and not 0 < rate <= 1:
                raise UsageError(f"{option} {rate:g}: a false accept rate is above 0 and at most 1")


def _check_models(models: Sequence[Path], *, compare: bool, bootstrap: int) -> None:
    """Raise UsageError for models that are named twice or cannot be compared."""
    if compare and len(models) < 2:
        raise UsageError("--compare needs two models or more")
    if compare and not bootstrap:
        raise UsageError("--compare needs resamples; --bootstrap must be above 0")
    if len(set(models)) < len(models):
        raise UsageError("a model is named twice")


# size: one model, the questions about it, and how it is run
def _measure(
    model: Path,
    data: Path,
    tasks: Sequence[VerificationTask],
    options: EvalOptions,
    asked: QualityOptions,
    preprocessing: Preprocessing | None,
    device: str,
    workers: int,
    *,
    alone: bool,
) -> Result:
    """The evaluation of one model, or of embeddings in a file.

    ``tasks`` holds that on the pictures as they are, and those on degraded ones; ``alone`` if no other model is
    evaluated.
    """
    from vplface.cli.evaluation_result import Result
    from vplface.evaluation.embeddings_file import TYPES, EmbeddingsFile

    task, *degraded = tasks
    if model.suffix in TYPES:
        if degraded:
            raise UsageError(f"--degrade changes pictures, and {model} holds embeddings; give a model")
        if preprocessing is not None and alone:
            raise UsageError(f"--color, --mean and --std prepare pictures, and {model} holds embeddings")
        stored = EmbeddingsFile.read(model)
        embeddings = stored.of(task.pictures, task.used)
        qualities = QualityMeasure(asked, task, None, "none", workers)(task, embeddings)
        given = replace(options, flip=None, quality=qualities)
        return Result(model, data, task.evaluate(embeddings, given), None, {}, stored.files)
    embedder = _load(model, device, preprocessing, alone=alone)
    assert options.flip is not None
    measure = QualityMeasure(asked, task, embedder, options.flip, workers)
    unit = not asked.names
    clean = task.embed(embedder, options.flip, workers, unit=unit)
    evaluation = task.evaluate(clean, replace(options, quality=measure(task, clean)))
    poor = []
    for each in degraded:
        embeddings = each.embed(embedder, options.flip, workers, clean, unit)
        poor.append(each.evaluate(embeddings, replace(options, quality=measure(each, embeddings))))
    card = embedder.card
    values = json.loads(card.to_json())
    return Result(model, data, evaluation, card.preprocessing, values, embedder.files, poor, measure.described)


def _load(model: Path, device: str, preprocessing: Preprocessing | None, *, alone: bool) -> Embedder:
    """A model; of several, the given preprocessing applies only to those without a model card."""
    from vplface.cli.evaluation_tables import preparation
    from vplface.embedder import Embedder

    given = preprocessing if alone else None
    try:
        embedder = Embedder.load(model, device, given)
    except DataError as error:
        if given is not None or model.suffix != ".onnx" or not is_file(model):
            raise
        if preprocessing is None:
            raise DataError(f"{error}. For an insightface model: {INSIGHTFACE}") from error
        given = preprocessing
        embedder = Embedder.load(model, device, given)
    if given is not None:
        whose = "" if alone else f"{model}: "
        say(f"note: {whose}pictures are prepared as given on the command line: {preparation(given)}", file=sys.stderr)
    return embedder


def _differences(first: Result, other: Result) -> dict[str, dict[str, Any]]:
    """The differences of one model to the first, by the name of the evaluation: as the pictures are, and degraded."""
    from vplface.evaluation import compare

    pairs = zip(first.evaluations, other.evaluations, strict=True)
    return {before.name: compare(before, after) for before, after in pairs}


def _object(
    results: Sequence[Mapping[str, Any]], differences: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> dict[str, Any]:
    """The values of one model, or of several under "models" with their differences to the first."""
    if len(results) == 1:
        return {"schema": 1, **results[0]}
    values: dict[str, Any] = {"schema": 1, "models": list(results)}
    if differences:
        of_all = {other: list(entries.values()) for other, entries in differences.items()}
        values["differences_to"] = results[0]["model"]
        values["differences"] = {other: clean for other, (clean, *_) in of_all.items()}
        if any(degraded for _, *degraded in of_all.values()):
            values["degraded_differences"] = {other: degraded for other, (_, *degraded) in of_all.items()}
    return values


def _show(results: Sequence[Result], differences: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    from vplface.cli.evaluation_tables import preparation, show_degraded, show_differences, show_figures

    for result in results:
        prepared = result.preprocessing
        show_figures(
            result.evaluation,
            result.evaluation.name if len(results) == 1 else f"{result.model}: {result.evaluation.name}",
            "embeddings as they are in the file" if prepared is None else f"pictures: {preparation(prepared)}",
            result.files,
        )
        if result.degraded:
            show_degraded(result.evaluation, result.degraded)
    for other, compared in differences.items():
        for name, entries in compared.items():
            show_differences(str(results[0].model), other, entries, name if len(compared) > 1 else None)
