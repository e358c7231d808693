"""One run of a study: its state on disk, its training, and its final evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vplface.config import Config
from vplface.embedder import Embedder
from vplface.errors import ConfigError, DataError
from vplface.evaluation import Evaluation
from vplface.files import PRIVATE, write_json
from vplface.reading import kind_of, read_json_object
from vplface.run_folder import RunFolder
from vplface.stored_model import load_model, save_model
from vplface.study.finetuned import judge
from vplface.training.checkpoint_manifest import has_checkpoints
from vplface.training.evaluation_sets import people_of_fold
from vplface.training.loggers import Loggers
from vplface.training.resume import changed_keys, stored_config
from vplface.training.sources import open_sources
from vplface.training.sphere import embed_on_sphere
from vplface.training.train import train
from vplface.training.validation import validation_of, values_of

SPHERE_LAM = 0.3
"""λ of the picture of the method, large enough to be seen."""


@dataclass(frozen=True)
class Standing:
    """The progress of a run.

    Attributes:
        state: ``changed``: the folder holds a run of another configuration; ``restart``: the folder holds a run that is
            marked for a restart.
        changed: the keys of the configuration that differ.
    """

    state: Literal["new", "restart", "begun", "finished", "changed"]
    changed: tuple[str, ...] = ()


def standing(config: Config) -> Standing:
    """The progress of the run of a configuration, from its folder."""
    folder = RunFolder(config.run_folder)
    if kind_of(folder.restart_marker) is not None:
        return Standing("restart")
    stored = stored_config(folder.path)
    if stored is None:
        return Standing("new")
    if changed := changed_keys(stored, config):
        return Standing("changed", changed)
    whole = kind_of(folder.config) is not None and kind_of(folder.evaluation) is not None
    return Standing("finished" if whole else "begun")


def mark_for_restart(configs: Iterable[Config]) -> None:
    """Mark the existing runs of some configurations, so that :func:`finish` restarts them.

    Until then they stay as they are. The marks outlast a call that is interrupted.

    Raises:
        ConfigError: a folder cannot be written.
    """
    for config in configs:
        folder = RunFolder(config.run_folder)
        if kind_of(folder.config) is not None:
            try:
                folder.restart_marker.touch()
            except OSError as error:
                raise ConfigError(f"cannot write the run folder {folder.path}: {error.strerror}") from error


def finish(config: Config) -> None:
    """Train one run, or the steps that are left of it, and evaluate it.

    Raises:
        ConfigError: the folder holds a run of another configuration.
        VplfaceError: see ``training.train.train``.
    """
    folder = RunFolder(config.run_folder)
    found = standing(config)
    if found.state == "finished":
        return
    if found.state == "changed":
        raise ConfigError(
            f"{folder.path} holds a run of another configuration ({', '.join(found.changed)}); use --overwrite or"
            " another name (name=...)"
        )
    resume = found.state == "begun" and has_checkpoints(folder.checkpoints)
    train(config, resume=resume, overwrite=found.state in ("restart", "begun"))
    measure(config)


def measure(config: Config) -> dict[str, Evaluation]:
    """Evaluate the finished model of a run with intervals; leaves evaluation.json and, if asked for, sphere.npz.

    With ``evaluation.untouched`` it is compared with the model that the run started from, see
    :func:`vplface.study.finetuned.judge`.
    """
    folder = RunFolder(config.run_folder)
    backbone, card = load_model(folder.path)
    validation = validation_of(config)
    evaluations = validation.run(Embedder.from_backbone(backbone, card), config.evaluation.bootstrap)
    save_model(folder.path, backbone, replace(card, evaluation=figures(evaluations)))
    if config.sphere and config.variational is not None:
        pictures = open_sources(config.data.train, people_of_fold(config))
        embed_on_sphere(pictures, folder.sphere, SPHERE_LAM, config.seed, card.preprocessing)
    if config.evaluation.untouched and evaluations:
        judge(config, validation, measured(folder.untouched.path), evaluations)
    write_json(folder.evaluation, {name: found.to_dict() for name, found in evaluations.items()}, PRIVATE)
    values = values_of(evaluations)
    assert card.step is not None
    with Loggers(config, card.step) as loggers:
        loggers.log({"evaluation": values}, card.step)
    return evaluations


def measured(folder: Path) -> dict[str, Evaluation]:
    """Read what :func:`measure` wrote to a run folder; raises DataError if the file is damaged."""
    path = RunFolder(folder).evaluation
    values = read_json_object(path)
    try:
        return {name: Evaluation.from_dict(value) for name, value in values.items()}
    except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: {error}; delete it to evaluate the run again") from error


def figures(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """{set: {metric: {"value", ...}}}."""
    return {name: found.metrics_json() for name, found in evaluations.items()}
