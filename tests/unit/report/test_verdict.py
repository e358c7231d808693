from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vplface.report.record import RunRecord
from vplface.report.verdict import cautions, differences, verdict


def arm(name: str, **metrics: float) -> RunRecord:
    measured = {metric: {"value": value} for metric, value in metrics.items()}
    return RunRecord(Path(name), name, evaluations={"LFW": {"metrics": measured}})


def judged(
    comparison: dict[str, dict[str, Any]], first: dict[str, float], second: dict[str, float]
) -> tuple[str, list[str]]:
    runs = [arm("plain", **first), arm("vpl", **second)]
    used, notes = differences(runs, {"LFW": comparison})
    return verdict(runs, used).replace("\N{NO-BREAK SPACE}", " "), notes


def test_verdict_names_no_winner_if_the_interval_contains_0() -> None:
    entry = {"difference": 0.004, "ci95": [-0.002, 0.010], "distinguishable": False}
    sentence, _ = judged({"accuracy": entry}, {"accuracy": 0.90}, {"accuracy": 0.904})
    assert sentence == (
        "plain and vpl are not statistically different: the 95 % interval of their difference, "
        "+0.4 points of accuracy for vpl over plain (95 % interval −0.2 to 1.0), contains 0."
    )


def test_verdict_follows_the_interval_if_the_file_claims_a_difference() -> None:
    entry = {"difference": 0.004, "ci95": [-0.002, 0.010], "distinguishable": True}
    assert "are not statistically different" in judged({"accuracy": entry}, {"accuracy": 0.90}, {"accuracy": 0.904})[0]


def test_verdict_names_no_winner_if_the_file_says_not_distinguishable() -> None:
    entry = {"difference": 0.02, "ci95": [0.01, 0.03], "distinguishable": False}
    assert "are not statistically different" in judged({"accuracy": entry}, {"accuracy": 0.90}, {"accuracy": 0.92})[0]


@pytest.mark.parametrize(("sign", "winner"), [(1, "vpl"), (-1, "plain")])
def test_verdict_names_the_arm_ahead(sign: int, winner: str) -> None:
    ends = sorted([sign * 0.01, sign * 0.03])
    entry = {"difference": sign * 0.02, "ci95": ends, "distinguishable": True}
    sentence, _ = judged({"accuracy": entry}, {"accuracy": 0.90}, {"accuracy": 0.90 + sign * 0.02})
    assert sentence == f"{winner} is ahead by 2.0 points of accuracy (95 % interval 1.0 to 3.0)."


def test_verdict_names_both_arms_if_each_is_ahead_in_another_metric() -> None:
    sentence, _ = judged(
        {
            "tar@far=1e-4": {"difference": 0.01, "ci95": [-0.05, 0.07]},
            "tar@far=1e-3": {"difference": 0.05, "ci95": [0.02, 0.08]},
            "accuracy": {"difference": -0.02, "ci95": [-0.03, -0.01]},
        },
        {"accuracy": 0.9, "tar@far=1e-3": 0.5, "tar@far=1e-4": 0.3},
        {"accuracy": 0.88, "tar@far=1e-3": 0.55, "tar@far=1e-4": 0.31},
    )
    assert sentence == (
        "plain is ahead by 2.0 points of accuracy (95 % interval 1.0 to 3.0); "
        "vpl is ahead by 5.0 points of TAR at FAR 10⁻³ (95 % interval 2.0 to 8.0); "
        "in TAR at FAR 10⁻⁴ the two are not statistically different."
    )


def test_differences_drops_a_comparison_of_other_seeds() -> None:
    entry = {"difference": 0.02, "ci95": [-0.05, 0.09], "distinguishable": False}
    sentence, notes = judged({"accuracy": entry}, {"accuracy": 0.90}, {"accuracy": 0.93})
    assert sentence.startswith("No paired difference of these 2 runs")
    assert "does not belong to these two runs" in notes[0]


def test_differences_drops_a_comparison_of_other_runs_or_another_order() -> None:
    entry = {"difference": 0.02, "ci95": [0.01, 0.03], "distinguishable": True}
    sentence, notes = judged({"accuracy": entry}, {"accuracy": 0.92}, {"accuracy": 0.90})
    assert "ahead" not in sentence
    assert "does not belong" in notes[0]


def test_verdict_names_no_winner_without_a_comparison() -> None:
    runs = [arm("plain", accuracy=0.5), arm("vpl", accuracy=0.99)]
    sentence = verdict(runs, [])
    assert "does not say which is better" in sentence
    assert "ahead" not in sentence


def test_verdict_reports_each_set_separately() -> None:
    runs = [arm("plain", accuracy=0.90), arm("vpl", accuracy=0.92)]
    runs = [
        RunRecord(run.folder, run.name, evaluations={"LFW": run.evaluations["LFW"], "AgeDB": run.evaluations["LFW"]})
        for run in runs
    ]
    clear, unclear = {"difference": 0.02, "ci95": [0.01, 0.03]}, {"difference": 0.02, "ci95": [-0.01, 0.05]}
    used, _ = differences(runs, {"LFW": {"accuracy": clear}, "AgeDB": {"accuracy": unclear}})
    assert verdict(runs, used).replace("\N{NO-BREAK SPACE}", " ") == (
        "On LFW, vpl is ahead by 2.0 points of accuracy (95 % interval 1.0 to 3.0). "
        "On AgeDB, the two are not statistically different."
    )


def test_verdict_says_that_a_run_at_chance_is_guessing() -> None:
    guessing = RunRecord(
        Path("run"), "run", evaluations={"LFW": {"metrics": {"accuracy": {"value": 0.51, "ci95": [0.48, 0.54]}}}}
    )
    assert verdict([guessing], []).endswith("which is not statistically different from guessing.")
    assert verdict([RunRecord(Path("run"), "run")], []) == "run has not been evaluated."


@pytest.mark.parametrize("entry", [{}, {"difference": None, "ci95": [0, 1]}, {"difference": 0.1, "ci95": [0.1]}, 7])
def test_differences_ignores_incomplete_entries(entry: Any) -> None:
    sentence, _ = judged({"accuracy": entry}, {"accuracy": 0.9}, {"accuracy": 0.9})
    assert "does not say which is better" in sentence


def test_cautions_name_the_run_that_was_stopped() -> None:
    stopped = RunRecord(Path("a"), "a", environment={"steps": 3000}, training=[{"step": 1200}])
    torn = RunRecord(Path("b"), "b", truncated=True)
    finished = RunRecord(Path("c"), "c", environment={"steps": 3000}, training=[{"step": 3000}])
    assert "a was stopped: its log ends at step 1,200 of 3,000." in cautions([stopped], [])
    assert any("log of b ends within a line" in said for said in cautions([torn], []))
    assert cautions([finished], []) == []
