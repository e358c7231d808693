"""Processes that talk to each other through gloo, kept for many tests: functions of a test file run in all of them.

Run as a script it forks into these processes once it has imported what all of them need.
"""

from __future__ import annotations

import gc
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import traceback
from datetime import timedelta
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


class Processes:
    """``run(function, world, *args)`` calls function(group, *args) in the first ``world`` processes at once."""

    def __init__(self, most: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        address = str(Path(self._folder.name) / "socket")
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONPATH": path}
        with Listener(address, "AF_UNIX") as listener:
            command = [sys.executable, "-m", __name__, address, str(Path(self._folder.name) / "store"), str(most)]
            self._parent = subprocess.Popen(command, env=environment)
            arrived = [listener.accept() for _ in range(most)]
        self._connections: list[Connection] = [
            c for _, c in sorted((c.recv(), i, c)[::2] for i, c in enumerate(arrived))
        ]

    def run(self, function: Any, world: int, *args: Any) -> list[Any]:
        """What it returns in each process, in rank order; exceptions are raised here as one with their texts."""
        chosen = self._connections[:world]
        for connection in chosen:
            _send(connection, (function.__code__.co_filename, function.__name__, world, args))
        answers = [_receive(connection) for connection in chosen]
        if faults := [answer for fine, answer in answers if not fine]:
            raise AssertionError("\n".join(faults))
        return [answer for _, answer in answers]

    def close(self) -> None:
        """End them."""
        for connection in self._connections:
            connection.close()
        self._parent.wait(timeout=60)
        self._folder.cleanup()


def _send(connection: Connection, value: Any) -> None:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    connection.send_bytes(buffer.getvalue())


def _receive(connection: Connection) -> Any:
    return torch.load(io.BytesIO(connection.recv_bytes()), weights_only=False)


def _serve(address: str, store: str, most: int, rank: int) -> None:
    torch.set_num_threads(1)
    patience = timedelta(seconds=30)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=most, timeout=patience)
    groups = {world: dist.new_group(range(world), timeout=patience) for world in range(1, most + 1)}
    modules: dict[str, Any] = {}
    with Client(address, "AF_UNIX") as connection:
        connection.send(rank)
        while True:
            try:
                file, name, world, args = _receive(connection)
            except EOFError:
                break
            try:
                if file not in modules:
                    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
                    assert spec is not None
                    assert spec.loader is not None
                    modules[file] = importlib.util.module_from_spec(spec)
                    spec.loader.exec_module(modules[file])
                _send(connection, (True, getattr(modules[file], name)(groups[world], *args)))
            except BaseException:
                _send(connection, (False, f"rank {rank}: {traceback.format_exc()}"))
    dist.destroy_process_group()


def _fork(address: str, store: str, most: int) -> None:
    # What test files and steps of training import. (Not numba, whose threads do not survive a fork.)
    for module in ("hypothesis", "pytest", "torch._dynamo", "vplface.head"):
        importlib.import_module(module)
    gc.freeze()  # or the first collection copies all memory in each of them
    for rank in range(most):
        if os.fork() == 0:
            try:
                _serve(address, store, most, rank)
            except BaseException:
                traceback.print_exc()
            os._exit(0)  # which leaves out the slow end of an interpreter
    for _ in range(most):
        os.wait()


if __name__ == "__main__":
    _fork(sys.argv[1], sys.argv[2], int(sys.argv[3]))
