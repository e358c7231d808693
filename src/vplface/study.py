"""From a recipe to a report: train, measure, compare, write it down."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vplface.embedder import Embedder, load_model, save_model
from vplface.errors import ConfigError
from vplface.evaluation import Evaluation, compare
from vplface.report import RunRecord, read_run, write_report
from vplface.training.checkpoint import has_checkpoints
from vplface.training.config import Config, build_config, overlay, read_config
from vplface.training.journal import write_json
from vplface.training.loop import train
from vplface.training.sources import open_sources
from vplface.training.sphere import embed_on_sphere
from vplface.training.start import CHECKPOINTS
from vplface.training.validation import validation_of

SPHERE_LAM = 0.3
"""λ of the picture of the method: large enough for the eye."""


@dataclass(frozen=True)
class Study:
    """Runs that were compared, and what may be said of them.

    Attributes:
        runs: an arm each, its figures averaged over seeds.
        verdict: one honest sentence.
        summary: per arm, set and metric the mean over seeds, its standard deviation and 95 % interval; per set and
            metric the paired difference of the second arm to the first.
        report: the page.
    """

    runs: Sequence[RunRecord]
    verdict: str
    summary: Mapping[str, Any]
    report: Path


def run(config: Config, *, resume: bool = False, overwrite: bool = False) -> Study | None:
    """Train one model, evaluate it and write its report into the run folder.

    Args:
        config: the run.
        resume: go on from the last checkpoint.
        overwrite: start anew over an earlier run.

    Returns:
        What there is to say of it; None in all processes but the first, where torchrun started several.

    Raises:
        VplfaceError: see ``training.loop.train``.
    """
    if train(config, resume=resume, overwrite=overwrite) is None:
        return None
    measure(config)
    folder = config.run_folder
    record = read_run(folder)
    report = folder / "report.html"
    validation = validation_of(config)
    verdict = write_report(report, [record], config.name, picture_of=validation.picture)
    return Study([record], verdict, {"runs": {record.name: _figures(_evaluations(folder))}}, report)


def compare_arms(config: Config, seeds: Sequence[int], *, overwrite: bool = False) -> Study:
    """Train every arm of a recipe with every seed, and compare each arm with the first one on the same pairs.

    What an earlier call finished is kept and what it left unfinished is resumed. Runs lie in OUTPUT/NAME/ARM, with
    several seeds in OUTPUT/NAME/ARM-seedK.

    Args:
        config: the recipe; without arms it is itself the only one.
        seeds: of training; the questions put to the models stay the same.
        overwrite: start all runs anew.

    Raises:
        ConfigError: if an arm is no valid configuration.
        VplfaceError: see ``training.loop.train``.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a study trains its arms in one process each; for many processes train one run: vplface train"
        )
    arms = config.arms or {"run": {}}
    folder = config.run_folder
    raw = config.model_dump(mode="json") | {"arms": {}, "output": str(folder)}
    evaluations: dict[str, list[dict[str, Evaluation]]] = {arm: [] for arm in arms}
    folders: dict[str, list[Path]] = {arm: [] for arm in arms}
    for seed in seeds:
        for arm, changes in arms.items():
            name = arm if len(seeds) == 1 else f"{arm}-seed{seed}"
            settings = build_config(overlay(raw, changes) | {"name": name, "seed": seed}, f"arm {arm!r}")
            _finish(settings, overwrite)
            folders[arm].append(settings.run_folder)
            evaluations[arm].append(_evaluations(settings.run_folder))
    pooled = {arm: pool(of_seeds) for arm, of_seeds in evaluations.items()}
    first, *others = arms
    differences = {
        other: {name: compare(pooled[first][name], evaluation) for name, evaluation in pooled[other].items()}
        for other in others
    }
    summary = {
        "seeds": list(seeds),
        "runs": {arm: _figures(of_arm) for arm, of_arm in pooled.items()},
        "differences_to": first,
        "differences": differences,
    }
    write_json(folder / "summary.json", summary)
    write_json(folder / "comparison.json", differences[others[0]] if len(others) == 1 else {})
    records = [
        replace(
            read_run(of_arm[0]),
            name=arm,
            seeds=list(seeds),
            evaluations={name: evaluation.to_dict() for name, evaluation in pooled[arm].items()},
        )
        for arm, of_arm in folders.items()
    ]
    report = folder / "report.html"
    verdict = write_report(report, records, config.name, picture_of=validation_of(config).picture)
    return Study(records, verdict, summary, report)


