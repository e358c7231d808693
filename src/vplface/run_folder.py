"""The layout of model and run folders: the place of each file, and whether the report reads or a restart removes it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self, overload

from vplface.errors import DataError
from vplface.reading import is_file, parse_json, read_json_object

_TAIL = 8192
"""Bytes at the end of metrics.jsonl that are searched for its last line."""
_LARGEST = 10**15


class Entry:
    """The name of a file or folder: on an instance of the owning class its path, on the class the entry itself.

    Args:
        name: the name inside the folder.
        removed: whether a restart removes it.
    """

    def __init__(self, name: str, *, removed: bool) -> None:
        self.name = name
        self.removed = removed

    @overload
    def __get__(self, folder: None, owner: type) -> Self: ...

    @overload
    def __get__(self, folder: ModelFolder, owner: type) -> Path: ...

    def __get__(self, folder: ModelFolder | None, owner: type) -> Self | Path:
        return self if folder is None else folder.path / self.name


@dataclass(frozen=True)
class ModelFolder:
    """A folder that holds one model: any folder with these files, a run folder, or the folder ``best`` of a run."""

    path: Path

    weights = Entry("model.safetensors", removed=True)
    card = Entry("model.json", removed=True)
    operating_point = Entry("operating_point.json", removed=True)
    evaluation = Entry("evaluation.json", removed=True)

    BEST: ClassVar = "best"
    """The name of the folder inside a run folder that holds the model of the best validation figure."""

    @property
    def is_best(self) -> bool:
        """Whether its name is that of a run's best model."""
        return self.path.name == self.BEST

    @property
    def run(self) -> RunFolder:
        """The run that trained the model: the parent of a folder ``best``, else the folder itself."""
        return RunFolder(self.path.parent if self.is_best else self.path)


@dataclass(frozen=True)
class RunFolder(ModelFolder):
    """A folder of ``vplface train``. It is a model folder, too: that of the last saved model."""

    config = Entry("config.yaml", removed=False)
    """A restart replaces it."""
    damaged_config = Entry("damaged-config.yaml", removed=False)
    environment = Entry("environment.json", removed=True)
    identities = Entry("identities.json", removed=True)
    metrics = Entry("metrics.jsonl", removed=True)
    checkpoints = Entry("checkpoints", removed=True)
    finetuning = Entry("finetuning.json", removed=True)
    sphere = Entry("sphere.npz", removed=True)
    report = Entry("report.html", removed=True)
    loggers = Entry("loggers.json", removed=False)
    """The loggers replace it."""
    tensorboard = Entry("tensorboard", removed=False)
    """Its writer marks the events of earlier runs as void."""
    log = Entry("log.txt", removed=False)
    """The output of a run of a study; each start appends to it."""

    _best = Entry(ModelFolder.BEST, removed=True)
    _untouched = Entry("untouched", removed=True)
    restart_marker = Entry("anew", removed=True)
    """An empty file that marks the run for a restart by the study. It is the last entry, so it is removed last."""

    @property
    def best(self) -> ModelFolder:
        """The model of the best validation figure."""
        return ModelFolder(self.path / self.BEST)

    @property
    def untouched(self) -> ModelFolder:
        """The model that the run started from, and its figures."""
        return ModelFolder(self.path / type(self)._untouched.name)

    def holds_run(self) -> bool:
        """Whether training has left files here; a start that failed leaves at most config.yaml."""
        return any(path.exists() for path in (self.metrics, self.weights, self.checkpoints))

    def remove_run(self) -> None:
        """Remove the files of an earlier run before a run starts from its first step.

        Raises:
            OSError: if something cannot be removed.
        """
        for name in _removed_on_restart():
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def last_metrics(self) -> dict[str, float]:
        """The numbers in the last whole line of metrics.jsonl; empty if there are none."""
        try:
            if not is_file(self.metrics):
                return {}
            with self.metrics.open("rb") as file:
                file.seek(max(0, self.metrics.stat().st_size - _TAIL))
                lines = file.read(_TAIL).split(b"\n")[:-1]
            found = parse_json(lines[-1], str(self.metrics)) if lines else {}
        except (OSError, DataError):
            return {}
        return {key: value for key, value in found.items() if _is_number(value)} if isinstance(found, Mapping) else {}

    def total_steps(self) -> int | None:
        """The number of steps of the whole run; None if environment.json does not hold it."""
        try:
            steps = read_json_object(self.environment).get("steps")
        except DataError:
            return None
        return steps if isinstance(steps, int) else None


REPORTED = (
    RunFolder.config.name,
    RunFolder.environment.name,
    RunFolder.metrics.name,
    RunFolder.evaluation.name,
    RunFolder.finetuning.name,
    RunFolder.card.name,
    RunFolder.weights.name,
    f"{RunFolder.BEST}/{RunFolder.card.name}",
    f"{RunFolder.BEST}/{RunFolder.weights.name}",
    RunFolder.sphere.name,
)
"""The paths of the files that a report reads or lists, in the order in which it lists them."""


def _removed_on_restart() -> list[str]:
    entries = vars(ModelFolder) | vars(RunFolder)
    return [entry.name for entry in entries.values() if isinstance(entry, Entry) and entry.removed]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
