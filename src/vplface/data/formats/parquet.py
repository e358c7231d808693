"""Parquet files of pictures, as written by Hugging Face's ``datasets``, and of lists of pictures.

A set of pictures has a column of pictures, struct{bytes, path} or plain bytes, and a column of labels: whole numbers,
which index the ClassLabel names in the schema's metadata ``huggingface`` if there are any, or strings. A list has the
columns ``path``, ``label`` and optionally ``split`` (:mod:`vplface.data.formats.picture_list`).
:mod:`vplface.data.formats.parquet_files` finds the files.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from jaxtyping import Int64

from vplface.data.folder_scan import natural_key
from vplface.data.formats.parquet_files import find_files, split_of
from vplface.data.formats.parquet_pages import Bound, Chunk, allowance, bound_of, chunks_of
from vplface.data.formats.picture_list import PictureList, Row, below
from vplface.data.formats.random_access import AsFile, RandomAccess, Stamp
from vplface.data.pictures import StoredPictures, UnreadablePictureError
from vplface.errors import DataError, import_extra
from vplface.files import replacing
from vplface.progress import progress
from vplface.reading import parse_json

pa = import_extra("pyarrow", "parquet")
pc = import_extra("pyarrow.compute", "parquet")
pq = import_extra("pyarrow.parquet", "parquet")

CACHE_BYTES = 256 << 20
"""Size of each process's cache of recently read row groups, in bytes."""

OPEN_FILES = 16
"""Number of files that each process keeps open."""

GROUP_BYTES = 1 << 18
"""Lowest size of a written row group, in bytes of pictures; a row group is read as a whole."""

_OWN = re.compile(r"\.train-(?P<number>[0-9]{5})\.parquet|train-(?P<final>[0-9]{5})-of-[0-9]{5}\.parquet")


def open_parquet(path: Path | str, split: str | None = None) -> PictureList | ParquetPictures:
    """Open a Parquet file, or those of a folder or of its folder ``data``, in natural order.

    Args:
        path: the file or the folder.
        split: take the files whose names begin with it or, in a list with a column ``split``, its rows; None takes all.

    Raises:
        DataError: if the path does not exist, a file is missing from a numbered series, cut short or damaged, or lacks
            the columns of a set of pictures or of a list, or if there is no such split.
    """
    path = Path(path)
    files = find_files(path)
    with _opened(files[0]) as first:
        schema = first.schema_arrow
    image = _image_column(files[0], schema)
    if image is None and {"path", "label"} <= set(schema.names):
        if "split" not in schema.names:
            files, split = _of_split(path, files, split), None
        return PictureList.from_rows(path, files[0].parent, _listed_rows(files), split)
    if image is None:
        raise DataError(
            f"{files[0]}: has neither a column of pictures (bytes, or a struct of bytes and path) nor the columns path "
            f"and label of a list, but {', '.join(f'{field.name}: {field.type}' for field in schema)}"
        )
    return ParquetPictures(_of_split(path, files, split))


