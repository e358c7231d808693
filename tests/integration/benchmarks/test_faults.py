"""benchmarks/faults.py on a few faults; docs/reliability.md has the figures of a long run."""

from __future__ import annotations

import random
import sys

import faults
import pytest

from helpers import forked


@pytest.mark.skipif(sys.platform != "linux", reason="the drill finds processes in /proc")
@pytest.mark.parametrize("processes", [1, 2])
def test_drill_resumes_runs_after_faults_to_the_end_of_undisturbed_ones(tmp_path, processes, monkeypatch):
    monkeypatch.setattr(faults, "STEPS", 24)
    if processes == 1:  # torchrun starts interpreters
        monkeypatch.setattr(faults, "subprocess", forked)
    seen = faults.drill(tmp_path, 6 if processes == 1 else 2, [processes], seed=processes)
    assert seen.total() >= 2


@pytest.mark.skipif(sys.platform != "linux", reason="the drill finds processes in /proc")
def test_lose_a_picture_counts_it_and_fill_the_disk_resumes_with_more_space(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "subprocess", forked)
    run = faults.Run(tmp_path / "run", tmp_path / "faces", 1)
    faults.lose_a_picture(run, random.Random(0))
    if not faults.can_mount(tmp_path / "run"):
        pytest.skip("making a small disk needs root")
    newest, _ = faults.newest_checkpoint(run.folder / "checkpoints")
    size = sum(file.stat().st_size for file in newest.iterdir()) // 1024
    faults.fill_the_disk(faults.Run(tmp_path / "full", tmp_path / "faces", 1), size_kb=3 * size)


def test_require_raises_DrillError_with_the_number_of_processes(tmp_path):
    run = faults.Run(tmp_path / "run", tmp_path, 1)
    with pytest.raises(faults.DrillError, match="with 1 processes: another end"):
        faults.require(False, run, "another end")
