"""Signals that stop a run: the current step is finished and saved; a second Ctrl-C stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

PREEMPTION = [signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]
"""The signals that schedulers send before they reclaim a machine."""


class Interrupt:
    """Signal handlers that set ``requested``; a second SIGINT raises KeyboardInterrupt.

    Attributes:
        requested: whether a signal has arrived.
        preempted: whether a scheduler sent it.
    """

    def __init__(self) -> None:
        self.requested = False
        self.preempted = False
        self._in_main_thread = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interrupt:
        if self._in_main_thread:
            self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, *PREEMPTION)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._in_main_thread:
            for number, before in self._before.items():
                signal.signal(number, before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested and not self.preempted:
            raise KeyboardInterrupt
        self.requested = True
        self.preempted = number != signal.SIGINT
