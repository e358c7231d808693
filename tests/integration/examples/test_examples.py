"""The scripts of examples run, and their printed loss and coverage are as expected."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from helpers.paths import ROOT

EXAMPLES = ROOT / "examples"


def run(name: str) -> tuple[tuple[int, ...], tuple[float, ...], tuple[int, ...], str]:
    """Steps, losses and coverage in percent as an example prints them, and its last line."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"step +(\d+) +loss +([\d.]+) +coverage (\d+)%", done.stdout)
    steps, losses, coverage = zip(*[(int(step), float(loss), int(share)) for step, loss, share in lines], strict=True)
    return steps, losses, coverage, done.stdout.splitlines()[-1]


def test_plain_loop_halves_its_loss_and_ends_with_coverage_above_half() -> None:
    steps, losses, coverage, _ = run("plain_loop.py")
    assert steps == (10, 20, 30, 40)
    assert losses[-1] < losses[0] / 2
    assert coverage[:2] == (0, 0)  # step 20 is the last plain step: the memory is created after it
    assert min(coverage[2:]) > 50


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("metric_learning.py", "pytorch_metric_learning", "metric-learning"),
        ("lightning_trainer.py", "lightning", "lightning"),
    ],
)
def test_plug_in_another_trainer_halves_the_loss_and_equals_PrototypeHead(name: str, package: str, extra: str) -> None:
    pytest.importorskip(package, reason=f"needs vplface[{extra}]")
    steps, losses, coverage, last = run(name)
    assert steps == (12, 24, 36, 48)
    assert losses[-1] < losses[0] / 2
    assert coverage[0] == 0
    assert min(coverage[1:]) > 50
    plugged, head, plain = (float(value) for value in re.findall(r"\d\.\d+", last))
    assert plugged == pytest.approx(head, rel=1e-3)
    assert plain != pytest.approx(head, rel=1e-2)
