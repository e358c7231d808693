"""vplface bench head: figures are consistent, and arms with different losses are not compared."""

from __future__ import annotations

import gc
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from vplface.bench import head as bench
from vplface.bench.busy import BusyProcesses
from vplface.bench.head_arms import Arm
from vplface.bench.machine import machine
from vplface.bench.plot import draw
from vplface.bench.problem import Setting, problem_of
from vplface.cli.app import app
from vplface.errors import VplfaceError

ARMS = ["eager", "vplface", "vplface (no VPL)", "normalised softmax"]
SMALL = Setting(classes=300, batch=8, dim=16)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("computes", ["vpl", "clipped vpl"])
def test_ARMS_that_compute_the_same_have_equal_losses(dtype, computes):
    names = [name for name, arm in bench.ARMS.items() if arm.computes == computes and name != "eager (compiled)"]
    assert len(names) > 1
    problem = problem_of(replace(SMALL, dtype=dtype))
    assert 0.4 < (problem.timer > 0).float().mean() < 0.6
    for _ in range(3):
        steps = {name: bench.ARMS[name].make(problem) for name in names}
        losses = [[step() for step in steps.values()] for _ in range(3)]
        for of_step in losses:
            assert of_step == pytest.approx([of_step[0]] * len(names), rel=1e-4 if dtype == "float32" else 3e-2)
        assert losses[-1][0] < losses[0][0]


def test_measure_figures_are_consistent():
    result = bench.measure(SMALL, ARMS, repeats=1, memory=False)
    floor = result["floor"]
    assert floor["seconds"] == pytest.approx(floor["products"] + floor["memory"])
    assert list(result["arms"]) == ARMS
    for arm in result["arms"].values():
        least, most = arm["spread"]
        assert 0 < least <= arm["seconds"] <= most
        assert arm["over_floor"] == pytest.approx(arm["seconds"] / floor["seconds"])
    assert result["arms"]["eager"]["speedup"] == 1.0


def test_measure_times_the_floor_in_the_same_rounds_as_the_arms(monkeypatch):
    steps_a_round = len(ARMS) + 6
    speeds = [1.0, 3.0, 1.0, 20.0]  # one for each round; the first round is not counted
    calls = iter(speed for speed in speeds for _ in range(steps_a_round))
    monkeypatch.setattr(bench, "_time", lambda step, device: next(calls))
    result = bench.measure(SMALL, ARMS, repeats=3, memory=False)
    assert next(calls, None) is None
    assert result["floor"] == {"products": 9.0, "memory": 3.0, "seconds": 12.0}
    for arm in result["arms"].values():
        assert arm["seconds"] == 3.0
        assert arm["over_floor"] == pytest.approx(1 / 4)
        assert arm["speedup"] == 1.0


def test_measure_refuses_arms_with_different_losses(monkeypatch):
    lazy = Arm(lambda problem: lambda: 0.5, "vpl", 1, 0)
    monkeypatch.setattr(bench, "ARMS", {**bench.ARMS, "lazy": lazy})
    with pytest.raises(VplfaceError, match="eager and lazy compute different losses"):
        bench.measure(SMALL, ["eager", "lazy"], repeats=1, memory=False)


def test_measure_skips_an_arm_that_does_not_fit_in_memory_with_the_reason(monkeypatch):
    monkeypatch.setattr(bench, "free_bytes", lambda device: 200_000.0)
    arms = bench.measure(SMALL, ["eager", "vplface"], repeats=1, memory=False)["arms"]
    assert "are free" in arms["eager"]["reason"]
    assert "seconds" in arms["vplface"]


def test_peak_memory_of_vplface_is_bounded_by_the_workspace():
    """At 40,000 classes the logits would take 40 MiB and every copy of W 20 MiB."""
    setting = Setting(classes=40_000, batch=256, dim=128, workspace_mb=8)
    ours = bench.peak_memory(setting, "vplface")
    assert ours < 8 + 64
    assert ours < bench.peak_memory(setting, "normalised softmax")


