"""Loggers for the numbers of a run: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from vplface.config import Config
from vplface.errors import ConfigError, DataError, VplfaceError, import_extra
from vplface.files import replacing
from vplface.reading import kind_of, read_json_object
from vplface.run_folder import RunFolder

PROJECT = "vplface"
"""Project of Weights & Biases, and experiment of MLflow, unless the environment names another."""

_PARAMETERS = 100
"""MLflow's limit of parameters per call."""


class Logger(Protocol):
    """A destination for numbers. If it raises, the run continues without it.

    Attributes:
        identity: its own id of the run; None if the run folder is enough.
    """

    identity: str | None

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step."""

    def close(self, failed: bool) -> None:
        """Send all pending numbers, and close."""


class TensorBoard:
    """Event files in ``tensorboard/`` of the run folder; events of steps that a resumed run repeats are purged."""

    identity: str | None = None

    def __init__(self, config: Config, first_step: int, known: str | None) -> None:
        tensorboard = import_extra("torch.utils.tensorboard", "train")
        self._board = tensorboard.SummaryWriter(
            str(RunFolder(config.run_folder).tensorboard), purge_step=first_step + 1
        )

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step."""
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)

    def close(self, failed: bool) -> None:
        """Send all pending numbers, and close."""
        self._board.close()


class WeightsAndBiases:
    """A run of W&B, whose files lie in ``wandb/`` of the run folder; WANDB_MODE says whether they are sent.

    Raises:
        ConfigError: online without a key; there is never a prompt for it.
    """

    def __init__(self, config: Config, first_step: int, known: str | None) -> None:
        self.identity: str | None = known or secrets.token_hex(8)
        wandb = import_extra("wandb", "wandb")
        local = wandb.setup().settings.mode in ("offline", "dryrun", "disabled")
        if not local and not wandb.login(prompt=False, verify=False):
            raise ConfigError(
                "loggers: wandb has no key here; run `wandb login` once, or set WANDB_MODE=offline to keep its files in"
                " the run folder, from where `wandb sync` sends them"
            )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.identity,
            resume="allow",
            name=config.name,
            dir=str(config.run_folder),
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(console="off", silent=True, init_timeout=30, finish_timeout=60),
        )
        self._run.define_metric("*", step_metric="step")  # W&B's own count would refuse steps that are taken again
        print(f"wandb: {self._run.dir if local else self._run.url}", file=sys.stderr)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step."""
        self._run.log({**numbers, "step": step})

    def close(self, failed: bool) -> None:
        """Send all pending numbers, and close."""
        self._run.finish(exit_code=int(failed))


class MLflow:
    """A run of MLflow, at MLFLOW_TRACKING_URI or in ``mlruns/`` beside the run folder."""

    def __init__(self, config: Config, first_step: int, known: str | None) -> None:
        # A server that does not answer delays a step by a minute at most; with MLflow's defaults it would be many.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if place is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            place = (config.output / "mlruns").resolve().as_uri()
        self._mlflow = import_extra("mlflow", "mlflow")
        self._client = self._mlflow.MlflowClient(tracking_uri=place)
        self._run = known or self._begin(config)
        self.identity: str | None = self._run
        self._client.update_run(self._run, status="RUNNING")
        print(f"mlflow: {place}, run {self._run}", file=sys.stderr)

    def _begin(self, config: Config) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        run: str = self._client.create_run(experiment, run_name=config.name).info.run_id
        given = list(_leaves(config.model_dump(mode="json"), ""))
        for first in range(0, len(given), _PARAMETERS):
            some = [self._mlflow.entities.Param(_allowed(key), value) for key, value in given[first:][:_PARAMETERS]]
            self._client.log_batch(run, params=some)
        return run

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step."""
        now = int(1000 * time.time())
        metrics = [self._mlflow.entities.Metric(_allowed(name), value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, failed: bool) -> None:
        """Send all pending numbers, and close."""
        self._client.set_terminated(self._run, status="FAILED" if failed else "FINISHED")


KINDS: dict[str, Callable[[Config, int, str | None], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


class Loggers:
    """All loggers that a configuration names. One that fails is left out with a warning, and the run continues.

    Args:
        config: the configuration of the run.
        first_step: the number of steps already taken.
        fresh: whether the run is new; ids in the folder are then ignored.

    Raises:
        VplfaceError: before the first step, if a logger cannot be used: its extra is missing, nobody is logged in, or
            its server does not answer. In a resumed run that is a warning.
    """

    def __init__(self, config: Config, first_step: int, fresh: bool = False) -> None:
        self._open: dict[str, Logger] = {}
        path = RunFolder(config.run_folder).loggers
        known = {} if fresh else _known(path)
        # TensorBoard last: it purges the events of an earlier run, which must stay if another logger cannot start.
        for name in sorted(dict.fromkeys(config.loggers), key=lambda name: name == "tensorboard"):
            try:
                self._open[name] = KINDS[name](config, first_step, known.get(name))
            except Exception as error:
                if first_step:
                    _warn(name, error)
                    continue
                self.close(failed=True)
                if isinstance(error, VplfaceError):
                    raise
                raise ConfigError(
                    f"loggers: {name} cannot be used: {_first_line(error)}; fix that, or remove it from loggers"
                ) from error
        names = known | {name: logger.identity for name, logger in self._open.items() if logger.identity is not None}
        if names:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(names) + "\n", encoding="utf-8")
        else:
            path.unlink(missing_ok=True)

    def __enter__(self) -> Loggers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)

    def log(self, entry: Mapping[str, Any], step: int) -> None:
        """Send the numbers of an entry of the journal, nested names joined by slashes."""
        numbers = dict(_numbers(entry, ""))
        for name, logger in list(self._open.items()):
            try:
                logger.log(numbers, step)
            except Exception as error:
                _warn(name, error)
                del self._open[name]

    def close(self, failed: bool) -> None:
        """Close all loggers; ``failed`` is the outcome of the run."""
        while self._open:
            name, logger = self._open.popitem()
            try:
                logger.close(failed)
            except Exception as error:
                _warn(name, error)


def _known(path: Path) -> dict[str, str]:
    """The loggers' ids of the run so far; empty, with a warning, if the file cannot be read."""
    try:
        if kind_of(path) is None:
            return {}
        return {name: identity for name, identity in read_json_object(path).items() if isinstance(identity, str)}
    except DataError as error:
        print(f"{error}; wandb and mlflow start new runs", file=sys.stderr)
        return {}


def _warn(name: str, error: Exception) -> None:
    print(
        f"loggers: {name} is disabled from now on: {_first_line(error)};"
        " metrics.jsonl in the run folder has all numbers",
        file=sys.stderr,
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _numbers(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _numbers(item, f"{prefix}{key}/")
        elif isinstance(item, int | float) and key != "step":
            yield f"{prefix}{key}", float(item)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value


def _allowed(name: str) -> str:
    """A name without the characters that MLflow refuses."""
    return re.sub(r"[^\w\-. :/]", "_", name)
