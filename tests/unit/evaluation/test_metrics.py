"""Keys of metrics: kind, operating point and labels."""

from __future__ import annotations

import pytest

from helpers.paths import ROOT
from vplface.evaluation.metrics import (
    ACCURACY,
    BEST_ACCURACY,
    EER,
    FNMR,
    METRICS,
    RANK,
    ROC_METRICS,
    TAIL,
    TAR,
    TPIR,
    Metric,
    far_name,
    far_point,
    in_order,
    measurable,
    point_label,
)


@pytest.mark.parametrize(
    ("key", "kind", "point", "label", "short"),
    [
        ("accuracy", ACCURACY, None, "accuracy", "acc."),
        ("accuracy@best_threshold", BEST_ACCURACY, None, *["accuracy at the best threshold"] * 2),
        ("tar@far=1e-3", TAR, 1e-3, "TAR at FAR 10⁻³", "TAR 10⁻³"),
        ("tar@far=2.5e-4", TAR, 2.5e-4, "TAR at FAR 0.00025", "TAR 0.00025"),
        ("fnmr@fmr=5e-3", FNMR, 5e-3, "FNMR at FMR 5·10⁻³", "FNMR at FMR 5·10⁻³"),
        ("tpir@fpir=1e-1", TPIR, 0.1, "TPIR at FPIR 10⁻¹", "TPIR at FPIR 10⁻¹"),
        ("eer", EER, None, "equal error rate", "EER"),
        ("tail_both_poor@far=1e-3", TAIL, 1e-3, "both poor in the tail at FAR 10⁻³", "tail 10⁻³"),
        ("rank-5", RANK, 5, "rank-5", "rank 5"),
        ("tar@far=often", TAR, None, "tar@far=often", "tar@far=often"),
        ("tar@far=2", TAR, None, "tar@far=2", "tar@far=2"),
        ("tar@fmr=1e-3", None, None, "tar@fmr=1e-3", "tar@fmr=1e-3"),
        ("f1_score", None, None, "f1 score", "f1 score"),
        ("rank-first", None, None, "rank-first", "rank-first"),
    ],
)
def test_Metric_parse_reads_kind_point_and_labels(key, kind, point, label, short):
    metric = Metric.parse(key)
    assert (metric.key, metric.kind, metric.point) == (key, kind, point)
    assert (metric.label, metric.short) == (label, short)


@pytest.mark.parametrize("kind", METRICS, ids=lambda kind: kind.name)
def test_MetricKind_at_gives_a_metric_that_parse_reads_back(kind):
    metric = kind.at({"rate": 2.5e-4, "rank": 7, None: None}[kind.point])
    assert Metric.parse(metric.key) == metric
    with pytest.raises(ValueError, match="is measured at"):
        kind.at(0.5 if kind.point is None else None)


def test_Metric_lower_is_better_only_for_errors():
    keys = ["eer", "fnmr@fmr=1e-3", "accuracy", "tar@far=1e-3", "auc", "rank-1", "unknown"]
    assert [Metric.parse(key).lower_is_better for key in keys] == [True, True, False, False, False, False, False]


def test_Metric_far_is_set_only_for_TAR():
    assert [Metric.parse(key).far for key in ("tar@far=1e-2", "fnmr@fmr=1e-2", "eer")] == [0.01, None, None]


def test_Metric_descriptive_only_for_the_tail_and_the_poor_pictures():
    assert [kind.name for kind in METRICS if kind.at({"rate": 0.1, "rank": 1, None: None}[kind.point]).descriptive] == [
        *("tail_both_poor@far", "poor_norm")
    ]
    assert not Metric.parse("unknown").descriptive


def test_in_order_lists_rates_from_loose_to_strict_and_ranks_upwards():
    keys = ["zeta", "rank-10", "rank-5", "eer", "tar@far=1e-4", "accuracy", "tar@far=1e-2", "fnmr@fmr=1e-3", "auc"]
    assert in_order(keys) == [
        *("accuracy", "tar@far=1e-2", "tar@far=1e-4", "fnmr@fmr=1e-3", "eer", "auc", "rank-5", "rank-10", "zeta")
    ]


def test_measurable_lists_metrics_at_the_given_points():
    assert measurable({TAR: [1e-2, 1e-3, 1e-2], RANK: [1]}) == [
        *("accuracy", "accuracy@best_threshold", "tar@far=1e-2", "tar@far=1e-3"),
        *(kind.name for kind in ROC_METRICS),
        "rank-1",
        "poor_norm",
    ]
    assert measurable({TAIL: [1e-2, 1e-3]})[-3:] == ["tail_both_poor@far=1e-2", "tail_both_poor@far=1e-3", "poor_norm"]


@pytest.mark.parametrize(
    ("far", "name"), [(1e-3, "1e-3"), (0.01, "1e-2"), (2.5e-4, "2.5e-4"), (1.0, "1e0"), (1e-10, "1e-10"), (0.3, "3e-1")]
)
def test_far_name_writes_the_rate_in_scientific_notation(far, name):
    assert far_name(far) == name


def test_point_label_reads_what_far_point_writes():
    assert point_label(far_point(1e-3)) == "FAR 10⁻³"
    assert point_label("anything") == "anything"


@pytest.mark.parametrize("kind", METRICS, ids=lambda kind: kind.name)
def test_METRICS_are_all_described_in_the_documentation(kind):
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    separator = {"rate": "=", "rank": "-", None: "`"}[kind.point]
    assert f"`{kind.name}{separator}" in text
