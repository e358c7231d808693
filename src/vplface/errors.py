"""Exceptions that a user can act on, which the command line shows without a traceback."""

from __future__ import annotations

import importlib
from types import ModuleType


class VplfaceError(Exception):
    """An error that the user can act on; the message says what was wrong, where, and what to do."""


class DataError(VplfaceError):
    """A file or a record is at fault: its path, and the key or line inside it, are in the message."""


class ConfigError(VplfaceError):
    """A configuration is at fault: the key is in the message."""


class UsageError(VplfaceError):
    """The command line is at fault, not a file."""


class TrainingInterrupted(VplfaceError):  # noqa: N818 - it is no error
    """Training was stopped by a signal; everything is saved.

    Attributes:
        preempted: whether a scheduler said so (SIGTERM, SIGUSR1) and not somebody at the keyboard.
    """

    def __init__(self, message: str, preempted: bool) -> None:
        super().__init__(message)
        self.preempted = preempted


class MissingExtraError(VplfaceError, ImportError):
    """A feature needs a package of an optional extra that is not installed."""


def import_extra(module: str, extra: str) -> ModuleType:
    """Import ``module``, which the extra ``vplface[extra]`` provides.

    Raises:
        MissingExtraError: naming the extra to install, if the module is absent.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise MissingExtraError(
            f"this needs the package {module.split('.')[0]!r}; install it with: pip install 'vplface[{extra}]'"
        ) from error
