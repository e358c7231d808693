"""vplface bench with --processes: settings of strong and weak scaling, and processes with different losses."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from helpers import forked, lazy
from vplface.bench import machine
from vplface.bench import processes as bench
from vplface.bench.head_arms import sharded
from vplface.bench.problem import Setting
from vplface.bench.train import training
from vplface.cli.app import app
from vplface.errors import VplfaceError

SMALL = Setting(classes=50, batch=9, dim=16)


@pytest.fixture(scope="module", autouse=True)
def server():
    """Fork from the process that later files of tests need: there is one at most."""
    forked.start_server()


def test_cases_of_strong_scaling_keeps_the_total_size_and_weak_the_size_per_process(monkeypatch):
    monkeypatch.setattr(bench, "cores", lambda: 4)
    cases = bench.cases_of(SMALL, [8, 1, 2, 2], 0, "batch")
    assert [(case.scaling, case.processes, case.threads, case.setting.batch) for case in cases] == [
        ("base", 1, 4, 9),
        ("strong", 2, 2, 9),
        ("weak", 2, 2, 18),
        ("strong", 8, 1, 9),
        ("weak", 8, 1, 72),
    ]
    assert {case.setting.classes for case in cases} == {50}
    base, strong, weak = bench.cases_of(SMALL, [2, 6], 1, "classes")
    assert (base.processes, strong.setting.classes, weak.setting.classes) == (2, 50, 150)
    assert {case.threads for case in (base, strong, weak)} == {1}


@pytest.mark.parametrize(("make", "grows"), [(sharded, "classes"), (training, "batch")])
def test_scale_figures_are_consistent(make, grows):
    result = bench.scale(make, SMALL, [1, 2], repeats=3, grows=grows)
    base, strong, weak = result["scaling"]
    assert (result["classes"], result["batch"]) == (50, 9)
    assert (weak["classes"], weak["batch"]) == ((100, 9) if grows == "classes" else (50, 18))
    assert (base["speedup"], base["efficiency"]) == (1.0, 1.0)
    for entry in (base, strong, weak):
        least, most = entry["spread"]
        assert 0 < least <= entry["seconds"] <= most
        assert entry["pictures_per_second"] == pytest.approx(entry["batch"] / entry["seconds"])
        assert len(entry["losses"]) == bench.CHECKED["float32"]
    assert strong["efficiency"] == pytest.approx(base["seconds"] / strong["seconds"] / 2)
    assert weak["efficiency"] == pytest.approx(base["seconds"] / weak["seconds"])
    if grows == "classes":
        assert strong["losses"] == pytest.approx(base["losses"], rel=1e-4)


@pytest.mark.parametrize(("make", "grows"), [(lazy.without_update, "classes"), (lazy.without_averaging, "batch")])
def test_scale_refuses_processes_with_different_losses(make, grows):
    with pytest.raises(VplfaceError, match=r"2 processes \(strong scaling\) have a loss of .* in step [23]"):
        bench.scale(make, SMALL, [1, 2], repeats=1, grows=grows)


def test_scale_reports_a_killed_process():
    with pytest.raises(VplfaceError, match="of 2 was killed"):
        bench.scale(lazy.killed, SMALL, [2], repeats=1, grows="classes")


def test_scale_refuses_cases_that_do_not_fit_in_memory(monkeypatch):
    monkeypatch.setattr(bench, "free_bytes", lambda device: 10_000.0)
    with pytest.raises(VplfaceError, match="2 processes with 100 classes need"):
        bench.scale(sharded, SMALL, [1, 2], repeats=1, grows="classes")


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        (["head", "--batch", "8", "--dtype", "float32,bfloat16"], [("float32", 100, 8), ("bfloat16", 100, 8)]),
        # BatchNorm over a few pictures would magnify the rounding of bfloat16.
        (["train", "--batch", "32", "--backbone", "tiny", "--dtype", "bfloat16"], [("bfloat16", 50, 64)]),
    ],
)
def test_vplface_bench_json_is_the_only_output_on_stdout(words, sizes):
    small = ["--classes", "50", "--dim", "16", "--repeats", "1", "--processes", "1,2", "--json"]
    command = [sys.executable, "-m", "vplface", "bench", *words, *small]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert told["schema"] == 1
    assert told["machine"]["cores"] >= 1
    weak = [(result["dtype"], result["scaling"][2]) for result in told["results"]]
    assert [(dtype, entry["classes"], entry["batch"]) for dtype, entry in weak] == sizes
    assert {entry["threads"] for result in told["results"] for entry in result["scaling"]} == {1}


def test_vplface_bench_train_prints_scaling_and_warns_of_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 1)
    words = ["bench", "train", "--backbone", "tiny", "--classes", "50", "--batch", "8", "--dim", "16", "--repeats", "1"]
    words += ["--dtype", "float32", "--processes", "1,2"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "tiny, N 50, B 8, d 16, float32" in shown.stdout
    assert "efficiency" in shown.stdout
    assert "2 threads share 1 cores" in shown.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--backbone", "resnet"], "unknown backbone 'resnet'"),
        (["train", "--dtype", "float16"], "--dtype takes float32, bfloat16, or both"),
        (["train", "--processes", "1,x"], "--processes takes whole numbers"),
        (["train", "--processes", "0"], "whole numbers from 1 to"),
        (["train", "--threads", "1"], "give --processes too"),
        (["train", "--processes", "1,2", "--compile"], "omit --plot"),
        (["train", "--batch", "5", "--processes", "1,3"], "--batch 5 is too small: each of 3 processes"),
        (["head", "--batch", "128,2", "--processes", "3"], "--batch 2 is too small: each of 3 processes"),
        (["head", "--processes", "1,2", "--arms", "vplface"], "omit --arms"),
        (["head", "--processes", "1,2", "--device", "cuda"], "omit --arms"),
        (["head", "--processes", "1,2", "--no-memory"], "omit --arms"),
        (["head", "--threads", "1"], "give --processes too"),
    ],
)
def test_vplface_bench_names_the_invalid_option(words, message):
    result = CliRunner().invoke(app, ["bench", *words])
    assert result.exit_code == 2
    assert message in result.stderr
