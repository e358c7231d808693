"""Galleries as Parquet files, which vector databases load: one row for each picture, and back without loss.

| column | type | |
|---|---|---|
| ``name`` | string | of the person |
| ``vector`` | fixed-size list of float32 | the embedding, of unit norm |
| ``sha256`` | string | of the picture's file, in hex |
| ``file``, ``path`` | string | name of the picture's file, and its absolute path at enrolment |
| ``x``, ``y``, ``width``, ``height`` | int32 | box of the face; null for an aligned face |
| ``enrolled`` | timestamp, UTC | |
| ``norm``, ``quality`` | float32 | |

All but the first four columns may hold nulls, where a value is not known, and may be missing. The metadata of the file
hold ``vplface_gallery``, JSON with the ``maker``, the fingerprint of the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from vplface.deploy.gallery import EmbedderFingerprint, EnrolledFace, Gallery, normalise_name
from vplface.deploy.gallery_folder import GALLERY_LIMIT, add_faces, has_gallery, load_gallery, store_gallery
from vplface.deploy.picture_records import LATEST, UNDATED, PictureRecords
from vplface.errors import DataError, import_extra
from vplface.files import PRIVATE, replacing
from vplface.progress import progress
from vplface.reading import is_file, parse_json

_METADATA_KEY = b"vplface_gallery"
_ROWS = 65_536
_REQUIRED = ("name", "vector", "sha256", "file")
_BOX = ("x", "y", "width", "height")


def export_parquet(gallery: Gallery, path: Path) -> None:
    """Write a gallery to a Parquet file, which is not encrypted and for its owner only.

    Text that is no Unicode, in names of files, is escaped.

    Raises:
        DataError: the file cannot be written.
        MissingExtraError: pyarrow is not installed.
    """
    pa, pq = import_extra("pyarrow", "parquet"), import_extra("pyarrow.parquet", "parquet")
    schema = _schema(pa, gallery.fingerprint)
    with (
        replacing(path, PRIVATE) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
        progress("writing", len(gallery)) as advance,
    ):
        for first in range(0, len(gallery), _ROWS):
            rows = np.arange(first, min(first + _ROWS, len(gallery)))
            writer.write_table(pa.table(_columns(pa, gallery, rows, schema), schema))
            advance(len(rows))


def import_parquet(
    path: Path, folder: Path, fingerprint: EmbedderFingerprint | None = None
) -> tuple[int, list[tuple[EnrolledFace, str]]]:
    """Add the rows of a Parquet file to a gallery, which is made if there is none.

    Args:
        path: the file.
        folder: of the gallery.
        fingerprint: of the model of the embeddings, for a file that does not say it.

    Returns:
        The number of pictures added, and the faces that were enrolled already, with their enrolled names.

    Raises:
        DataError: the file is damaged, lacks a column or its model, holds values that no gallery has, or is of another
            model than the gallery.
        MissingExtraError: pyarrow is not installed.
    """
    read = read_parquet(path, fingerprint)
    if not has_gallery(folder):
        store_gallery(folder, read)
        return len(read), []
    before = load_gallery(folder)
    before.fingerprint.require_same(read.fingerprint, str(folder))
    known = add_faces(folder, before.fingerprint, list(_faces(read)))
    return len(read) - len(known), known


def read_parquet(path: Path, fingerprint: EmbedderFingerprint | None = None) -> Gallery:
    """The gallery in a Parquet file; arguments and errors are those of :func:`import_parquet`."""
    pa, pq = import_extra("pyarrow", "parquet"), import_extra("pyarrow.parquet", "parquet")
    if not is_file(path):
        raise DataError(f"{path}: there is no such file; vplface enroll GALLERY --export FILE.parquet writes one")
    try:
        with pq.ParquetFile(path) as file:
            size = sum(file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups))
            if size > GALLERY_LIMIT:
                raise DataError(f"{path}: {size / 2**30:.1f} GiB, more than the {GALLERY_LIMIT // 2**30} of a gallery")
            missing = [name for name in _REQUIRED if name not in file.schema_arrow.names]
            if missing:
                raise DataError(
                    f"{path}: has no column {', '.join(missing)}; a gallery needs {', '.join(_REQUIRED)}, this file "
                    f"has {', '.join(file.schema_arrow.names)}"
                )
            found = _fingerprint(path, file.schema_arrow.metadata or {}) or fingerprint
            if found is None:
                raise DataError(f"{path}: does not name the model of its embeddings; give it with --model")
            known = [name for name in _schema(pa, found).names if name in file.schema_arrow.names]
            table = file.read(known)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error
    return _gallery(path, table, found)


def _schema(pa: Any, fingerprint: EmbedderFingerprint) -> Any:
    metadata = {_METADATA_KEY: json.dumps({"schema": 1, "maker": fingerprint.to_dict()})}
    vector = pa.list_(pa.float32(), fingerprint.embedding_dim)
    fields = [("name", pa.string()), ("vector", vector), ("sha256", pa.string()), ("file", pa.string())]
    fields += [("path", pa.string()), *((key, pa.int32()) for key in _BOX)]
    fields += [("enrolled", pa.timestamp("ms", "UTC")), ("norm", pa.float32()), ("quality", pa.float32())]
    return pa.schema(fields, metadata)


def _columns(pa: Any, gallery: Gallery, rows: np.ndarray, schema: Any) -> list[Any]:
    records = gallery.records.take(rows)
    boxes, dim = gallery.boxes[rows], gallery.fingerprint.embedding_dim
    aligned = (boxes[:, 0] == -1) & (boxes[:, 2] == -1)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(gallery.embeddings[rows].ravel()), dim)
    digests = gallery.sha256[rows].tobytes().hex()
    return [
        pa.array([gallery.names[person] for person in gallery.person[rows].tolist()], pa.string()),
        vectors,
        pa.array([digests[64 * row : 64 * row + 64] for row in range(len(rows))], pa.string()),
        pa.array([_unicode(gallery.files[row]) for row in rows.tolist()], pa.string()),
        pa.array([_unicode(path) or None for path in records.paths], pa.string()),
        *(pa.array(boxes[:, side], pa.int32(), mask=aligned) for side in range(4)),
        pa.array(records.enrolled * 1000, mask=records.enrolled == UNDATED).cast(schema.field("enrolled").type),
        pa.array(records.norm, pa.float32(), mask=np.isnan(records.norm)),
        pa.array(records.quality, pa.float32(), mask=np.isnan(records.quality)),
    ]


def _unicode(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _fingerprint(path: Path, metadata: dict[bytes, bytes]) -> EmbedderFingerprint | None:
    if _METADATA_KEY not in metadata:
        return None
    values = parse_json(metadata[_METADATA_KEY], f"{path}: damaged: its metadata")
    return EmbedderFingerprint.from_dict(values.get("maker") if isinstance(values, dict) else None, str(path))


def _gallery(path: Path, table: Any, fingerprint: EmbedderFingerprint) -> Gallery:
    """The gallery of the rows of a table; raises DataError for values that no gallery has."""
    n = len(table)
    texts = {key: _texts(path, table, key) for key in ("name", "sha256", "file")}
    for row, digest in enumerate(texts["sha256"]):
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise DataError(f"{path}: row {row}: sha256 is {digest!r}, not 64 hexadecimal digits in lower case")
    names = [normalise_name(name) for name in texts["name"]]
    number = {name: position for position, name in enumerate(dict.fromkeys(names))}
    gallery = Gallery(
        fingerprint,
        list(number),
        np.array([number[name] for name in names], np.int32),
        _vectors(path, table, fingerprint.embedding_dim),
        np.frombuffer(bytes.fromhex("".join(texts["sha256"])), np.uint8).reshape(n, 32),
        np.stack([_numbers(path, table, key, np.int32, -1) for key in _BOX], axis=1),
        texts["file"],
        where=str(path),
        known_records=PictureRecords(
            _times(path, table),
            _numbers(path, table, "norm", np.float32, np.nan),
            _numbers(path, table, "quality", np.float32, np.nan),
            _texts(path, table, "path", "") if "path" in table.column_names else [""] * n,
        ),
    )
    if len(set(gallery.keys)) != n:
        raise DataError(f"{path}: holds a face twice: two rows have the same sha256 and the same box")
    return gallery


def _texts(path: Path, table: Any, key: str, instead: str | None = None) -> list[str]:
    values = table[key].to_pylist()
    if instead is not None:
        values = [instead if value is None else value for value in values]
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise DataError(f"{path}: row {row}: {key} is {value!r}, not text")
    return list(values)


def _vectors(path: Path, table: Any, dim: int) -> Float32[np.ndarray, "n dim"]:
    column = table["vector"].combine_chunks()
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != dim)  # of a null the length is NaN
    if len(wrong):
        raise DataError(f"{path}: row {wrong[0]}: a vector of length {lengths[wrong[0]]}, its model's have {dim}")
    rows: Float32[np.ndarray, "n dim"] = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    rows = rows.reshape(len(table), dim)
    wrong = np.flatnonzero(~(np.abs(np.linalg.norm(rows, axis=1) - 1) < 1e-3))
    if len(wrong):
        raise DataError(f"{path}: row {wrong[0]}: its vector is not of unit norm")
    return rows


def _numbers(path: Path, table: Any, key: str, kind: Any, unknown: float) -> Any:
    if key not in table.column_names:
        return np.full(len(table), unknown, kind)
    try:
        filled = table[key].combine_chunks().fill_null(unknown if kind is np.float32 else int(unknown))
        return filled.to_numpy(zero_copy_only=False).astype(kind)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {key} does not hold numbers: {error}") from error


def _times(path: Path, table: Any) -> Any:
    if "enrolled" not in table.column_names:
        return np.full(len(table), UNDATED, np.int64)
    pa = import_extra("pyarrow", "parquet")
    try:
        column = table["enrolled"].combine_chunks().cast(pa.timestamp("ms", "UTC")).cast(pa.int64())
    except pa.ArrowException as error:
        raise DataError(f"{path}: enrolled does not hold times: {error}") from error
    times = column.fill_null(1000 * UNDATED).to_numpy(zero_copy_only=False) // 1000
    if len(times) and not UNDATED <= times.min() <= times.max() <= LATEST:
        raise DataError(f"{path}: enrolled holds a time before 1970 or after the year 9999")
    return times.astype(np.int64)


def _faces(gallery: Gallery) -> Iterator[EnrolledFace]:
    records = gallery.records
    rows = zip(gallery.keys, gallery.person.tolist(), gallery.files, records.paths, strict=True)
    for row, ((digest, box), person, file, path) in enumerate(rows):
        enrolled, norm, quality = int(records.enrolled[row]), float(records.norm[row]), float(records.quality[row])
        yield EnrolledFace(
            gallery.names[person],
            gallery.embeddings[row],
            digest,
            file,
            box,
            enrolled=None if enrolled == UNDATED else enrolled,
            norm=None if np.isnan(norm) else norm,
            quality=None if np.isnan(quality) else quality,
            path=path,
        )
