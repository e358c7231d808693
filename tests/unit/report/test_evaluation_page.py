"""Pages about evaluations: their parts, the verdict on several models, and damaged evaluations."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vplface.report import RunRecord, write_evaluation

EVALUATION: dict[str, Any] = {
    "name": "IJB",
    "protocol": {"kind": "template", "identities": 40},
    "metrics": {
        "accuracy": {"value": 0.95, "ci95": [0.93, 0.97], "threshold": 0.3, "per_fold": [0.9, 0.95, 1.0]},
        "tar@far=1e-3": {"value": 0.8, "ci95": [0.7, 0.9], "threshold": 0.5, "actual_far": 0.001},
        "eer": {"value": 0.04, "ci95": [0.03, 0.05], "threshold": 0.28},
    },
    "curves": {
        "roc": {"far": [0.0, 0.001, 0.01, 0.1, 1.0], "tar": [0.5, 0.8, 0.9, 0.97, 1.0]},
        "roc_band": {"far": [0.001, 0.01, 0.1], "low": [0.7, 0.85, 0.95], "high": [0.85, 0.93, 0.99]},
        "histogram": {"edges": [-1.0, 0.0, 1.0], "genuine": [1.0, 9.0], "impostor": [90.0, 10.0]},
        "cmc": {"rank": [1, 2, 5, 10], "rate": [0.8, 0.85, 0.9, 0.95]},
        "dir": {"fpir": [0.001, 0.01, 0.1], "tpir": [0.5, 0.7, 0.8]},
    },
    "worst": {
        "genuine": [{"left": "a/1.jpg", "right": "a/2.jpg", "similarity": 0.1}],
        "gallery_misses": [
            {"probe": "p/<1>.jpg", "found": "q/1.jpg", "mate": "p/2.jpg", "similarity": 0.61, "mate_rank": 14}
        ],
    },
    "groups": {
        "groups": {"old": {"identities": 3}, "young": {"identities": 5}},
        "at": {
            "far=1e-3": {
                "threshold": 0.5,
                "rates": {
                    "old": {"fnmr": {"value": 0.2, "ci95": [0.1, 0.3]}, "fmr": {"value": None, "ci95": None}},
                    "young": {"fnmr": {"value": 0.05, "ci95": [0.0, 0.1]}, "fmr": {"value": 0.01, "ci95": None}},
                },
                "spread": {
                    "fnmr": {"value": 0.15, "ci95": [0.02, 0.28], "highest": "old", "lowest": "young"},
                    "fmr": None,
                },
            }
        },
    },
}


def stratum(tail: float, share: float | None = None) -> dict[str, Any]:
    ends = None if share is None else [0.5 * share, 1.5 * share]
    fmr = {"value": share, "ci95": ends}
    return {"fnmr": fmr, "fmr": fmr, "tail": {"value": tail, "ci95": [0.9 * tail, tail]}}


STRATA: dict[str, Any] = {
    "pictures": {
        "good": {
            "count": 30,
            "identities": 9,
            "norm": {"value": 0.05, "ci95": None},
            "recognisability": [0.8, 0.9, 1.0],
        },
        "poor": {"count": 9, "identities": 8, "norm": {"value": 0.71, "ci95": [0.6, 0.8]}, "recognisability": None},
    },
    "cosine": {"edges": [-1.0, 0.0, 1.0], "good": [15, 15], "poor": [0, 9]},
    "pairs": {
        "both good": {"genuine": 9, "impostors": 64, "share": 0.64},
        "one poor": {"genuine": 5, "impostors": 32, "share": 0.32},
        "both poor": {"genuine": 0, "impostors": 4, "share": 0.04},
    },
    "at": {
        "far=1e-3": {
            "threshold": 0.5,
            "accepted": 20,
            "strata": {
                "both good": stratum(0.05, 0.015),
                "one poor": stratum(0.15, 0.09),
                "both poor": stratum(0.8),
            },
        }
    },
}


def record(name: str, **changes: Any) -> RunRecord:
    return RunRecord(Path(name), name, evaluations={"IJB": EVALUATION | changes}, files={"m.onnx": "ab" * 32})


def picture(set_name: str, name: str) -> np.ndarray:
    return np.full((112, 112, 3), 90, np.uint8)


def written(path: Path, *arguments: Any, **options: Any) -> tuple[str, str]:
    sentence = write_evaluation(path / "page.html", *arguments, **options)
    return sentence, (path / "page.html").read_text(encoding="utf-8")


def test_write_evaluation_shows_every_part_of_one_model(tmp_path: Path) -> None:
    sentence, text = written(tmp_path, [record("net")], "A title", picture_of=picture)
    assert sentence.replace("\N{NO-BREAK SPACE}", " ") == (
        "net reaches 95.0 % accuracy (95 % interval 93.0 to 97.0) on IJB."
    )
    titles = re.findall("<h4>(.*?)</h4>", text)
    assert titles == [
        "ROC",
        "net",
        "DET",
        "Errors per fold",
        "CMC",
        "Open-set identification",
        "False non-match rate at the threshold of FAR 10⁻³",
        "False match rate at the threshold of FAR 10⁻³",
    ]
    assert "old lies 15 points above young (95 % interval 2 … 28)." in text
    assert "no such pairs" in text  # old has no impostor pairs
    assert text.count("<img ") == 2 + 3
    assert "0.610</b> · its mate at rank 14" in text
    assert "p/&lt;1&gt;.jpg" in text
    assert "<1>" not in text
    assert "Coverage reached" not in text  # that is for runs
    assert "Configuration" not in text
    assert "<script" not in text
    assert "ab" * 32 in text
    assert not re.search(r"https?://|url\((?!#|data:)", text)


def test_write_evaluation_shows_who_makes_the_tail(tmp_path: Path) -> None:
    worst = {
        "impostor": [{"left": "a", "right": "b", "similarity": 0.9, "poor": [True, False], "recognisability": [0.1, 1]}]
    }
    metrics = EVALUATION["metrics"] | {"tail_both_poor@far=1e-3": {"value": 0.8, "ci95": [0.72, 0.8]}}
    _, text = written(tmp_path, [record("net", strata=STRATA, worst=worst, metrics=metrics)], "A title")
    plain = text.replace("\N{NO-BREAK SPACE}", " ")
    chart = plain.partition("Who makes the tail")[2].partition("</svg>")[0]
    bars = re.findall(r'<path class="part (\w+)" fill-opacity="([\d.]+)" d="M([\d.]+) [\d.]+H([\d.]+)', chart)
    assert [(ink, opacity) for ink, opacity, _, _ in bars] == [
        (ink, opacity) for ink in ("neutral", "arm0") for opacity in ("0.12", "0.45", "1.0")
    ]
    widths = [(float(end) - float(start)) / 350 for _, _, start, end in bars]
    assert widths == pytest.approx([0.64, 0.32, 0.04, 0.05, 0.15, 0.8], abs=1e-3)
    assert "<title>FAR 10⁻³, both poor: 80 %</title>" in chart
    assert "all impostor pairs, both poor: 4 %" in chart
    assert "Norm of the mean embedding, from pairs of different people: 0.050 for good pictures, 0.710" in plain
    assert "0.710 (0.600 – 0.800) for poor pictures" in plain
    assert plain.count('<td rowspan="3">FAR 10⁻³</td>') == 1
    rows = re.findall(r"<tr>.*?</tr>", plain.partition("Share of all impostor pairs")[2].partition("</table>")[0])
    assert [re.findall("<td>([a-z ]+)</td>", row) for row in rows[-3:]] == [["both good"], ["one poor"], ["both poor"]]
    rows = rows[-3:]
    assert ">—</span>" in rows[2]  # no genuine pairs of two poor pictures
    assert "72 % – 80 %" in rows[2]
    assert "0.900</b> · poor 0.10 / good 1.00" in plain


def test_write_evaluation_shows_no_strata_of_a_set_that_is_not_degraded(tmp_path: Path) -> None:
    _, text = written(tmp_path, [record("net")], "A title")
    assert "quality" not in text
    assert "better or worse" not in text


def test_write_evaluation_compares_the_tails_of_two_models_without_a_verdict(tmp_path: Path) -> None:
    metrics = {"tail_both_poor@far=1e-3": {"value": 0.8, "ci95": None}, "eer": {"value": 0.04, "ci95": None}}
    better = metrics | {"tail_both_poor@far=1e-3": {"value": 0.5, "ci95": None}}
    comparison = {"IJB": {"tail_both_poor@far=1e-3": difference(-0.3, -0.4, -0.2), "eer": difference(0, -0.01, 0.01)}}
    runs = [record("old", strata=STRATA, metrics=metrics), record("new", strata=STRATA, metrics=better)]
    sentence, text = written(tmp_path, runs, "A title", [comparison])
    assert "old and new are not statistically different" in sentence
    assert "tail" not in sentence
    assert "−30.0" in text
    assert "No model is better or worse by these figures" in text
    assert "<h4>Where the poor pictures lie, new</h4>" in text
    assert "FAR 10⁻³, old, both poor: 80" in text
    assert "FAR 10⁻³, new, both poor: 80" in text


def test_write_evaluation_draws_fold_errors_as_bars_from_zero(tmp_path: Path) -> None:
    _, text = written(tmp_path, [record("net")], "A title")
    chart = text.partition("Errors per fold")[2].partition("</svg>")[0]
    paths = re.findall(r'class="hill arm0" d="(M[^"]+Z)"', chart)
    bars = [[float(number) for number in re.findall(r"[\d.]+", path)] for path in paths]
    heights = [max(bar[1::2]) - min(bar[1::2]) for bar in bars]
    assert len(heights) == 3
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)  # errors of 10, 5 and 0 %
    assert heights[2] == 0


def difference(value: float, low: float, high: float) -> dict[str, Any]:
    return {"difference": value, "ci95": [low, high], "distinguishable": low > 0 or high < 0}


def test_write_evaluation_says_that_the_lower_error_is_ahead(tmp_path: Path) -> None:
    metrics = EVALUATION["metrics"] | {"eer": {"value": 0.01, "ci95": [0.005, 0.02], "threshold": 0.3}}
    comparison = {"IJB": {"accuracy": difference(0.0, -0.01, 0.01), "eer": difference(-0.03, -0.04, -0.02)}}
    sentence, _ = written(tmp_path, [record("old"), record("new", metrics=metrics)], "A title", [comparison])
    assert sentence.replace("\N{NO-BREAK SPACE}", " ") == (
        "new is ahead by 3.0 points of equal error rate (95 % interval 2.0 to 4.0); "
        "in accuracy the two are not statistically different."
    )


def test_write_evaluation_names_no_winner_if_the_interval_contains_0(tmp_path: Path) -> None:
    entry = difference(0.0, -0.004, 0.004) | {"mcnemar": {"only_first": 3, "only_second": 5, "p": 0.7265625}}
    sentence, text = written(tmp_path, [record("old"), record("new")], "A title", [{"IJB": {"accuracy": entry}}])
    assert "old and new are not statistically different" in sentence
    assert "+0.00 points of accuracy" in sentence
    assert "new alone classifies 5 pairs correctly, old alone 3" in text
    assert "p = 0.73" in text


def test_write_evaluation_compares_each_further_model_with_the_first(tmp_path: Path) -> None:
    comparisons = [{"IJB": {"accuracy": difference(0.0, -0.01, 0.01)}} for _ in range(2)]
    sentence, text = written(tmp_path, [record("a"), record("b"), record("c")], "A title", comparisons)
    assert "a and b are not statistically different" in sentence
    assert "a and c are not statistically different" in sentence
    assert "b − a" in text
    assert "c − a" in text
    with pytest.raises(ValueError, match="3 models, 1 comparisons"):
        written(tmp_path, [record("a"), record("b"), record("c")], "A title", comparisons[:1])


@pytest.mark.parametrize("part", ["curves", "worst", "groups", "strata", "metrics"])
@pytest.mark.parametrize(
    "damaged", [{}, None, [1], {"roc": 3, "cmc": {"rank": [1]}, "at": {"far=1": 7}, "pairs": 2, "genuine": 4}]
)
def test_write_evaluation_accepts_a_damaged_evaluation(tmp_path: Path, part: str, damaged: Any) -> None:
    _, text = written(tmp_path, [record("net", **{part: damaged})], "A title", picture_of=picture)
    assert "</html>" in text


def test_write_evaluation_omits_the_DET_curve_if_there_are_no_errors(tmp_path: Path) -> None:
    curves = EVALUATION["curves"] | {"roc": {"far": [0.0, 1.0], "tar": [1.0, 1.0]}}
    metrics = {"accuracy": {"value": 1.0, "ci95": [0.9, 1.0], "per_fold": [1.0, 1.0], "threshold": 0.3}}
    _, text = written(tmp_path, [record("net", curves=curves, metrics=metrics)], "A title")
    assert "<h4>DET</h4>" not in text  # there is nothing on logarithmic axes
    assert "Errors per fold" in text


def bounded(value: float, errors: int) -> dict[str, Any]:
    ends = {"ci95": [0.5 * value, 2 * value], "lower95": 0.6 * value, "upper95": 3 * value}
    return {"value": value, **ends, "errors": errors, "pairs": 4000}


THRESHOLDS: dict[str, Any] = {
    "protocol": {
        "kind": "all pairs",
        "identities": 60,
        "claims": {"independent_comparisons": 30.0, "smallest_far": 0.095, "people_needed": {"0.001": 5990}},
    },
    "promise": {
        "threshold": 0.5,
        "far": 0.01,
        "fmr": bounded(0.0125, 50),
        "fnmr": bounded(0.08, 320),
        "verdict": "undecided",
        "sentence": "Whether the promised FAR of 0.01 holds cannot be decided.",
    },
    "hard": {
        "k": 5,
        "nearest_by": "cosine of the mean embeddings of people",
        "pairs_of_people": 230,
        "impostors": 3680,
        "at": {
            "operating_point": {
                "threshold": 0.5,
                "fmr": bounded(0.11, 440),
                "fnmr": bounded(0.08, 320),
                "moved": {"threshold": 0.7125, "actual_far": 0.01, "fnmr": {"value": 0.31, "ci95": [0.2, 0.4]}},
            },
            "far=1e-6": {"threshold": 0.9, "moved": {"threshold": None, "reason": "too few"}},
        },
    },
    "groups": {
        "at": {
            "far=1e-3": {
                "rates": {"old": {"fmr": {"value": 0.02}}, "<b>young": {"fmr": {"value": 0.01}}},
                "ratios": {
                    "fmr": {"max_over_min": {"value": 2.0, "ci95": [1.5, 3.0]}, "max_over_geometric_mean": None}
                },
                "across": [{"groups": ["old", "<b>young"], "impostors": 40, "fmr": {"value": 0.0051, "ci95": None}}],
                "age_gap": {"0–4 years": {"fnmr": {"value": 0.123, "ci95": [0.1, 0.2]}}},
            }
        }
    },
}


@pytest.mark.parametrize("arms", [1, 2])
def test_write_evaluation_shows_stored_thresholds_hard_impostors_claims_and_rates_across_groups(tmp_path, arms):
    runs = [RunRecord(Path(f"m{k}"), f"m{k}", evaluations={"ours": THRESHOLDS}) for k in range(arms)]
    write_evaluation(tmp_path / "page.html", runs, "ours")
    text = (tmp_path / "page.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    for part in (
        "60 people, 30 independent comparisons, support the claim of a FAR of 0.095 and above",
        "a FAR of 0.001 needs 5,990 people",
        "Whether the promised FAR of 0.01 holds cannot be decided.",
        "3.75 %",  # the bound of FMR
        "Each person and the 5 nearest strangers: 230 pairs of people, 3,680 impostor pairs",
        "the operating point",
        "0.7125",
        "0.51 %",  # across groups
        "FMR highest over lowest 2.00 (95 % interval 1.50 – 3.00)",
        "12.3 %",  # by years
        "&lt;b&gt;young",
    ):
        assert part in text, part
    for row in re.findall(r"<tr>(.*?)</tr>", text.split("Hard impostors")[1].split("</table>")[0]):
        assert len(re.findall("<t[dh]", row)) == 6 + (arms > 1)


DAMAGE: list[Any] = [
    None,
    7,
    "x",
    [],
    ["x"],
    {"at": {"x": 3}},
    {"at": {"x": {"across": ["y"], "rates": {"a": 1, "b": 2}}}},
    {"at": {"x": {"across": [{"groups": [{}]}], "rates": {"a": 1, "b": 2}, "moved": 3}}},
    {
        "claims": {"smallest_far": 0.1, "independent_comparisons": 3, "people_needed": {"x": "y"}},
        "identities": 4,
    },
    {"fmr": 3, "sentence": {}, "k": "x", "impostors": []},
]


@pytest.mark.parametrize("part", ["protocol", "promise", "hard", "groups"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_write_evaluation_survives_damaged_thresholds(tmp_path, part, damage):
    run = RunRecord(Path("m"), "m", evaluations={"ours": {**THRESHOLDS, part: damage}})
    write_evaluation(tmp_path / "page.html", [run], "ours")
    assert "</html>" in (tmp_path / "page.html").read_text(encoding="utf-8")
