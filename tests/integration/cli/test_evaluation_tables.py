"""Tables of an evaluation on a terminal of 80 columns."""

from __future__ import annotations

import re

import numpy as np

from vplface.cli.evaluation_tables import show_figures
from vplface.data.degrade import Blur, Degradation
from vplface.evaluation import EvalOptions
from vplface.evaluation.task import VerificationTask


class People:
    """Four pictures each of 80 people."""

    def __init__(self):
        self.labels = np.repeat(np.arange(80), 4)
        self.identities = [str(label) for label in range(80)]

    def __len__(self):
        return len(self.labels)

    def name(self, index):
        return f"{self.labels[index]}/{index % 4}.png"


OPTIONS = EvalOptions(flip=None, fars=[1e-2, 1e-3], bootstrap=20)


def shown(capsys, evaluation):
    show_figures(evaluation, "people", "as they are", {})
    return capsys.readouterr().out


def test_show_figures_prints_strata_of_a_degraded_set_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    task = VerificationTask("people", People()).with_degraded(Degradation(Blur(), share=0.3))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 16))[task.pictures.labels] + 0.8 * rng.normal(size=(320, 16))
    x[task.pictures.degraded] += 0.8
    evaluation = task.evaluate(x, OPTIONS)
    text, strata = shown(capsys, evaluation), evaluation.strata
    tables = text.split("Recognisability:")[0].splitlines()
    assert max(map(len, tables)) <= 80
    assert "…" not in re.sub(r" … ", "", "".join(tables))  # nothing is cut off
    rows = [re.split(r"\s{2,}", line.strip()) for line in tables]
    at = strata["at"]["far=1e-2"]
    (row,) = [row for row in rows if row[0] == "accepted at FAR 10⁻²"]
    assert row[1:] == [f"{at['accepted']:,}", *(f"{100 * of['tail']['value']:.1f}" for of in at["strata"].values())]
    firsts = [row for row in rows if row[:2] == ["10⁻³", "both good"]]
    assert firsts[0][2] == f"{100 * strata['at']['far=1e-3']['strata']['both good']['fnmr']['value']:.2f}"
    (poor,) = [row for row in rows if row[0] == "poor"]
    assert poor[1] == str(task.pictures.degraded.sum())
    assert poor[3].startswith(f"{strata['pictures']['poor']['norm']['value']:.3f} (")
    assert "tail" not in text.split("by quality")[0]  # the first table holds figures that judge the model


def test_show_figures_prints_no_strata_of_a_clean_set(capsys):
    x = np.random.default_rng(0).normal(size=(320, 16))
    text = shown(capsys, VerificationTask("people", People()).evaluate(x, OPTIONS))
    assert "TAR at FAR" in text
    assert "quality" not in text
    assert "poor" not in text
