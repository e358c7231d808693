"""Provenance of figures: versions of packages and hashes of files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable
from pathlib import Path

from vplface.errors import DataError
from vplface.reading import is_file
from vplface.run_folder import ModelFolder

PACKAGES = ("vplface", "torch", "numpy", "onnxruntime")


def versions() -> dict[str, str | None]:
    """The versions of Python and of the packages that embeddings and figures come from; None for one not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """{path: SHA-256 of the file there}.

    Raises:
        DataError: a file that cannot be read.
    """
    return {str(path): _sha256(path) for path in paths}


def model_files(model: Path) -> list[Path]:
    """The files that a model's embeddings depend on: an ``.onnx`` or embeddings file itself, or weights and card."""
    return [model] if is_file(model) else [ModelFolder(model).weights, ModelFolder(model).card]


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
