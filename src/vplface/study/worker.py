"""A child process of a study: one run, read from standard input; ``python -m vplface.study.worker``.

The first line of the input is the run. When the input ends, the parent is gone: the run then saves and stops.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from vplface.config import build_config
from vplface.errors import TrainingInterrupted
from vplface.reasons import explained
from vplface.study.runner import STOPPED
from vplface.study.single import finish


def main() -> int:
    """Carry out the run; returns the exit status."""
    with open(0, "rb", buffering=0, closefd=False) as standard_input:
        config = json.loads(standard_input.readline())
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        finish(build_config(config, "the study"))
    except TrainingInterrupted:
        return STOPPED
    except Exception as error:
        if (message := explained(error)) is None:
            raise
        print(message, file=sys.stderr)
        return 1
    return 0


def _stop_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