def test_measure_frees_the_timed_steps_before_it_measures_memory(monkeypatch):
    def count(setting, arm):
        gc.collect()
        size = setting.classes * setting.dim
        return sum(1 for each in gc.get_objects() if type(each) is torch.Tensor and each.numel() >= size)

    before = count(Setting(classes=3000, batch=4, dim=8), "")
    monkeypatch.setattr(bench, "peak_memory", count)
    found = bench.measure(Setting(classes=3000, batch=4, dim=8), ["eager", "vplface"], repeats=1)
    assert found["arms"]["vplface"]["extra_mb"] <= before


def test_vplface_bench_head_prints_json_or_a_table_and_plots(tmp_path):
    size = ["--classes", "200,400", "--batch", "4", "--dim", "8", "--dtype", "float32"]
    words = ["bench", "head", *size, "--repeats", "1", "--no-memory"]
    picture = tmp_path / "plots" / "head.svg"
    chosen = ["--arms", "eager,vplface", "--plot", str(picture)]
    told = CliRunner().invoke(app, [*words, *chosen, "--json"])
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    assert report["schema"] == 1
    assert report["machine"]["torch"] == torch.__version__
    assert [result["classes"] for result in report["results"]] == [200, 400]
    assert "<svg" in picture.read_text(encoding="utf-8")
    shown = CliRunner().invoke(app, [*words, "--arms", "eager,vplface"])
    assert "N 400, B 4, d 8, float32: floor" in shown.stdout
    assert "× floor" in shown.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arms", "eagre"], "unknown arm 'eagre'"),
        (["--classes", "many"], "--classes takes whole numbers"),
        (["--classes", "1"], "whole numbers from 2 to"),
        (["--batch", "8,0"], "--batch takes whole numbers"),
        (["--dtype", "float16"], "--dtype takes float32"),
    ],
)
def test_vplface_bench_head_names_the_invalid_option(words, message):
    result = CliRunner().invoke(app, ["bench", "head", *words])
    assert result.exit_code == 2
    assert message in result.stderr


def test_draw_writes_bars_if_no_size_is_swept(tmp_path):
    result = bench.measure(SMALL, ARMS[:2], repeats=1, memory=False)
    draw(tmp_path / "bars.png", machine(), [result, {**result, "dtype": "bfloat16"}])
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_measure_beside_busy_processes_gives_the_slowdown_of_each_arm_within_rounds(monkeypatch):
    names = ["eager", "vplface"]
    alone, floor, busy = [2.0, 1.0], [1.0] * 6, [3.0, 4.0]
    calls = iter([9.0] * 10 + [*alone, *floor, *busy] + [*(3 * t for t in alone), *floor, *busy])
    monkeypatch.setattr(bench, "_time", lambda step, device: next(calls))
    arms = bench.measure(SMALL, names, repeats=2, memory=False, beside=1)["arms"]
    assert arms["eager"]["beside"] == {"processes": 1, "seconds": 3.0, "slowdown": (1.5 + 0.5) / 2}
    assert arms["vplface"]["beside"]["slowdown"] == pytest.approx((4.0 + 4 / 3) / 2)
    assert arms["eager"]["seconds"] == 4.0
    assert next(calls, None) is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the /proc of Linux")
def test_BusyProcesses_take_processor_time_only_while_at_work():
    def used() -> float:
        """Seconds of processor time, which Linux gives in ticks."""
        fields = Path(f"/proc/{busy._processes[0].pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    with BusyProcesses(1) as busy:
        time.sleep(0.1)
        before = used()
        time.sleep(0.3)
        idle = used() - before
        with busy.at_work():
            time.sleep(0.6)
        worked = used() - before - idle
        processes = busy._processes
    assert idle < 0.1 < worked
    assert not any(process.is_alive() for process in processes)
