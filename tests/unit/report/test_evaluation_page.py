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


@pytest.mark.parametrize("part", ["curves", "worst", "groups", "metrics"])
@pytest.mark.parametrize("damaged", [{}, None, [1], {"roc": 3, "cmc": {"rank": [1]}, "at": {"far=1": 7}, "genuine": 4}])
def test_write_evaluation_accepts_a_damaged_evaluation(tmp_path: Path, part: str, damaged: Any) -> None:
    _, text = written(tmp_path, [record("net", **{part: damaged})], "A title", picture_of=picture)
    assert "</html>" in text


def test_write_evaluation_omits_the_DET_curve_if_there_are_no_errors(tmp_path: Path) -> None:
    curves = EVALUATION["curves"] | {"roc": {"far": [0.0, 1.0], "tar": [1.0, 1.0]}}
    metrics = {"accuracy": {"value": 1.0, "ci95": [0.9, 1.0], "per_fold": [1.0, 1.0], "threshold": 0.3}}
    _, text = written(tmp_path, [record("net", curves=curves, metrics=metrics)], "A title")
    assert "<h4>DET</h4>" not in text  # there is nothing on logarithmic axes
    assert "Errors per fold" in text
