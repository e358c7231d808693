"""vplface bench train: whole training steps compared with those of a usual training loop."""

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from vplface.bench import loop, streaming
from vplface.bench.problem import Setting
from vplface.bench.streaming import least_seconds
from vplface.cli.app import app
from vplface.errors import VplfaceError

SMALL = Setting(1000, 4, 64)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(loop, "PICTURES", 20)
    monkeypatch.setattr(loop, "PEAK_SIZE", {"cpu": 32})


def test_measure_loops_have_equal_losses_and_report_their_parts():
    result = loop.measure(SMALL, "tiny", ["float32", "bfloat16"], repeats=2)
    usual, ours, half = result["arms"].values()
    assert ours["losses"] == pytest.approx(usual["losses"], rel=1e-3)
    assert half["losses"][0] == pytest.approx(usual["losses"][0], rel=2e-2)
    assert half["losses"] != ours["losses"]
    assert usual["speedup"] == 1.0
    for arm in (usual, ours, half):
        assert list(arm["parts"]) == list(loop.PARTS)
        assert min(arm["parts"].values()) >= 0
        assert arm["spread"][0] <= arm["seconds"] <= arm["spread"][1]
        assert arm["pictures_per_second"] == pytest.approx(4 / arm["seconds"])


def test_measure_refuses_a_loop_with_a_different_loss(monkeypatch):
    monkeypatch.setattr(
        "vplface.bench.head_arms.MARGIN", 0.4
    )  # margin of the usual head, read at every step, and of our head when it is built
    built = loop.head_of

    def other(problem, *rest):
        head = built(problem, *rest)
        head.margin = type(head.margin)(head.margin.scale, 0.5)
        return head

    monkeypatch.setattr(loop, "head_of", other)
    with pytest.raises(VplfaceError, match=r"vplface, float32 has a loss of .* in step 1"):
        loop.measure(SMALL, "tiny", ["float32"], repeats=1)


def test_measure_with_workers_reports_throughput_beside_what_the_parts_allow():
    arms = loop.measure(SMALL, "tiny", ["float32"], repeats=1, workers=1)["arms"]
    found = arms["vplface, float32"]["streamed"]
    assert "streamed" not in arms["as usual"]
    assert found["workers"] == 1
    assert found["allowed"] == pytest.approx(4 / least_seconds(arms["vplface, float32"]["parts"], 1, "cpu"))
    assert found["share"] == pytest.approx(found["pictures_per_second"] / found["allowed"])


def test_least_seconds_by_hand(monkeypatch):
    monkeypatch.setattr(streaming, "cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert least_seconds({"load": 1.0, "forward": 3.0, "head": 1.0}, 1, "cpu") == 4.5  # (2·4 + 1)/2: the cores
    assert least_seconds({"load": 9.0, "forward": 1.0}, 1, "cpu") == 9.0  # the worker
    assert least_seconds({"load": 9.0, "forward": 1.0}, 4, "cuda") == 2.25
    assert least_seconds({"load": 1.0, "forward": 3.0}, 1, "cuda") == 3.0  # the step
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert least_seconds({"load": 1.0, "forward": 3.0}, 1, "cpu") == 3.0


def test_flops_by_hand():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 112 * 112, 16, bias=False))
    one_way = 2 * 4 * 3 * 112 * 112 * 16  # the pictures need no gradient, so there is one product forward, one back
    assert loop._flops(network, SMALL) == 2 * one_way + 6 * 4 * 1000 * 64


def test_vplface_bench_train_prints_json_or_a_table_and_plots(tmp_path):
    words = [
        "bench",
        "train",
        "--backbone",
        "tiny",
        "--classes",
        "1000",
        "--batch",
        "4",
        "--dim",
        "64",
        "--repeats",
        "1",
    ]
    plot = tmp_path / "step.svg"
    shown = CliRunner().invoke(app, [*words, "--plot", str(plot)])
    assert shown.exit_code == 0, shown.output
    assert "tiny, " in shown.stdout
    assert "vplface, bfloat16" in shown.stdout
    assert "…" not in shown.stdout
    assert plot.read_bytes().startswith(b"<?xml")
    told = CliRunner().invoke(app, [*words, "--dtype", "float32", "--json"])
    [result] = json.loads(told.stdout)["results"]
    assert list(result["arms"]) == ["as usual", "vplface, float32"]
    assert result["flops"] > 6 * 4 * 1000 * 64


def test_vplface_bench_train_refuses_an_unknown_backbone():
    result = CliRunner().invoke(app, ["bench", "train", "--backbone", "tiny,resnet"])
    assert result.exit_code == 2
    assert "unknown backbone 'resnet'" in result.stderr
