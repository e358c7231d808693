"""A short drill; the long one is a command, whose figures are in docs/reliability.md."""

from __future__ import annotations

import sys

import faults
import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="the drill finds processes in /proc")
@pytest.mark.parametrize("processes", [1, 2])
def test_runs_with_faults_come_to_the_end_of_undisturbed_ones(tmp_path, processes):
    seen = faults.drill(tmp_path, 6 if processes == 1 else 2, [processes], seed=processes)
    assert seen.total() >= 2


@pytest.mark.skipif(sys.platform != "linux", reason="the drill finds processes in /proc")
def test_a_vanished_picture_and_a_full_disk(tmp_path):
    import random

    run = faults.Run(tmp_path / "run", tmp_path / "faces", 1)
    faults.lose_a_picture(run, random.Random(0))
    if not faults.can_mount(tmp_path / "run"):
        pytest.skip("making a small disk needs root")
    newest, _ = faults.newest_checkpoint(run.folder / "checkpoints")
    size = sum(file.stat().st_size for file in newest.iterdir()) // 1024
    faults.fill_the_disk(faults.Run(tmp_path / "full", tmp_path / "faces", 1), size_kb=3 * size)


def test_the_drill_fails_a_run_that_ends_otherwise(tmp_path):
    run = faults.Run(tmp_path / "run", tmp_path, 1)
    with pytest.raises(faults.DrillError, match="with 1 processes: another end"):
        faults.require(False, run, "another end")
