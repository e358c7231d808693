"""Ranks of a run: variables of torchrun, missing ranks, and invalid values in their store."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from vplface.errors import ConfigError
from vplface.training import distributed
from vplface.training.distributed import DistributedContext, PendingSum, RankError, join, launch

SCRIPT = """
import os, signal, socket, sys, time, traceback
import torch
from vplface.training.distributed import RankError, join

def train(kind):
    with join(timeout=4) as context:
        with context.name_missing_ranks():
            for step in range(3):
                context.report_step(step)
                if step == 2 and context.rank == 1:
                    if kind == "hangs":
                        time.sleep(60)
                    os.kill(os.getpid(), signal.SIGSTOP if kind == "stops" else signal.SIGKILL)
                assert context.sum([1.0, context.rank]) == [2.0, 1.0]

ranks = {}
for kind in sys.argv[1:]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for rank in range(2):
        os.environ["RANK"] = str(rank)
        ranks[kind, rank] = os.fork()
        if not ranks[kind, rank]:
            sys.stderr = open(f"{kind}{rank}", "w")
            try:
                train(kind)
            except RankError:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
for kind in sys.argv[1:]:
    os.waitpid(ranks[kind, 0], 0)
    os.kill(ranks[kind, 1], signal.SIGKILL)
"""
STATES = {
    "dies": "rank 0 timed out at step 3: rank 1 has died or was stopped",
    "stops": "rank 0 timed out at step 3: rank 1 has died or was stopped",
    "hangs": "rank 0 timed out at step 3: rank 1 is alive but late: in step 3, <string>:",
}


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """What rank 0 says of each state of rank 1; all wait for their timeouts together."""
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([sys.executable, "-c", SCRIPT, *STATES], cwd=folder, timeout=100, check=True)
    return {kind: (folder / f"{kind}0").read_text() for kind in STATES}


@pytest.mark.skipif(sys.platform != "linux", reason="the ranks are forked")
@pytest.mark.parametrize("kind", STATES)
def test_name_missing_ranks_names_the_rank_and_its_state(messages, kind):
    assert f"RankError: {STATES[kind]}" in messages[kind]


def test_join_of_one_process_needs_no_others():
    with join(timeout=1) as context:
        assert context == DistributedContext()
        assert context.is_main
        assert context.sum([1.0, 2.0]) == [1.0, 2.0]
        assert context.union({"a"}) == {"a"}
        assert context.on_main(lambda: "done") == "done"


def test_PendingSum_counts_as_a_collective_while_it_waits(monkeypatch):
    class Work:
        """A collective that looks who waits for it."""

        def wait(self):
            seen.append(distributed._is_in_collective(sys._getframe(1)))

    seen = []
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda total, group, async_op: Work())
    pending = PendingSum([1.0, 2.0], group=object())
    assert seen == []
    assert pending.wait() == [1.0, 2.0]
    assert seen == [True]
    assert not distributed._is_in_collective(sys._getframe())


WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def environment(monkeypatch):
    def set_to(variables):
        for name in (*WHOLE, "TORCHELASTIC_RUN_ID"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_to


def test_launch_reads_the_variables_of_torchrun(environment):
    environment(WHOLE)
    assert launch() == (2, 1)
    for alone in ({}, {"RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "1"}, {"LOCAL_RANK": "x"}):
        environment(alone)
        assert launch() is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MASTER_ADDR": None}, "RANK is set and MASTER_ADDR is not; start with torchrun"),
        ({"MASTER_PORT": None}, "RANK is set and MASTER_PORT is not"),
        ({"RANK": None}, "WORLD_SIZE is 2 and RANK is not set"),
        ({"RANK": "2"}, "RANK must be a whole number from 0 to 1, got '2'"),
        ({"RANK": "first"}, "RANK must be a whole number"),
        ({"RANK": ""}, "RANK must be a whole number"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number from 1 to .*, got 'two'"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE must be"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK must be"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT must be a whole number from 0 to 65535"),
    ],
)
def test_join_names_a_missing_or_invalid_variable_of_torchrun(environment, changes, message):
    environment({name: value for name, value in (WHOLE | changes).items() if value is not None})
    with pytest.raises(ConfigError, match=f"^{message}") as raised, join(timeout=1):
        pass
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 250


def test_join_names_an_address_where_ranks_cannot_meet(environment):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment(WHOLE | {"RANK": "0", "MASTER_PORT": str(taken.getsockname()[1])})
        with pytest.raises(RankError, match=r"cannot connect at 127\.0\.0\.1:.*MASTER_ADDR"), join(timeout=1):
            pass


class Lying:
    """A store that holds what somebody else wrote."""

    def __init__(self, value: bytes) -> None:
        self.value = value

    def check(self, keys: list[str]) -> bool:
        return True

    def get(self, key: str) -> bytes:
        return self.value


@pytest.mark.parametrize(
    "value", [b"", b"\xff", b"[" * 100_000, b"9" * 5000, b"3", b"null", b'{"result": 3}', b'{"result": {"a": []}}']
)
def test_DistributedContext_refuses_invalid_values_of_the_store(value: bytes) -> None:
    context = DistributedContext(1, 2, group=object(), _store=Lying(value))  # type: ignore[arg-type]
    with pytest.raises(RankError, match=r"the store of the ranks|rank 0 sent"):
        context.on_main(lambda: None)
    with pytest.raises(RankError, match="the store of the ranks"):
        context._read_all("heartbeat")


def test_DistributedContext_on_main_escapes_control_characters_of_rank_0() -> None:
    context = DistributedContext(1, 2, group=object(), _store=Lying(b'{"error": "DataError: \\u001b[2J"}'))  # type: ignore[arg-type]
    with pytest.raises(RankError, match=r"rank 0 failed: DataError: \\x1b\[2J"):
        context.on_main(lambda: None)
