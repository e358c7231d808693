"""benchmarks/evaluation.py: generated sets have the stated sizes, and every stage runs."""

from __future__ import annotations

import json

import evaluation as bench
import numpy as np
import pytest
from typer.testing import CliRunner


def test_faces_and_pairs_have_the_sizes_of_Size():
    size = bench.Size()
    faces = bench._faces(size)
    assert len(faces.pictures) == 469_375
    assert len(np.unique(faces.template)) == size.templates
    assert len(np.unique(faces.medium)) == size.media
    pairs = bench._pairs(bench.QUICK)
    assert (len(pairs.same), int(pairs.same.sum())) == (20_000, pytest.approx(300, abs=400))
    assert pairs.left.max() <= bench.QUICK.subjects < pairs.right.min()
    assert pairs.right.max() <= bench.QUICK.templates


@pytest.mark.parametrize("stage", list(bench.STAGES))
def test_STAGES_run_on_small_sets(stage):
    work = bench.STAGES[stage](bench.QUICK)
    work.run()
    assert work.products >= 0


def test_megaface_counts_the_products_and_reads_of_a_search():
    work = bench.STAGES["megaface"](bench.QUICK)
    assert work.products == 2 * 100 * 5_000 * 512
    assert work.reads == 5_000 * 512 * 4


def test_evaluation_main_reports_seconds_and_memory_and_refuses_an_unknown_stage():
    result = CliRunner().invoke(bench.app, ["--quick", "--stages", "lfw", "--json"])
    assert result.exit_code == 0, result.output
    [said] = json.loads(result.stdout)["results"]
    assert said["stage"] == "lfw"
    assert 0 < said["seconds"] < 60
    assert 50 < said["peak_mb"] < 4096
    wrong = CliRunner().invoke(bench.app, ["--stages", "ijbd"])
    assert "no stage 'ijbd'" in str(wrong.exception)
