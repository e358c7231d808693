"""Sentences of a study, which name no figure that only describes."""

from __future__ import annotations

from vplface.evaluation.metrics import Metric
from vplface.report.study_findings import NOTHING, Finding, study_verdict


def finding(metric: str, value: float) -> Finding:
    ends = (value - 0.01, value + 0.01)
    return Finding("base", "LFW", Metric.parse(metric), "vpl", "plain", value, ends, None, (value,), 1, True)


def test_study_verdict_does_not_name_descriptive_metrics() -> None:
    described = [finding("poor_norm", -0.1), finding("tail_both_poor@far=1e-3", 0.2)]
    sentence = study_verdict([finding("rank-1", 0.05), *described])
    assert sentence == "vpl is ahead of plain in 1 of 1 figures (base, LFW: rank-1)."
    assert study_verdict(described) == NOTHING
