"""Signals that stop a run: the current step is finished and saved; a second Ctrl-C stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from vplface.training.distributed import DistributedContext, PendingSum

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


class SharedInterrupt:
    """The interrupt of all processes of a run, so that all stop after the same step.

    A single process stops after the step in which the signal came. Several sum their flags while the next step
    computes, and stop after that one.

    Args:
        own: of this process.
        context: the processes that share the run.

    Attributes:
        requested: whether a signal has arrived in some process.
        preempted: whether a scheduler sent one.
    """

    def __init__(self, own: Interrupt, context: DistributedContext) -> None:
        self.requested = False
        self.preempted = False
        self._own = own
        self._context = context
        self._pending: PendingSum | None = None

    def update(self) -> None:
        """Update the state after a step; all processes must call it."""
        begun = self._context.begin_sum([self._own.requested, self._own.preempted])
        known = begun if self._context.group is None else self._pending
        self._pending = begun
        if known is not None:
            self.requested, self.preempted = (count > 0 for count in known.wait())

    def finish(self) -> None:
        """Wait for the other processes, after the last step."""
        if self._pending is not None:
            self._pending.wait()
