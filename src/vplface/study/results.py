"""The results of the finished runs of a study: summary.json and one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vplface.errors import ConfigError
from vplface.evaluation import Evaluation
from vplface.evaluation.figure import Difference
from vplface.evaluation.metrics import in_order
from vplface.files import write_json
from vplface.report import RunRecord, average_runs, read_run, write_study
from vplface.study.grid import Cell, Grid
from vplface.study.pool import paired, pool
from vplface.study.single import measured, standing

FINAL_SHARE = 0.05
"""The last part of the log over which the final loss is averaged."""


@dataclass(frozen=True)
class Results:
    """The results of a study.

    Attributes:
        summary: as summary.json holds it.
        verdict: the conclusion.
        report: the page.
    """

    summary: Mapping[str, Any]
    verdict: str
    report: Path


def conclude(grid: Grid, failed: Mapping[str, str]) -> Results:
    """Summarise all finished runs of a study, and write summary.json and report.html beside them.

    Args:
        grid: the study.
        failed: {run: why} of runs that failed just now.

    Raises:
        ConfigError: runs that are to be compared were not evaluated on the same pairs.
    """
    finished = [cell for cell in grid.cells if standing(cell.config).state == "finished"]
    settings: dict[str, Any] = {}
    curves: dict[str, list[RunRecord]] = {}
    for setting in grid.settings:
        here = [cell for cell in finished if cell.setting == setting]
        try:
            settings[setting], curves[setting] = _setting(grid, here)
        except ConfigError as error:
            raise ConfigError(f"setting {setting!r}: {error}") from error
    done = {cell.name for cell in finished}
    summary = {
        "name": grid.name,
        "seeds": grid.seeds,
        "arms": grid.arms,
        "baselines": list(grid.baselines),
        "settings": settings,
        "comparisons": sum(
            len(metrics)
            for setting in settings.values()
            for arms in setting["differences"].values()
            for sets in arms.values()
            for metrics in sets.values()
        ),
        "failed": dict(failed),
        "missing": [cell.name for cell in grid.cells if cell.name not in done and cell.name not in failed],
    }
    report = grid.folder / "report.html"
    verdict = write_study(report, summary, curves)
    write_json(grid.folder / "summary.json", {"schema": 1, **summary, "verdict": verdict})
    return Results(summary, verdict, report)


def final_loss(record: RunRecord) -> float | None:
    """Mean training loss over the last twentieth of the steps: how well the embedding fits the training pictures."""
    steps, losses = record.series("loss")
    finite = np.isfinite(losses)
    steps, losses = steps[finite], losses[finite]
    if not len(steps):
        return None
    return float(losses[steps > (1 - FINAL_SHARE) * steps[-1]].mean())


def _setting(grid: Grid, finished: list[Cell]) -> tuple[dict[str, Any], list[RunRecord]]:
    arms: dict[str, Any] = {}
    evaluations: dict[str, dict[int, dict[str, Evaluation]]] = {}
    curves = []
    for arm in grid.arms:
        cells = [cell for cell in finished if cell.arm == arm]
        if not cells:
            continue
        evaluations[arm] = {cell.seed: measured(cell.folder) for cell in cells}
        records = [read_run(cell.folder) for cell in cells]
        losses = [loss for record in records if (loss := final_loss(record)) is not None]
        arms[arm] = {
            "seeds": [cell.seed for cell in cells],
            "final_loss": {"value": float(np.mean(losses)) if losses else None, "per_seed": losses},
            "sets": {
                name: {
                    metric: _figure(evaluation, metric, [each[name] for each in evaluations[arm].values()])
                    for metric in in_order(evaluation.metrics)
                    if not grid.metrics or metric in grid.metrics
                }
                for name, evaluation in pool(list(evaluations[arm].values())).items()
            },
        }
        curves.append(average_runs(records, arm))
    differences: dict[str, Any] = {}
    for baseline in grid.baselines:
        if baseline in evaluations:
            differences[baseline] = {
                arm: _shown(paired(evaluations[baseline], of_arm), grid.metrics)
                for arm, of_arm in evaluations.items()
                if arm != baseline and not (arm in grid.baselines and arm in differences)
            }
    return {"arms": arms, "differences": differences}, curves


def _figure(pooled: Evaluation, metric: str, of_seeds: list[Evaluation]) -> dict[str, Any]:
    figure = pooled.metrics[metric]
    kept = {key: figure.details.get(key) for key in ("std_over_seeds", "reason")}
    kept = {key: value for key, value in kept.items() if value is not None}
    per_seed = [one.metrics[metric].value for one in of_seeds]
    return replace(figure, details={**kept, "per_seed": per_seed}).to_json()


def _shown(differences: Mapping[str, Mapping[str, Difference]], metrics: Sequence[str]) -> dict[str, Any]:
    return {
        name: {metric: of_set[metric].to_json() for metric in in_order(of_set) if not metrics or metric in metrics}
        for name, of_set in differences.items()
    }
