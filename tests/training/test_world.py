"""Processes that lose each other say whom they miss."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from vplface.training.world import World, join

SCRIPT = """
import os, signal, sys, time
import torch
from vplface.training.world import RankError, join
with join(timeout=4) as world:
    with world.blaming():
        for step in range(3):
            world.arrive(step)
            if step == 2 and world.rank == 1:
                if sys.argv[1] == "hangs":
                    time.sleep(60)
                os.kill(os.getpid(), signal.SIGSTOP if sys.argv[1] == "stops" else signal.SIGKILL)
            assert world.sum([1.0, world.rank]) == [2.0, 1.0]
"""


def start(kind):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(2):
        environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        environment["MASTER_PORT"] = port
        children.append(
            subprocess.Popen([sys.executable, "-c", SCRIPT, kind], env=environment, stderr=subprocess.PIPE, text=True)
        )
    return children


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("dies", "rank 0 waits in vain in step 3: rank 1 has died or was stopped"),
        ("stops", "rank 0 waits in vain in step 3: rank 1 has died or was stopped"),
        ("hangs", "rank 0 waits in vain in step 3: rank 1 lives but is late: in step 3, <string>:"),
    ],
)
def test_who_is_missed_is_named(kind, message):
    first, second = start(kind)
    try:
        _, text = first.communicate(timeout=60)
    finally:
        second.kill()
        second.communicate()
    assert first.returncode == 1
    assert f"RankError: {message}" in text


def test_one_process_needs_nobody():
    with join(timeout=1) as world:
        assert world == World()
        assert world.main
        assert world.sum([1.0, 2.0]) == [1.0, 2.0]
        assert world.union({"a"}) == {"a"}
        assert world.once(lambda: "done") == "done"
