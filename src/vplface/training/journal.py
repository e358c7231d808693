"""The journal of a run, metrics.jsonl, and a description of the environment that it ran in."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from vplface.errors import DataError
from vplface.files import replacing
from vplface.reading import MEBIBYTE, kind_of, parse_json, read_text
from vplface.run_folder import RunFolder
from vplface.training.loggers import Loggers

PACKAGES = ("vplface", "torch", "numpy", "opencv-python-headless", "safetensors")
_LIMIT = 8192 * MEBIBYTE
"""The largest journal that a resumed run continues, in bytes."""


class Journal:
    """Appends measurements to metrics.jsonl, one line of JSON each, and sends the same numbers to loggers.

    Args:
        folder: of the run.
        first_step: lines of later steps are dropped: a resumed run takes those steps again.
        loggers: other places for the numbers.
    """

    def __init__(self, folder: Path, first_step: int, loggers: Loggers) -> None:
        self._path = RunFolder(folder).metrics
        kept = [line for line in self._lines() if _step(line) <= first_step] if first_step else []
        with replacing(self._path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        try:
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._cannot_write(error) from error
        self._loggers = loggers

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()  # flushes lines that a full disk has refused so far
        except OSError as failed:
            if error is None:
                raise self._cannot_write(failed) from failed

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one measurement; ``entry["step"]`` says when it was taken.

        Raises:
            DataError: if it cannot be written, for example to a full disk.
        """
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._cannot_write(error) from error
        self._loggers.log(entry, entry["step"])

    def losses(self) -> list[tuple[int, float]]:
        """The steps that were logged so far, and their losses."""
        lines = [parse_json(line, RunFolder.metrics.name) for line in self._lines()]
        return [(int(line["step"]), float(line["loss"])) for line in lines if "loss" in line]

    def _lines(self) -> list[str]:
        if kind_of(self._path) is None:
            return []
        text = read_text(self._path, errors="replace", limit=_LIMIT)
        return [line for line in text.split("\n") if _step(line) >= 0]

    def _cannot_write(self, error: OSError) -> DataError:
        return DataError(f"cannot write {self._path}: {error.strerror or error}")


def environment() -> dict[str, Any]:
    """Versions, processor, threads, devices and command line of this process."""
    return {
        "command": " ".join(["vplface", *sys.argv[1:]]),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _step(line: str) -> int:
    """The step of a line of metrics.jsonl; −1 for the torn last line of a killed run."""
    try:
        return int(parse_json(line, RunFolder.metrics.name)["step"])
    except (DataError, ValueError, KeyError, TypeError, OverflowError):
        return -1


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