class ParquetPictures(StoredPictures):
    """Pictures of Parquet files, in the order of files and rows.

    Row groups are read as a whole on demand and cached, up to :data:`CACHE_BYTES` in each process. Identities are in
    the order of the ClassLabel names, else in natural order; identities without pictures do not count. A picture
    without bytes or a valid label raises an error only when it is read; until then it counts for the first identity.

    Names are the stored paths if every picture has one and all differ, else FILE/ROW, "train-00000-of-00004/17".
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Read the files' footers, labels and paths; pictures are read only when asked for.

        Raises:
            DataError: a file is damaged or has other columns than the first, or there are no pictures.
        """
        self._files = list(files)
        with _opened(files[0]) as first:
            schema = first.schema_arrow
        column = _image_column(files[0], schema)
        self._label = _label_column(files[0], schema)
        if column is None or self._label is None:
            raise DataError(f"{files[0]}: has no column of {'pictures' if column is None else 'labels'}")
        self._column = column
        struct = pa.types.is_struct(schema.field(column).type)
        self._bytes_leaf = f"{column}.bytes" if struct else column
        has_paths = struct and "path" in {field.name for field in schema.field(column).type}
        wanted = [self._label, *([f"{column}.path"] if has_paths else [])]
        self._stamps: list[Stamp] = []
        groups, rows, labels, paths = [], [], [], []
        with progress("reading labels", len(files)) as advance:
            for number, file in enumerate(self._files):
                with _opened(file) as opened:
                    _require_alike(file, opened.schema_arrow, files[0], schema, (column, self._label))
                    self._stamps.append(opened.access.stamp)
                    chunks = [group[self._bytes_leaf] for group in opened.chunks]
                    groups += [(number, k, chunk) for k, chunk in enumerate(chunks)]
                    rows.append(0)
                    for read in opened.read_bounded(wanted):
                        read.validate(full=True)
                        labels.append(read.column(self._label))
                        if has_paths:
                            paths.append(pc.struct_field(read.column(column), "path"))
                        rows[-1] += len(read)
                    if (announced := sum(chunk.rows for chunk in chunks)) != rows[-1]:
                        raise DataError(f"{file}: announces {announced} rows and holds {rows[-1]}; download it again")
                advance(1)
        self._group_ends = np.cumsum([chunk.rows for _, _, chunk in groups], dtype=np.int64)
        self._groups = groups
        self._file_starts = np.cumsum([0, *rows])
        if not self._file_starts[-1]:
            raise DataError(f"{files[0]}: holds no pictures")
        self._identities, self._labels, self._unlabelled = _identities(files[0], schema, self._label, labels)
        self._paths = _unique(paths)
        self._forget()

    def name(self, index: int) -> str:
        """The picture's stored path if all have one and all differ, else FILE/ROW."""
        file, row = self._locate(index)
        if self._paths is not None:
            return below(self._paths[index].as_py(), file.parent)
        return f"{file.stem}/{row}"

    def where(self, index: int) -> str:
        """The file and the row in it, counted from 0, for errors."""
        file, row = self._locate(index)
        return f"{file}, row {row}"

    def encoded(self, index: int) -> bytes:
        """The picture's file; raises UnreadablePictureError with its row and the reason."""
        where = self.where(index)
        if index in self._unlabelled:
            raise UnreadablePictureError(where, self._unlabelled[index])
        group = int(np.searchsorted(self._group_ends, index, side="right"))
        try:
            pictures = self._row_group(group)
            inside = index - int(self._group_ends[group]) + len(pictures)
            value = pictures[inside].as_py()
        except (pa.ArrowException, OSError, ValueError, DataError) as error:
            raise UnreadablePictureError(where, f"its row group cannot be read: {_first_line(error)}") from error
        if value is None:
            raise UnreadablePictureError(where, "the row holds no picture")
        return bytes(value)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_kept", "_open", "_repeats")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._open: OrderedDict[int, _ParquetFile] = OrderedDict()
        self._repeats: dict[int, bool] = {}

    def _locate(self, index: int) -> tuple[Path, int]:
        self._require(index)
        number = int(np.searchsorted(self._file_starts, index, side="right")) - 1
        return self._files[number], index - int(self._file_starts[number])

    def _row_group(self, group: int) -> Any:
        """The bytes of a row group's pictures, as an Arrow array."""
        if group in self._kept:
            self._kept.move_to_end(group)
            return self._kept[group]
        number, inside, chunk = self._groups[group]
        opened = self._file(number)
        if group not in self._repeats:
            bound = bound_of(opened.access, self._bytes_leaf, chunk)
            self._repeats[group] = bound.written_out > allowance(opened.access.size)
        if self._repeats[group]:  # repeated pictures stay in their dictionary
            opened = opened.with_dictionaries([self._bytes_leaf])
        read = opened.read_row_group(inside, columns=[self._bytes_leaf], use_threads=False)
        pictures = read.column(self._column)
        if pa.types.is_struct(pictures.type):
            pictures = pc.struct_field(pictures, "bytes")
        expected = int(self._group_ends[group]) - (int(self._group_ends[group - 1]) if group else 0)
        if len(pictures) != expected:
            raise ValueError(f"{len(pictures)} rows where the footer announces {expected}")
        self._kept[group] = pictures
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > CACHE_BYTES:
            self._kept.popitem(last=False)
        return pictures

    def _file(self, number: int) -> _ParquetFile:
        """A file, opened by this process; raises DataError if it has changed."""
        opened = self._open.pop(number, None)
        if opened is None:
            opened = _ParquetFile(RandomAccess(self._files[number], self._stamps[number]))
        self._open[number] = opened
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)
        return opened


