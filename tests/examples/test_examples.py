"""The examples run as they are printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_plain_loop_learns_and_ends_with_living_memories() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "plain_loop.py")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"step +(\d+) +loss +([\d.]+) +coverage (\d+)%", done.stdout)
    steps, losses, coverage = zip(*[(int(step), float(loss), int(share)) for step, loss, share in lines], strict=True)
    assert steps == (10, 20, 30, 40)
    assert losses[-1] < losses[0] / 2
    assert coverage[:2] == (0, 0)  # step 20 is the last plain one: the memory comes into being after it
    assert min(coverage[2:]) > 50
