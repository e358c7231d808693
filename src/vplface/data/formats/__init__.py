"""Readers and writers of labelled pictures on disk; :mod:`vplface.data.format_table` lists the formats."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from vplface.data.format_table import FOLDER, FORMATS, Format, FormatRow
from vplface.data.pictures import StoredPictures
from vplface.errors import DataError, UsageError
from vplface.reading import is_folder, kind_of


class PictureWriter(Protocol):
    """Writer of pictures in one format, in order and without re-encoding.

    A writer takes a path and the names of the identities. It is a context manager: leaving it without an error
    completes the set. A writer on the path of an interrupted one resumes after the complete pictures.
    """

    def __init__(self, path: Path, identities: Sequence[str]) -> None: ...

    @property
    def written(self) -> int:
        """Number of complete pictures, including those of an interrupted writer."""

    def add(self, encoded: bytes, name: str, label: int) -> None:
        """Append one picture; raises DataError if it cannot be written."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_pictures(path: Path | str, split: str | None = None) -> StoredPictures:
    """Open the pictures at ``path`` in any supported format.

    Args:
        path: see the table of :mod:`vplface.data.format_table`.
        split: split to select in lists with a column ``split``, Parquet files, and top-level folders of a .zip; None
            selects all.

    Raises:
        DataError: the path is missing, damaged, in an unsupported format, or lacks the split.
        MissingExtraError: the format needs a package that is not installed.
    """
    path = Path(path)
    folder = is_folder(path)
    row = next((row for row in FORMATS if _takes(row, path, folder)), FOLDER)
    if split is not None and not row.splits:
        raise DataError(f"{path}: no split {split!r}; only lists, Parquet and .zip files have splits")
    if row is FOLDER and kind_of(path) is None:
        raise DataError(f"{path}: does not exist; give a folder PATH/IDENTITY/PICTURE, or a file of a known format")
    if row is FOLDER and not folder:
        known = ", ".join(suffix for row in FORMATS for suffix in row.suffixes)
        raise DataError(f"{path}: unsupported format; expected a folder or one of {known}")
    read = _load(row.reader)
    pictures: StoredPictures = read(path, split) if row.splits else read(path)
    return pictures


def format_of(path: Path | str) -> Format:
    """Format of a new set at ``path``, by its suffix; a path without a suffix means a folder.

    Raises:
        UsageError: no writable format has the suffix.
    """
    suffix = Path(path).suffix.lower()
    if not suffix:
        return "folder"
    written = {suffix: row.name for row in FORMATS for suffix in row.suffixes if row.name is not None}
    if suffix not in written:
        known = ", ".join(written)
        raise UsageError(f"{path}: unknown suffix {suffix}; expected one of {known}, or choose the format with --to")
    return written[suffix]


def create_pictures(path: Path | str, name: Format, identities: Sequence[str]) -> PictureWriter:
    """Create a writer of a set of pictures at ``path``.

    Args:
        path: file or folder; an interrupted writer's output there is resumed.
        name: any format but "bin", which holds pairs; :mod:`vplface.data.formats.verification_bin` writes it.
        identities: name of each label.

    Raises:
        DataError: the path cannot be written, or holds something else.
        MissingExtraError: the format needs a package that is not installed.
        ValueError: the format does not hold single pictures.
    """
    row = next(row for row in (*FORMATS, FOLDER) if row.name == name)
    if row.writer is None:
        raise ValueError(f"a {row.title} holds pairs, not pictures one by one")
    writer: PictureWriter = _load(row.writer)(Path(path), identities)
    return writer


def _takes(row: FormatRow, path: Path, folder: bool) -> bool:
    named = path.name.lower().endswith((*row.suffixes, *row.compressed))
    return named or (folder and row.folder is not None and row.folder(path))


def _load(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(f"vplface.data.formats.{module}"), name)