class _ParquetFile(pq.ParquetFile):  # type: ignore[misc,name-defined]  # pyarrow is not typed
    """A file that is read without a memory map, and without Arrow's threads, which do not survive a fork."""

    def __init__(self, access: RandomAccess, repeated: Sequence[str] = (), metadata: Any = None) -> None:
        self.access = access
        super().__init__(
            AsFile(access),
            metadata=metadata,
            read_dictionary=list(repeated),
            pre_buffer=False,
            page_checksum_verification=True,
        )

    @cached_property
    def chunks(self) -> list[dict[str, Chunk]]:
        """The columns of each row group; raises DataError if there are more than a file of its size has."""
        return chunks_of(self.access, self.schema)

    def with_dictionaries(self, columns: Sequence[str]) -> _ParquetFile:
        """The same, with each distinct entry of these columns kept only once."""
        leaves = {self.schema.column(number).path for number in range(len(self.schema))}
        return _ParquetFile(self.access, [column for column in columns if column in leaves], self.metadata)

    def read_bounded(self, columns: Sequence[str]) -> Iterator[Any]:
        """Tables of some columns, of all rows together in bounded memory; raises DataError if they cannot be."""
        bounds = [self._bound(name, chunk) for group in self.chunks for name, chunk in group.items() if name in columns]
        if sum(bound.written_out for bound in bounds) <= allowance(self.access.size):
            yield self.read(columns, use_threads=False)
            return
        if sum(bound.unpacked for bound in bounds) > allowance(self.access.size):
            raise DataError(f"{self.access.path}: unpacks to more than a file of its size should; download it again")
        entries = self.with_dictionaries(columns)
        for group in range(len(self.chunks)):
            yield entries.read_row_group(group, columns, use_threads=False)

    def _bound(self, name: str, chunk: Chunk) -> Bound:
        return bound_of(self.access, name, chunk) if chunk.rows else Bound(0, 0)


def _of_split(path: Path, files: list[Path], split: str | None) -> list[Path]:
    chosen = [file for file in files if split is None or split_of(file) == split]
    if not chosen:
        known = dict.fromkeys(split_of(file) for file in files)
        raise DataError(f"{path}: has no split {split!r}, only {', '.join(map(repr, known))}")
    return chosen


@contextmanager
def _opened(file: Path) -> Iterator[_ParquetFile]:
    with _reading(file):
        yield _ParquetFile(RandomAccess(file))


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: not a readable Parquet file; it may be truncated or damaged, download it again "
            f"({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _features(file: Path, schema: Any) -> dict[str, Any]:
    """Hugging Face's metadata of each column."""
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return {}
    try:
        features = parse_json(stored, "it")["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (DataError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: invalid metadata 'huggingface' in its schema: {error}") from error


def _image_column(file: Path, schema: Any) -> str | None:
    features = _features(file, schema)
    pictures = [field.name for field in schema if _holds_pictures(field.type)]
    said = [name for name in pictures if features.get(name, {}).get("_type") == "Image"]
    found = said or [name for name in pictures if name in ("image", "img", "picture")] or pictures
    if len(found) > 1:
        raise DataError(f"{file}: has several columns of pictures: {', '.join(found)}; one is expected")
    return found[0] if found else None


