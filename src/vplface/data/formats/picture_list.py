"""CSV and TSV lists of pictures with their paths and labels: reader and writer.

The first line names the columns: ``path``, ``label`` and optionally ``split``, in any order; other columns are ignored.
Paths are absolute or relative to the list's folder, with forward slashes. Labels are names, even if they are digits.
"""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Int64

from vplface.data.folder_scan import natural_key
from vplface.data.formats.packed_names import PackedNames
from vplface.data.pictures import StoredPictures, read_picture_file
from vplface.data.spelling import spelled_on_disk
from vplface.errors import DataError
from vplface.files import replacing
from vplface.progress import progress
from vplface.reading import UnreadableFileError, open_regular

_LONGEST = 2**20
SEPARATORS = {".csv": ",", ".tsv": "\t"}


class Row(NamedTuple):
    """Row of a list; ``place`` is its file and line, for errors, and an empty ``split`` means none."""

    place: str
    path: str
    label: str
    split: str


class PictureList(StoredPictures):
    """Pictures of a list, in the list's order.

    Identities are in natural order. A missing or damaged picture raises an error only when it is read.
    """

    def __init__(self, path: Path | str, split: str | None = None) -> None:
        """Read the list; pictures are opened only when asked for.

        Args:
            path: a .csv or .tsv file.
            split: take the rows whose column ``split`` says this; None takes all rows.

        Raises:
            DataError: if the list is missing, malformed or empty (line and column are named), or has no such split.
        """
        path = Path(path)
        self._keep(path, path.parent, _rows(path, _separator(path)), split)

    @classmethod
    def from_rows(cls, path: Path, folder: Path, rows: Iterable[Row], split: str | None) -> Self:
        """A list that was read elsewhere, from ``path``; its paths start from ``folder``."""
        pictures = cls.__new__(cls)
        pictures._keep(path, folder, rows, split)
        return pictures

    def _keep(self, path: Path, folder: Path, rows: Iterable[Row], split: str | None) -> None:
        self.path = path
        self.folder = folder
        paths, ends, codes = bytearray(), array("q"), array("q")
        names: dict[str, int] = {}
        splits: dict[str, None] = {}
        with progress(f"reading {path}", None) as advance:
            for number, row in enumerate(rows, start=1):
                splits[row.split] = None
                if split is None or row.split == split:
                    paths += _required(row, "path", row.path).encode()
                    ends.append(len(paths))
                    codes.append(names.setdefault(_required(row, "label", row.label), len(names)))
                if number % 1000 == 0:
                    advance(1000)
        if not codes:
            raise DataError(_nothing_chosen(path, sorted(splits, key=natural_key), split))
        order = sorted(names, key=natural_key)
        place = np.empty(len(order), np.int64)
        place[[names[name] for name in order]] = np.arange(len(order))
        self._identities = order
        self._labels: Int64[np.ndarray, " n"] = place[np.frombuffer(codes, np.int64)]
        self._paths = PackedNames(bytes(paths), np.frombuffer(ends, np.int64))

    def name(self, index: int) -> str:
        """Path below the list's folder; for pictures elsewhere, the absolute path without its root."""
        return below(self._path(index), self.folder)

    def where(self, index: int) -> str:
        """The path as text, for errors."""
        return str(self.folder / self._path(index))

    def encoded(self, index: int) -> bytes:
        """The file's bytes; raises UnreadablePictureError with its path and the reason."""
        return read_picture_file(spelled_on_disk(self.folder, self._path(index)))

    def _path(self, index: int) -> str:
        self._require(index)
        return self._paths[index].decode()


def below(path: str, folder: Path) -> str:
    """Path as a name relative to a folder, or to the file system's root if it lies elsewhere.

    A name never starts with a slash and never leads upwards.
    """
    parts = path.split("/")
    if not {"", ".", ".."}.intersection(parts) and ":" not in parts[0]:
        return path
    root = Path(os.path.normpath(Path.cwd() / folder))
    whole = Path(os.path.normpath(root / path))
    return (whole.relative_to(root) if whole.is_relative_to(root) else whole.relative_to(whole.anchor)).as_posix()


def _required(row: Row, column: str, value: str) -> str:
    if not value or "\0" in value:
        raise DataError(f"{row.place}: the column {column!r} {'holds a zero byte' if value else 'is empty'}")
    return value


def _nothing_chosen(path: Path, splits: list[str], split: str | None) -> str:
    if not splits:
        return f"{path}: lists no pictures"
    if splits == [""]:
        return f"{path}: no split {split!r}, since there is no column 'split'"
    known = ", ".join(repr(name) for name in splits[:20]) + (", ..." if len(splits) > 20 else "")
    return f"{path}: has no split {split!r}, only {known}"


def _separator(path: Path) -> str:
    if path.suffix.lower() not in SEPARATORS:
        raise DataError(f"{path}: a list of pictures is a {' or '.join(SEPARATORS)} file")
    return SEPARATORS[path.suffix.lower()]


