"""A stand-in for the module subprocess that forks programs from a process that has imported their modules.

A new interpreter takes four seconds to import torch and its compiler. Programs are ``python -m MODULE ARGUMENTS``.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from subprocess import PIPE, STDOUT, CompletedProcess, TimeoutExpired, run
from typing import IO

__all__ = ["PIPE", "STDOUT", "CompletedProcess", "Popen", "TimeoutExpired", "run"]

_SERVER = multiprocessing.get_context("forkserver")
_IMPORTED = ["torch._dynamo", "torch.utils.tensorboard", "vplface.study.worker", "vplface.cli.app"]


def start_server() -> None:
    """Start the process from which programs are forked, unless it runs; a process of tests has at most one."""
    _SERVER.set_forkserver_preload(_IMPORTED)
    forkserver.ensure_running()


class Popen:
    """The part of subprocess.Popen that tests of training need; standard error goes to standard output."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | IO[bytes],
        stderr: int | IO[bytes],
        text: bool = False,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
    ) -> None:
        assert command[:2] == [sys.executable, "-m"]
        assert stderr in (STDOUT, stdout)
        start_server()
        given, self.stdin = _pipe_to() if stdin == PIPE else (None, None)
        self._output, printed = _SERVER.Pipe(duplex=False) if stdout == PIPE else (None, _connection(stdout))
        self._text = text
        arguments = (command[2:], dict(env or {}), start_new_session, given, printed)
        self._process = _SERVER.Process(target=_program, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        for end in (given, printed):
            if end is not None:
                end.close()

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutExpired(self._process.name, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | bytes, None]:
        """Wait for its end; returns its whole output."""
        assert self._output is not None
        with self._output, os.fdopen(os.dup(self._output.fileno()), "rb") as output:
            written = output.read()
        self.wait(timeout)
        return (written.decode() if self._text else written), None

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _pipe_to() -> tuple[Connection, IO[bytes]]:
    reading, writing = _SERVER.Pipe(duplex=False)
    with writing:
        return reading, os.fdopen(os.dup(writing.fileno()), "wb", buffering=0)


def _connection(file: int | IO[bytes]) -> Connection:
    """A file in a form that can be passed to another process."""
    assert not isinstance(file, int)
    return Connection(os.dup(file.fileno()), readable=False)


def _program(
    words: Sequence[str], environment: Mapping[str, str], alone: bool, given: Connection | None, printed: Connection
) -> None:
    if alone:
        os.setsid()
    os.environ.update(environment)
    if given is not None:
        os.dup2(given.fileno(), 0)
        given.close()
    for stream in (1, 2):
        os.dup2(printed.fileno(), stream)
    printed.close()
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False, errors="backslashreplace") for stream in (1, 2))
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