def _holds_pictures(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _label_column(file: Path, schema: Any) -> str:
    features = _features(file, schema)
    said = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    found = [name for name in ("label", "labels", "identity") if name in schema.names] if len(said) != 1 else said
    if not found:
        raise DataError(
            f"{file}: has no column 'label', and its metadata do not mark exactly one as a ClassLabel; its columns are "
            f"{', '.join(schema.names)}"
        )
    return found[0]


def _require_alike(file: Path, schema: Any, first: Path, expected: Any, columns: tuple[str, str]) -> None:
    features, others = _features(file, schema), _features(first, expected)
    for column in columns:
        if column not in schema.names or schema.field(column).type != expected.field(column).type:
            found = schema.field(column).type if column in schema.names else "missing"
            raise DataError(f"{file}: the column {column!r} is {found}, in {first} {expected.field(column).type}")
        if features.get(column) != others.get(column):
            raise DataError(f"{file}: the metadata of the column {column!r} are not those of {first}")


def _identities(
    file: Path, schema: Any, column: str, parts: list[Any]
) -> tuple[list[str], Int64[np.ndarray, " n"], dict[int, str]]:
    """The names that occur, the label of each row, and the rows without a label with the reason."""
    chunks = [_once(chunk) for part in parts for chunk in part.chunks]
    values = pa.chunked_array(chunks) if chunks else pa.chunked_array([], type=pa.int64())
    missing = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))
    reasons = dict.fromkeys(missing.tolist(), f"the row has no {column}")
    if pa.types.is_integer(values.type):
        names = _features(file, schema).get(column, {}).get("names")
        codes = values.fill_null(0).to_numpy().astype(np.int64)
        if names is None:
            distinct = np.unique(np.delete(codes, missing)).tolist()
            named = {code: str(code) for code in distinct}
        elif isinstance(names, list) and all(isinstance(name, str) for name in names):
            named = dict(enumerate(names))
            for index in np.flatnonzero((codes < 0) | (codes >= len(names))).tolist():
                reasons.setdefault(index, f"the {column} {codes[index]} is outside the {len(names)} names")
        else:
            raise DataError(f"{file}: the names of the column {column!r} are not a list of strings")
        known = list(np.unique(np.delete(codes, list(reasons))).tolist())
    elif pa.types.is_dictionary(values.type):
        encoded = values.unify_dictionaries().combine_chunks()
        codes = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        named = dict(enumerate(encoded.dictionary.to_pylist()))
        empty = [code for code, name in named.items() if not name]
        for index in np.flatnonzero(np.isin(codes, empty)).tolist():
            reasons.setdefault(index, f"the row has an empty {column}")
        used = np.unique(np.delete(codes, list(reasons))).tolist()
        known = sorted(used, key=lambda code: natural_key(named[code]))
    else:
        raise DataError(f"{file}: the column {column!r} is {values.type}; labels are whole numbers or strings")
    if not known:
        raise DataError(f"{file}: no row has a {column}")
    order = np.argsort(known)
    ranked = np.array(known, np.int64)[order]
    codes[list(reasons)] = known[0]
    return [named[code] for code in known], order[np.searchsorted(ranked, codes)].astype(np.int64), reasons


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _once(chunk: Any) -> Any:
    """Texts as indices into a dictionary, other values as they are."""
    kind = chunk.type.value_type if pa.types.is_dictionary(chunk.type) else chunk.type
    if not _is_text(kind):
        return chunk.cast(kind)
    encoded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.int32()), encoded.dictionary.cast(pa.string()))


def _unique(paths: list[Any]) -> Any | None:
    """All paths as one Arrow array, or None if one is missing or duplicate."""
    chunks = [chunk for part in paths for chunk in part.chunks]
    if not chunks or any(chunk.null_count for chunk in chunks):
        return None
    if any(pa.types.is_dictionary(chunk.type) and len(chunk.dictionary) < len(chunk) for chunk in chunks):
        return None  # before they are written out for each row
    chunks = [chunk.cast(pa.large_string()) for chunk in chunks]
    joined = pa.chunked_array(chunks, type=pa.large_string()).combine_chunks()
    return joined if pc.count_distinct(joined, mode="all").as_py() == len(joined) else None


def _listed_rows(files: list[Path]) -> Iterator[Row]:
    for file in files:
        with _opened(file) as opened:
            columns = [name for name in ("path", "label", "split") if name in opened.schema_arrow.names]
            left = allowance(opened.access.size)
            number = 0
            for batch in (batch for read in opened.read_bounded(columns) for batch in read.to_batches()):
                batch.validate(full=True)
                for row in zip(*(_texts(batch.column(name)) for name in columns), strict=True):
                    fields = dict(zip(columns, (value or "" for value in row), strict=True))
                    if (left := left - sum(map(len, fields.values()))) < 0:
                        raise DataError(f"{file}: unpacks to more than a file of its size should; download it again")
                    yield Row(f"{file}, row {number}", fields["path"], fields["label"], fields.get("split", ""))
                    number += 1


def _texts(column: Any) -> list[str | None]:
    """Its values as strings; equal values share one object."""
    if pa.types.is_dictionary(column.type):
        entries = [*column.dictionary.cast(pa.string()).to_pylist(), None]
        return [entries[index] for index in column.indices.fill_null(len(entries) - 1).to_pylist()]
    values: list[str | None] = column.cast(pa.string()).to_pylist()
    return values


