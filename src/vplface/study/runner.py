"""Training of the runs of a study in child processes, several at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vplface.config import Config, EvaluationSet, Source
from vplface.errors import ConfigError, DataError, TrainingInterrupted, VplfaceError
from vplface.printable import printable
from vplface.reading import kind_of
from vplface.run_folder import RunFolder
from vplface.study.grid import Cell, Grid
from vplface.study.progress_table import ProgressTable
from vplface.study.single import mark_for_restart, standing
from vplface.training.distributed import launch
from vplface.training.interrupt import Interrupt
from vplface.training.sources import generate

STOPPED = 3
"""Exit status of a run that was interrupted and has saved everything."""
_LAST_LINES = 4
_LOG_READ = 2**20
"""Bytes at the end of a log that are searched for its last lines."""
_POLL_INTERVAL = 0.2


@dataclass(frozen=True)
class _Child:
    cell: Cell
    process: subprocess.Popen[bytes]
    log_start: int


def run_all(grid: Grid, *, overwrite: bool = False) -> dict[str, str]:
    """Train and evaluate the chosen runs of a study, ``grid.workers`` at a time.

    Finished runs are kept and unfinished ones resumed. The output of a run goes to log.txt in its folder. On a signal
    all active runs save and stop.

    Args:
        grid: the study.
        overwrite: restart the chosen runs.

    Returns:
        {run: the last lines of its log} of the runs that failed; they do not stop the others.

    Raises:
        ConfigError: naming the runs whose folders hold runs of another configuration.
        TrainingInterrupted: after Ctrl-C, SIGTERM or SIGUSR1, when everything is saved.
    """
    if (started := launch()) is not None and started[0] > 1:
        raise ConfigError(
            "a study trains its runs in one process each; for many processes train one run: vplface train"
        )
    if overwrite:
        mark_for_restart(cell.config for cell in grid.chosen)
    waiting = deque(_unfinished(grid.chosen))
    failed = _generate_faces(waiting)
    active: list[_Child] = []
    with Interrupt() as interrupt, ProgressTable(len(grid.chosen), list(waiting), grid.workers) as table:
        try:
            while (waiting or active) and not interrupt.requested:
                while waiting and len(active) < grid.workers:
                    active.append(_start(waiting.popleft(), grid.threads))
                    table.started(active[-1].cell)
                time.sleep(_POLL_INTERVAL)
                for child in [child for child in active if child.process.poll() is not None]:
                    active.remove(child)
                    if child.process.returncode:
                        failed[child.cell.name] = _reason(child)
                    table.ended(child.cell, failed=child.process.returncode != 0)
                table.show()
            left = len(waiting) + len(active)
            if interrupt.requested and left:
                for child in active:
                    child.process.terminate()
                for child in active:
                    child.process.wait()
        finally:
            for child in active:
                child.process.kill()
                child.process.wait()
    if interrupt.requested and left:
        raise TrainingInterrupted(
            f"stopped with {left} of {len(grid.chosen)} runs unfinished; everything is saved.",
            preempted=interrupt.preempted,
        )
    return failed


def _unfinished(cells: Sequence[Cell]) -> list[Cell]:
    found = {cell.name: standing(cell.config) for cell in cells}
    changed = [f"{name} ({', '.join(each.changed)})" for name, each in found.items() if each.state == "changed"]
    if changed:
        raise ConfigError(
            f"folders hold runs of another configuration: {'; '.join(changed)}. Restart them (--overwrite, with"
            " --arms, --settings and --seeds to choose which), or choose another name (name=...)"
        )
    return [cell for cell in cells if found[cell.name].state != "finished"]


def _generate_faces(waiting: deque[Cell]) -> dict[str, str]:
    """Write generated faces before the runs begin, because two runs must not write one folder at the same time.

    Returns:
        {run: the error} of the runs whose faces cannot be written; they are removed from ``waiting``.
    """
    failed: dict[str, str] = {}
    written: set[tuple[Path, str]] = set()
    for cell in list(waiting):
        try:
            _generate(cell.config, written)
        except VplfaceError as error:
            failed[cell.name] = str(error)
            waiting.remove(cell)
    return failed


def _generate(config: Config, written: set[tuple[Path, str]]) -> None:
    """Write the generated faces of one run, unless ``written`` names them."""
    sources: list[Source | EvaluationSet] = [*config.data.train, *config.evaluation.every_set]
    for source in sources:
        if source.synthetic is not None:
            key = (source.path, source.synthetic.model_dump_json())
            if key not in written:
                generate(source.path, source.synthetic)
                written.add(key)


def _start(cell: Cell, threads: int) -> _Child:
    try:
        cell.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write the run folder {cell.folder}: {error.strerror}") from error
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    log_path = RunFolder(cell.folder).log
    if kind_of(log_path) not in ("file", None):
        raise DataError(f"{log_path}: not a regular file; delete it")
    try:
        with log_path.open("ab") as log:
            log_start = log.tell()
            # In a session of its own: this process receives the terminal's Ctrl-C, and passes it on once.
            process = subprocess.Popen(
                [sys.executable, "-m", "vplface.study.worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
    except OSError as error:
        raise DataError(f"cannot start {cell.name}, which writes {log_path}: {error.strerror}") from error
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it died at once: its log says why
        process.stdin.write(json.dumps(cell.config.model_dump(mode="json")).encode() + b"\n")
        process.stdin.flush()
    return _Child(cell, process, log_start)


def _reason(child: _Child) -> str:
    """The last lines of the log of a failed run."""
    if child.process.returncode == STOPPED:
        return "interrupted; everything is saved"
    lines: list[str] = []
    with suppress(OSError), RunFolder(child.cell.folder).log.open("rb") as log:
        log.seek(max(child.log_start, log.seek(0, os.SEEK_END) - _LOG_READ))
        lines = [printable(line) for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    if child.process.returncode < 0:
        lines.append(f"killed by signal {-child.process.returncode}")
    return "\n".join(lines[-_LAST_LINES:]) or f"exit status {child.process.returncode}, no output"
