"""The checks before a run resumes: which keys of its configuration may change, and whether its data are the same."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vplface.config import Config, read_config
from vplface.errors import ConfigError, DataError
from vplface.files import replacing
from vplface.paths import argument
from vplface.reading import is_folder, kind_of, read_json, read_json_object
from vplface.run_folder import RunFolder
from vplface.training.checkpoint_manifest import digest_of_names, newest_recorded_config, read_manifest
from vplface.training.run_state import RunState

NON_SEMANTIC_KEYS = frozenset(
    {
        "name",
        "output",
        "device",
        "threads",
        "data.workers",
        "log_every",
        "checkpoint_every",
        "checkpoints_kept",
        "compile",
        "timeout",
        "loggers",
    }
)
"""Keys of a configuration that do not affect results and may change when a run resumes."""
_LONGEST_ADVICE = 500
"""Characters of overrides that an error message repeats."""


def changed_keys(before: Config, config: Config) -> tuple[str, ...]:
    """The dotted keys in which two configurations differ, without those that do not affect results.

    These are ``NON_SEMANTIC_KEYS``, and ``optimizer.fused`` where no classes are drawn, of which it treats the others
    differently.
    """
    one, other = (each.model_dump(mode="json") for each in (before, config))
    unimportant = NON_SEMANTIC_KEYS | ({"optimizer.fused"} if min(config.sample_rates) == 1.0 else set())
    return tuple(key for key in _differing(one, other) if key not in unimportant)


def is_of_evaluation(key: str) -> bool:
    """Whether a key affects only how models are evaluated.

    ``evaluation.seed`` is not such a key: it decides which identities are held out of training.
    """
    return key.startswith("evaluation.") and key != "evaluation.seed"


def stored_config(folder: Path) -> Config | None:
    """The configuration of the run in a folder: its config.yaml, or its newest checkpoint's where that is unreadable.

    Raises:
        ConfigError: if config.yaml cannot be read and no checkpoint records the configuration.
    """
    run = RunFolder(folder)
    if kind_of(run.config) is None:
        return newest_recorded_config(run.checkpoints)
    try:
        return read_config(run.config)
    except (ConfigError, DataError) as error:
        found = newest_recorded_config(run.checkpoints)
        if found is None:
            raise ConfigError(f"{error}; delete it and restart the run with --overwrite") from error
        return found


def restore_config(folder: Path) -> None:
    """Write config.yaml of a run from its newest checkpoint, where it is damaged or missing."""
    run = RunFolder(folder)
    if not is_folder(run.checkpoints):
        return
    fault = f"{run.config} is missing"
    if kind_of(run.config) is not None:
        try:
            read_config(run.config)
            return
        except (ConfigError, DataError) as error:
            fault = f"{error}; it was kept as {run.damaged_config.name}"
    found = newest_recorded_config(run.checkpoints)
    if found is not None:
        with suppress(FileNotFoundError):
            run.config.replace(run.damaged_config)
        write_config(run.config, found)
        print(f"{fault}; a new one was written from the newest checkpoint", file=sys.stderr)


def write_config(path: Path, config: Config) -> None:
    """Write a configuration as YAML, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(config.to_yaml(), encoding="utf-8")


def require_same_training(folder: Path, before: Config, config: Config) -> None:
    """Refuse to resume a run with a configuration that trains something else.

    Args:
        folder: the run folder.
        before: the configuration of the run.
        config: the requested configuration.

    Raises:
        ConfigError: naming the keys that differ, with the overrides that restore them.
    """
    if changed := [key for key in changed_keys(before, config) if not is_of_evaluation(key)]:
        raise ConfigError(
            f"{folder} was trained with another {', '.join(changed)}; resume it as it was"
            f" (vplface train {argument(folder)} --resume{_overrides(before, changed)}), or start a new run"
            " under another name (name=...)"
        )


def require_same_identities(run: RunState, checkpoint: Path) -> None:
    """Refuse to resume a run whose data have other identities now; warn if the number of pictures has changed.

    Raises:
        DataError: if the identities differ, or the folder does not record them.
    """
    folder, now = run.folder.path, list(run.pictures.identities)
    known = read_manifest(checkpoint).get("data") or {}
    before: list[str] = []
    try:
        before = [str(name) for name in read_json(run.folder.identities)]
        pictures = known["pictures"] if known else int(read_json_object(run.folder.environment)["pictures"])
    except (DataError, KeyError, TypeError, ValueError) as error:
        if not known:
            raise DataError(
                f"{folder} does not say what it was trained on: {error}; restore the file, or start a new run from its"
                " backbone (backbone.weights=FILE)"
            ) from error
        pictures = known["pictures"]
    same = digest_of_names(now) == known["identities"] if known else now == before
    if not same:
        gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
        examples = ", ".join([f"without {name}" for name in gone[:2]] + [f"with {name}" for name in new[:2]])
        raise DataError(
            f"the identities in the data are no longer those of {folder} ({len(now):,} instead of {len(before):,}:"
            f" {examples or 'in another order'}); put them back, or start a new run from it (--init-from"
            f" {argument(folder)})"
        )
    if len(run.pictures) != pictures:
        print(
            f"there are {len(run.pictures):,} pictures instead of the {pictures:,} that {folder} was trained on so far;"
            " the run continues, but with different batches",
            file=sys.stderr,
        )


def require_same_teacher(run: RunState, checkpoint: Path) -> None:
    """Raise DataError if a resumed run would be distilled from other files than those that its checkpoint records."""
    before = read_manifest(checkpoint).get("teacher")
    if run.distillation is None or before is None:
        return
    if before != sorted(run.distillation.teacher.files.values()):
        raise DataError(
            f"distill.teacher: {run.distillation.teacher.path} is no longer what {run.folder.path} was trained with"
            " (another SHA-256); put the file back, or start a new run under another name (name=...)"
        )


def _differing(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys in which two nested mappings differ."""
    for key in sorted(before.keys() | now.keys()):
        one, other = before.get(key), now.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differing(one, other, f"{prefix}{key}.")
        elif one != other:
            yield prefix + key


def _overrides(before: Config, changed: Sequence[str]) -> str:
    """Overrides for a command line that give changed keys their former values; empty if they are too long for one."""
    values = before.model_dump(mode="json")
    overrides = ""
    for key in changed:
        value: Any = values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        overrides += f" {shlex.quote(f'{key}={json.dumps(value)}')}"
    return overrides if len(overrides) < _LONGEST_ADVICE else ""
