"""Exceptions for problems that the user can fix; the CLI shows them without a traceback."""

from __future__ import annotations

import importlib
from types import ModuleType


class VplfaceError(Exception):
    """Base of all errors the user can fix; the message states the subject, the problem and the remedy."""


class DataError(VplfaceError):
    """Invalid file or record; the message names its path, and the key or line inside it."""


class ConfigError(VplfaceError):
    """Invalid configuration; the message names the key."""


class UsageError(VplfaceError):
    """Invalid command line or arguments, as opposed to a file."""


class TrainingInterrupted(VplfaceError):  # noqa: N818 - not an error
    """Raised when training was asked to stop and has saved its state.

    Attributes:
        preempted: whether a scheduler stopped it (SIGTERM, SIGUSR1), as opposed to the keyboard.
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