def measure(config: Config) -> dict[str, Evaluation]:
    """Evaluate the finished model of a run with intervals; leaves evaluation.json and, if asked for, sphere.npz."""
    folder = config.run_folder
    backbone, card = load_model(folder)
    validation = validation_of(config)
    evaluations = validation.run(Embedder.from_backbone(backbone, card), config.evaluation.bootstrap)
    save_model(folder, backbone, replace(card, evaluation=_figures(evaluations)))
    if config.sphere and config.variational is not None:
        embed_on_sphere(open_sources(config.data.train), folder / "sphere.npz", SPHERE_LAM, config.seed)
    write_json(folder / "evaluation.json", {name: found.to_dict() for name, found in evaluations.items()})
    return evaluations


def pool(of_seeds: Sequence[Mapping[str, Evaluation]]) -> dict[str, Evaluation]:
    """One evaluation a set from those of several seeds: means, with replicates that resample people and seeds.

    Replicate r of a pooled figure is the mean, over as many seeds drawn with replacement, of their replicates r. The
    draw is the same for every arm, so that arms stay paired by seed. With few seeds it understates how much seeds
    differ by a factor of (k − 1)/k in variance.
    """
    if len(of_seeds) == 1:
        return dict(of_seeds[0])
    pooled = {}
    for name, evaluation in of_seeds[0].items():
        same = [evaluations[name] for evaluations in of_seeds]
        if len({one.fingerprint for one in same}) > 1:
            raise ConfigError(f"{name}: the seeds were not evaluated on the same pairs; use --overwrite")
        metrics: dict[str, dict[str, Any]] = {}
        replicates = {}
        for metric in evaluation.metrics:
            values = [one.metrics[metric]["value"] for one in same]
            if None in values:
                metrics[metric] = {"value": None, "reason": evaluation.metrics[metric].get("reason")}
                continue
            metrics[metric] = {
                "value": float(np.mean(values)),
                "std_over_seeds": float(np.std(values, ddof=1)),
                "per_seed": values,
            }
            if all(metric in one.replicates for one in same):
                stacked = np.stack([one.replicates[metric] for one in same])
                draws = np.random.default_rng(0).integers(len(same), size=stacked.shape)
                replicates[metric] = np.take_along_axis(stacked, draws, axis=0).mean(axis=0)
                metrics[metric]["ci95"] = np.nanquantile(replicates[metric], [0.025, 0.975]).tolist()
        # Which pairs were told rightly is a matter of one seed.
        pooled[name] = replace(evaluation, metrics=metrics, replicates=replicates, correct=np.zeros(0, bool))
    return pooled


def _finish(config: Config, overwrite: bool) -> None:
    """Bring one run to its end, from wherever an earlier call left it."""
    folder = config.run_folder
    stored = folder / "config.yaml"
    if overwrite or not stored.exists():
        train(config, overwrite=overwrite)
    elif read_config(stored) != config:
        raise ConfigError(f"{folder} holds a run of another configuration; use --overwrite or another name (name=...)")
    elif (folder / "evaluation.json").exists():
        return
    else:
        train(config, resume=has_checkpoints(folder / CHECKPOINTS), overwrite=True)
    measure(config)


def _evaluations(folder: Path) -> dict[str, Evaluation]:
    values = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return {name: Evaluation.from_dict(value) for name, value in values.items()}


def _figures(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    return {
        name: {metric: dict(figure) for metric, figure in found.metrics.items()} for name, found in evaluations.items()
    }
