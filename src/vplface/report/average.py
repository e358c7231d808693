"""The logs of several seeds as one: means at the steps that all of them logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vplface.evaluation.figure import finite
from vplface.report.arms import mapping
from vplface.report.record import RunRecord


def average_runs(runs: Sequence[RunRecord], name: str) -> RunRecord:
    """The first run under another name, its logged numbers averaged over all; they have no evaluations."""
    return replace(
        runs[0],
        name=name,
        evaluations={},
        training=[_mean(lines) for lines in _by_step([run.training for run in runs])],
        validation=[_mean(lines) for lines in _by_step([run.validation for run in runs])],
    )


def _by_step(logs: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[Mapping[str, Any]]]:
    """The lines of all logs at each step that all of them have."""
    indexed = [{line["step"]: line for line in log} for log in logs]
    return [[log[step] for log in indexed] for step in indexed[0] if all(step in log for log in indexed)]


def _mean(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of every number that all lines hold, in nested mappings too."""
    averaged: dict[str, Any] = {}
    for key, value in lines[0].items():
        if isinstance(value, Mapping):
            averaged[key] = _mean([mapping(line.get(key)) for line in lines])
            continue
        values = [found for line in lines if (found := finite(line.get(key))) is not None]
        if len(values) == len(lines):
            averaged[key] = value if key == "step" else float(np.mean(values))
    return averaged
