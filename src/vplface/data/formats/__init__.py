"""Labelled pictures on disk, in every form that people keep them in; the form is known from the path.

| form | path |
|---|---|
| image folder | a folder ROOT/IDENTITY/PICTURE |
| InsightFace RecordIO | a .rec file, or a folder that holds one, with its .idx |
| WebDataset shards | a .tar file, a folder of them, or a pattern such as train-{000..127}.tar or train-*.tar |
| Hugging Face parquet | a .parquet file with a column of pictures, a folder of them, or of CONFIG/SPLIT/0000.parquet |
| list | a .csv, .tsv or .parquet file with the columns path, label and maybe split |
| zip archive | a .zip file of folders, one per identity |
| InsightFace verification set | a .bin file |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from vplface.data.formats.parquet_files import holds_parquet
from vplface.data.pictures import StoredPictures
from vplface.errors import DataError, UsageError
from vplface.reading import is_folder, kind_of

Form = Literal["folder", "recordio", "tar", "parquet", "list", "bin"]
"""The names of the forms, in the order of the table."""

_SUFFIXES: dict[str, Form] = {
    ".rec": "recordio",
    ".tar": "tar",
    ".parquet": "parquet",
    ".csv": "list",
    ".tsv": "list",
    ".bin": "bin",
}


class PictureWriter(Protocol):
    """Pictures on their way into one form, in order and without being encoded again.

    A writer is made of a path and the names of the identities. It is a context manager: leaving it without an error
    completes the set. A writer on the path of one that was interrupted goes on behind what is complete there.
    """

    def __init__(self, path: Path, identities: Sequence[str]) -> None: ...

    @property
    def written(self) -> int:
        """How many pictures are complete, those of an interrupted writing included."""

    def add(self, encoded: bytes, name: str, label: int) -> None:
        """Append one picture; raises DataError if it cannot be written."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_pictures(path: Path | str, split: str | None = None) -> StoredPictures:
    """Open the pictures at ``path``, whatever their form.

    Args:
        path: see the module's table.
        split: for lists with a column ``split``, for Parquet files and for folders at the top of a .zip: the part to
            take; None takes all.

    Raises:
        DataError: if nothing is there, or not in a form that is known, or damaged, or has no such split.
        MissingExtraError: if the form needs a package that is not installed.
    """
    path = Path(path)
    kind = path.suffix.lower()
    folder = is_folder(path)
    if kind in (".csv", ".tsv"):
        from vplface.data.formats.picture_list import PictureList

        return PictureList(path, split)
    if kind == ".parquet" or (folder and holds_parquet(path)):
        from vplface.data.formats.parquet import open_parquet

        return open_parquet(path, split)
    if kind == ".zip":
        from vplface.data.formats.zip_archive import ZipArchive

        return ZipArchive(path, split)
    if split is not None:
        raise DataError(
            f"{path}: only lists, Parquet and .zip files have splits, so there is no split {split!r} to take"
        )
    if kind == ".rec" or (folder and any(path.glob("*.rec"))):
        from vplface.data.formats.recordio import RecordIO

        return RecordIO(path)
    if kind == ".tar" or ".tar." in path.name.lower() or kind == ".tgz" or (folder and any(path.glob("*.tar"))):
        from vplface.data.formats.tar_shards import TarShards

        return TarShards(path)
    if kind == ".bin":
        from vplface.data.formats.verification_bin import VerificationBin

        return VerificationBin(path)
    if kind_of(path) is None:
        raise DataError(f"{path}: does not exist; give a folder PATH/IDENTITY/PICTURE, or a file of a known form")
    if not folder:
        raise DataError(f"{path}: of no form that is known: .rec, .tar, .zip, .csv, .tsv, .parquet, .bin, or a folder")
    from vplface.data.formats.image_folder import ImageFolder

    return ImageFolder(path)


def form_of(path: Path | str) -> Form:
    """The form that a new set at ``path`` will have, by its suffix; a path without one is a folder's.

    Raises:
        UsageError: if the suffix is none of a form.
    """
    suffix = Path(path).suffix.lower()
    if suffix and suffix not in _SUFFIXES:
        known = ", ".join(_SUFFIXES)
        raise UsageError(
            f"{path}: {suffix} is the suffix of no form that is known ({known}); say which it is to be, by --to"
        )
    return _SUFFIXES.get(suffix, "folder")


def create_pictures(path: Path | str, form: Form, identities: Sequence[str]) -> PictureWriter:
    """A writer of a set of pictures at ``path``.

    Args:
        path: the file or folder; what an interrupted writer left there is continued.
        form: any but "bin", which holds pairs; :mod:`vplface.data.formats.verification_bin` writes it.
        identities: the name of each label.

    Raises:
        DataError: if it cannot be written, or what is there is something else.
        MissingExtraError: if the form needs a package that is not installed.
        ValueError: if ``form`` is "bin".
    """
    path = Path(path)
    match form:
        case "folder":
            from vplface.data.formats.image_folder import ImageFolderWriter

            return ImageFolderWriter(path, identities)
        case "recordio":
            from vplface.data.formats.recordio import RecordIOWriter

            return RecordIOWriter(path, identities)
        case "tar":
            from vplface.data.formats.tar_shards import TarShardsWriter

            return TarShardsWriter(path, identities)
        case "parquet":
            from vplface.data.formats.parquet import ParquetWriter

            return ParquetWriter(path, identities)
        case "list":
            from vplface.data.formats.picture_list import PictureListWriter

            return PictureListWriter(path, identities)
        case "bin":
            raise ValueError("a .bin file holds pairs, not pictures one by one")