class ParquetWriter:
    """Writes pictures into FOLDER/data/train-00000-of-0000N.parquet, which Hugging Face's ``datasets`` reads.

    The columns are ``image``, a struct of bytes and path, and ``label``, with the identities as ClassLabel names. The
    bytes are stored unchanged, in row groups of about a quarter of a megabyte, with checksums. Until the number of
    files is known, complete files are called .train-00000.parquet; an interrupted writer resumes after them.
    """

    def __init__(self, path: Path | str, identities: Sequence[str], *, shard_bytes: int = 256 << 20) -> None:
        """Start, or resume after the complete files.

        Args:
            path: the folder.
            identities: name of each label.
            shard_bytes: size of the pictures at which a file is complete.

        Raises:
            DataError: existing files have other identities, or the folder cannot be written.
        """
        self.path = Path(path)
        self._folder = self.path / "data"
        self._shard_bytes = shard_bytes
        features = {
            "image": {"_type": "Image"},
            "label": {"names": list(identities), "_type": "ClassLabel"},
        }
        self._schema = pa.schema(
            [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
            metadata={"huggingface": json.dumps({"info": {"features": features}})},
        )
        self._count = len(identities)
        self._shards = self._complete_shards()
        self.written = 0
        for shard in self._shards:
            with _opened(shard) as opened:
                _require_alike(shard, opened.schema_arrow, self.path, self._schema, ("image", "label"))
                self.written += opened.metadata.num_rows
        self._rows: list[tuple[bytes, str, int]] = []
        self._pending = 0
        self._in_shard = 0
        self._file: Any = None
        self._open = ExitStack()

    def add(self, encoded: bytes, name: str, label: int) -> None:
        """Append one picture; raises DataError if it cannot be written."""
        if any(0xD800 <= ord(each) < 0xE000 for each in name):
            raise DataError(f"{self.path}: the name {name!r} is not valid Unicode and cannot be written")
        if not 0 <= label < self._count:
            raise DataError(f"{self.path}: {name!r} has the label {label}, and there are {self._count} identities")
        self._rows.append((encoded, name, label))
        self._pending += len(encoded)
        self.written += 1
        if self._pending >= GROUP_BYTES:
            self._write_group()
        if self._in_shard >= self._shard_bytes:
            self._finish_shard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._open.__exit__(kind, error, trace)
            return
        self._write_group()
        self._finish_shard()
        for number, shard in enumerate(self._shards):
            final = self._folder / f"train-{number:05d}-of-{len(self._shards):05d}.parquet"
            try:
                shard.replace(final)
            except OSError as problem:
                raise DataError(f"cannot write {final}: {problem.strerror}") from problem

    def _complete_shards(self) -> list[Path]:
        found: dict[int, Path] = {}
        for file in self._folder.glob("*"):
            if shard := _OWN.fullmatch(file.name):
                found[int(shard["number"] or shard["final"])] = file
            elif file.name.startswith("..train-"):  # was being written when the process was killed
                file.unlink(missing_ok=True)
        if missing := sorted(set(range(max(found, default=-1) + 1)) - found.keys()):
            raise DataError(f"{self._folder}: file {missing[0]} is missing; remove the other files to start over")
        return [found[number] for number in sorted(found)]

    def _write_group(self) -> None:
        if not self._rows:
            return
        if self._file is None:
            shard = self._folder / f".train-{len(self._shards):05d}.parquet"
            temporary = self._open.enter_context(replacing(shard))
            self._file = self._open.enter_context(
                pq.ParquetWriter(
                    temporary,
                    self._schema,
                    compression="none",  # pictures are compressed already
                    use_dictionary=False,
                    write_statistics=["label"],
                    write_page_checksum=True,
                )
            )
        encoded, names, labels = zip(*self._rows, strict=True)
        image = pa.StructArray.from_arrays(
            [pa.array(encoded, pa.binary()), pa.array(names, pa.string())],
            fields=list(self._schema.field("image").type),
        )
        try:
            self._file.write_table(pa.table([image, pa.array(labels, pa.int64())], schema=self._schema))
        except OSError as error:
            raise DataError(f"cannot write {self._folder}: {_first_line(error)}") from error
        self._in_shard += self._pending
        self._rows, self._pending = [], 0

    def _finish_shard(self) -> None:
        if self._file is not None:
            self._open.close()
            self._shards.append(self._folder / f".train-{len(self._shards):05d}.parquet")
            self._file, self._in_shard = None, 0
