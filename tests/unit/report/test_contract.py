"""Files of evaluations and comparisons, from their writers to the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from vplface.data.pairs import Pairs
from vplface.evaluation import Evaluation, compare, evaluate_all_pairs_embedded, evaluate_pairs_embedded
from vplface.report import read_run, write_report

PEOPLE, EACH = 30, 6


class Pictures:
    """Names and labels, as a set of pictures has them."""

    identities = tuple(f"p{person:02d}" for person in range(PEOPLE))
    labels = np.repeat(np.arange(PEOPLE), EACH)

    def __len__(self) -> int:
        return PEOPLE * EACH

    def picture(self, index: int) -> np.ndarray:
        return np.full((112, 112, 3), index, np.uint8)

    def name(self, index: int) -> str:
        return f"p{index // EACH:02d}/{index % EACH}.jpg"


def evaluated(noise: float) -> dict[str, Evaluation]:
    rng = np.random.default_rng(5)
    centres = np.repeat(rng.normal(size=(PEOPLE, 16)), EACH, axis=0)
    embeddings = (centres + noise * np.random.default_rng(9).normal(size=centres.shape)).astype(np.float32)
    pictures = Pictures()
    left = rng.integers(0, len(pictures), 300)
    right = np.where(rng.random(300) < 0.5, left // EACH * EACH + (left + 1) % EACH, (left + EACH) % len(pictures))
    names = [[pictures.name(int(index)) for index in side] for side in (left, right)]
    pairs = Pairs(*names, same=left // EACH == right // EACH, fold=np.arange(300) % 10)
    return {
        "pairs": evaluate_pairs_embedded(embeddings, pictures, pairs, name="pairs", flip="none", bootstrap=60),
        "all": evaluate_all_pairs_embedded(embeddings, pictures, name="all", flip="none", bootstrap=60),
    }


@pytest.mark.parametrize(("noise", "told"), [(0.9, "are not statistically different"), (2.6, "plain is ahead by")])
def test_write_report_reads_evaluations_and_their_comparison(tmp_path: Path, noise: float, told: str) -> None:
    arms = {"plain": evaluated(0.9), "vpl": evaluated(noise)}
    for name, sets in arms.items():
        (tmp_path / name).mkdir()
        stored = {set_name: evaluation.to_dict() for set_name, evaluation in sets.items()}
        (tmp_path / name / "evaluation.json").write_text(json.dumps(stored))
    comparison = {name: compare(arms["plain"][name], arms["vpl"][name]) for name in ("pairs", "all")}
    (tmp_path / "comparison.json").write_text(json.dumps(comparison))
    out = tmp_path / "report.html"
    sentence = write_report(out, [read_run(tmp_path / name) for name in arms], "A title")
    assert told in sentence
    text = out.read_text(encoding="utf-8")
    assert "30 people" in text
    assert "threshold chosen on the other folds" in text
    assert text.count("impostor</text>") == 4  # a histogram for each arm and set
    assert len(re.findall("<h4>ROC</h4>", text)) == 2
    assert re.search(r"p\d\d/\d\.jpg<br>p\d\d/\d\.jpg", text)
    reason = arms["plain"]["pairs"].metrics["tar@far=1e-4"]["reason"]
    assert reason in text.replace("&#x27;", "'")
