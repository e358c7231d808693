"""Exit statuses and messages of commands: one line on stderr for an error, a traceback for a bug."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vplface.console import OutputError
from vplface.errors import TrainingInterrupted, UsageError
from vplface.printable import LINE_LENGTH, printable, shortened
from vplface.reasons import explained


@contextmanager
def ending() -> Iterator[None]:
    """Turn an error that the user can correct into its message and an exit status; others propagate.

    Exit status: 1 error of a file or the machine, 2 wrong usage, 130 interrupted, 141 standard output was closed by its
    reader, as after SIGPIPE.

    Raises:
        SystemExit: with that status.
    """
    try:
        yield
    except UsageError as error:
        _fail(str(error), 2)
    except TrainingInterrupted as error:
        print(error, file=sys.stderr)
        raise SystemExit(0 if error.preempted else 130) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except OutputError as error:
        if isinstance(error.reason, BrokenPipeError):
            raise SystemExit(128 + getattr(signal, "SIGPIPE", 13)) from None
        _fail(str(error), 1)
    except Exception as error:
        message = explained(error)
        if message is None:
            raise
        _fail(message, 1)


def _fail(message: str, status: int) -> None:
    # Later lines are indented: a name with a newline cannot add a line that looks like one of ours.
    text = shortened(printable(message), LINE_LENGTH).replace("\n", "\n  ")
    print(f"vplface: {text}", file=sys.stderr)
    raise SystemExit(status) from None