def _rows(path: Path, separator: str) -> Iterator[Row]:
    reader = csv.reader(list_lines(path), delimiter=separator, strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        columns = [_column(path, header, separator, name) for name in ("path", "label")]
        columns.append(header.index("split") if "split" in header else -1)
        for fields in reader:
            if not fields:
                continue
            place = f"{path}, line {reader.line_num}"
            if len(fields) != len(header):
                raise DataError(f"{place}: {len(fields)} fields, but line 1 names {len(header)} columns")
            where, label, split = ("" if column < 0 else fields[column].strip() for column in columns)
            yield Row(place, where, label, split)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error


def _column(path: Path, header: list[str], separator: str, name: str) -> int:
    if header.count(name) != 1:
        raise DataError(
            f"{path}, line 1: names the column {name!r} {header.count(name)} times; the first line must name the "
            f"columns path, label and perhaps split, separated by {'tabs' if separator == chr(9) else 'commas'}, "
            f"and is {header}"
        )
    return header.index(name)


def list_lines(path: Path) -> Iterator[str]:
    """Lines of a list in UTF-8 with their ends; raises DataError if they cannot be read, or are no text."""
    try:
        handle = open_regular(path)
    except UnreadableFileError as error:
        raise DataError(f"{path}: cannot be read: {error.reason}") from error
    try:
        with os.fdopen(handle, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST + 1), b""), start=1):
                if len(line) > _LONGEST:
                    raise DataError(
                        f"{path}, line {number}: is longer than {_LONGEST:,} bytes; expected a list of pictures"
                    )
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}, line {number}: is not text in UTF-8 (byte {error.start} of the line); save the list "
                        "as UTF-8"
                    ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


class PictureListWriter:
    """Writes a list and its pictures, bit for bit, to the folder beside it: ``faces/`` for ``faces.csv``.

    The list is called ``.faces.csv.part`` until it is complete. A line is written after its picture, so the list is
    valid even if the process is killed.
    """

    def __init__(self, path: Path | str, identities: Sequence[str]) -> None:
        """Start, or resume after the last line of the list.

        Args:
            path: path of the list, .csv or .tsv.
            identities: name of each label.

        Raises:
            DataError: a name is duplicate or cannot be written in a list, or another list has this path.
        """
        self.path = Path(path)
        self.folder = self.path.with_suffix("")
        self._separator = _separator(self.path)
        self._identities = list(identities)
        if len(set(self._identities)) < len(self._identities):
            raise DataError(f"{path}: two identities have the same name, which a list cannot represent")
        for name in self._identities:
            self._check(name)
        self._part = self.path.with_name(f".{self.path.name}.part")
        try:
            self.written = self._go_on()
            self._file = self._part.open("a", encoding="utf-8", newline="")
        except OSError as error:
            raise self._cannot_write(error) from error
        self._rows = csv.writer(self._file, delimiter=self._separator, lineterminator="\n")
        if not self.written:
            self._file.truncate(0)
            self._rows.writerow(("path", "label"))

    def add(self, encoded: bytes, name: str, label: int) -> None:
        """Write one picture to FOLDER/NAME and its line to the list; raises DataError if that fails."""
        self._check(name)
        if below(name, self.folder) != name or Path(name).drive or "\\" in name:
            raise DataError(f"{self.folder}: the name {name!r} is not a relative path inside the folder")
        if not 0 <= label < len(self._identities):
            raise DataError(
                f"{self.path}: {name!r} has the label {label}, there are {len(self._identities)} identities"
            )
        target = self.folder / name
        temporary = target.with_name(f".{target.name}.part")
        try:
            if target.exists() and target.read_bytes() != encoded:
                raise DataError(f"{target}: exists already with another picture; names must differ")
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(encoded)
            temporary.replace(target)
            self._rows.writerow((f"{self.folder.name}/{name}", self._identities[label]))
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._cannot_write(error) from error
        self.written += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError as problem:
            raise self._cannot_write(problem) from problem
        if error is None:
            with replacing(self.path) as temporary:
                self._part.replace(temporary)

    def _go_on(self) -> int:
        """Truncate an unfinished list after its last complete line; returns its number of pictures."""
        self._part.parent.mkdir(parents=True, exist_ok=True)
        if not self._part.exists() and self.path.exists():
            self._require_own(self.path)
            with replacing(self._part) as temporary:
                temporary.write_bytes(self.path.read_bytes())
        if not self._part.exists():
            return 0
        whole = self._part.read_bytes()
        os.truncate(self._part, whole.rfind(b"\n") + 1)
        return self._require_own(self._part)

    def _require_own(self, written: Path) -> int:
        known = set(self._identities)
        count = 0
        for row in _rows(written, self._separator) if written.stat().st_size else ():
            if not row.path.startswith(f"{self.folder.name}/") or row.label not in known:
                raise DataError(
                    f"{row.place}: {row.path!r} of {row.label!r} belongs to another set; remove the list or choose "
                    "another path"
                )
            count += 1
        return count

    def _check(self, name: str) -> None:
        if not name or name != name.strip() or any(ord(each) < 32 or 0xD800 <= ord(each) < 0xE000 for each in name):
            raise DataError(f"{self.path}: the name {name!r} cannot be written into a list")

    def _cannot_write(self, error: OSError) -> DataError:
        return DataError(f"cannot write {error.filename or self.path}: {error.strerror or error}")
