"""Ownership of a run folder: the lock that keeps other processes out, and the claim to start or resume a run there."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vplface.config import Config
from vplface.errors import ConfigError
from vplface.files import locked, remove_temporaries
from vplface.reading import is_folder
from vplface.run_folder import RunFolder
from vplface.training.checkpoint_manifest import newest_checkpoint, recorded_config
from vplface.training.resume import require_same_training, stored_config, write_config

LOCK_PATIENCE = 10.0
"""Seconds in which the workers of a run that was killed notice its end and release the lock of its folder."""


@contextmanager
def locked_run_folder(folder: RunFolder) -> Iterator[None]:
    """Create a run folder, hold its lock, and remove the temporary files of killed processes.

    Raises:
        DataError: if another process still holds the lock after ``LOCK_PATIENCE`` seconds.
        ConfigError: if the folder cannot be written.
    """
    otherwise = "another process is training in this folder; wait until it ends, or choose another name (name=...)"
    with ExitStack() as stack:
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder.path, otherwise, LOCK_PATIENCE))
            for path in (folder.path, folder.best.path):
                if is_folder(path):
                    remove_temporaries(path)
        except OSError as error:
            raise _cannot_write(folder, error) from error
        yield


def claim(config: Config, *, resume: bool, overwrite: bool) -> Path | None:
    """Check that the run folder may be used as asked, and set damaged checkpoints aside.

    Returns:
        The checkpoint to resume from; None for a run that starts.

    Raises:
        ConfigError: if there is nothing to resume, the folder holds a run that must not be overwritten, or that run
            was trained with another configuration.
    """
    folder = RunFolder(config.run_folder)
    if resume:
        checkpoint = _newest_whole_checkpoint(folder)
        before = recorded_config(checkpoint) or stored_config(folder.path)
        if before is None:
            raise ConfigError(f"{folder.config} is missing, and no checkpoint records it; restore the file")
        require_same_training(folder.path, before, config)
        return checkpoint
    if not overwrite and folder.holds_run():
        raise ConfigError(
            f"{folder.path} already holds a run; resume it (--resume), replace it (--overwrite), or choose another"
            " name (name=...)"
        )
    return None


def occupy(config: Config, *, fresh: bool) -> None:
    """Write config.yaml into the run folder; a fresh run first removes what an earlier run left there.

    Raises:
        ConfigError: if the folder cannot be written.
    """
    folder = RunFolder(config.run_folder)
    try:
        if fresh:
            folder.remove_run()
    except OSError as error:
        raise _cannot_write(folder, error) from error
    write_config(folder.config, config)


def _newest_whole_checkpoint(folder: RunFolder) -> Path:
    """The checkpoint to resume from; newer ones that are damaged are renamed."""
    checkpoint, faults = newest_checkpoint(folder.checkpoints)
    for damaged, fault in faults:
        print(f"{fault}; it is renamed and not used", file=sys.stderr)
        aside = (damaged.with_name(f"damaged-{damaged.name}.{n}") for n in itertools.count())
        damaged.rename(next(path for path in aside if not path.exists()))
    if checkpoint is None:
        raise ConfigError(f"{folder.path} holds no whole checkpoint to resume from; train without --resume")
    if faults:
        print(f"resuming from {checkpoint}", file=sys.stderr)
    return checkpoint


def _cannot_write(folder: RunFolder, error: OSError) -> ConfigError:
    return ConfigError(f"cannot write the run folder {folder.path}: {error.strerror or error}")
