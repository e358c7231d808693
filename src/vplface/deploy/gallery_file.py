"""The file of a gallery: its bytes in safetensors' format, and back.

Schema 2 keeps a date, a norm, a quality and a path with each picture. Files of schema 1, without these, are read, and
written as schema 2 by the next change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from vplface.deploy.gallery import EmbedderFingerprint, Gallery
from vplface.deploy.picture_records import LATEST, UNDATED, PictureRecords
from vplface.errors import DataError
from vplface.reading import parse_json

MAX_HEADER_BYTES = 2**20

_SCHEMA = 2
_METADATA_KEY = "vplface_gallery"
_TENSORS = {"embeddings": "F32", "person": "I32", "sha256": "U8", "boxes": "I32", "names": "U8", "files": "U8"}
_RECORDS = {"enrolled": "I64", "norm": "F32", "quality": "F32", "paths": "U8"}
_OF_SCHEMA = {1: _TENSORS, 2: _TENSORS | _RECORDS}
_NUMPY_DTYPES = {"F32": "<f4", "I32": "<i4", "I64": "<i8", "U8": "u1"}
_STRINGS = ("names", "files", "paths")


def gallery_bytes(gallery: Gallery, revision: str) -> bytes:
    """The content of the file of a gallery, marked with a revision."""
    records = gallery.records
    header = {"schema": _SCHEMA, "revision": revision, "maker": gallery.fingerprint.to_dict()}
    arrays = {
        "embeddings": np.ascontiguousarray(gallery.embeddings, np.float32),
        "person": gallery.person,
        "sha256": np.ascontiguousarray(gallery.sha256),
        "boxes": np.ascontiguousarray(gallery.boxes),
        "names": _encode_strings(gallery.names),
        "files": _encode_strings(gallery.files),
        "enrolled": np.ascontiguousarray(records.enrolled, np.int64),
        "norm": np.ascontiguousarray(records.norm, np.float32),
        "quality": np.ascontiguousarray(records.quality, np.float32),
        "paths": _encode_strings(records.paths),
    }
    content: bytes = safetensors.numpy.save(arrays, {_METADATA_KEY: json.dumps(header)})
    return content


def parse_gallery(path: Path, data: bytes) -> Gallery:
    """The gallery in the content of the file ``path``; its arrays are views of ``data``.

    Raises:
        DataError: the content is damaged, or was written by a later version.
    """
    header = _parse_header(path, data)
    metadata = _gallery_metadata(path, header)
    arrays = _map_tensors(path, data, header, _OF_SCHEMA[metadata["schema"]])
    arrays |= {key: _decode_strings(path, key, arrays[key]) for key in _STRINGS if key in arrays}
    fingerprint = EmbedderFingerprint.from_dict(metadata["maker"], str(path))
    _require_shapes(path, fingerprint, arrays)
    known = {key: arrays.pop(key) for key in _RECORDS if key in arrays}
    records = PictureRecords(**known) if known else None
    gallery = Gallery(
        fingerprint, **arrays, where=str(path.parent), revision=metadata["revision"], known_records=records
    )
    _require_consistent(path, gallery)
    return gallery


def parse_revision(path: Path, start: bytes) -> str:
    """The revision in the first bytes of the file ``path``, :data:`MAX_HEADER_BYTES` or all of it."""
    return str(_gallery_metadata(path, _parse_header(path, start))["revision"])


def _encode_strings(texts: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(list(texts)).encode(), np.uint8)


def _parse_header(path: Path, data: bytes) -> dict[str, Any]:
    """Parse the header of a safetensors file from its first bytes."""
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")], f"{path}: damaged")
    if not isinstance(header, dict):
        raise DataError(f"{path}: damaged: its header is not a JSON object")
    return header


def _map_tensors(path: Path, data: bytes, header: Mapping[str, Any], expected: Mapping[str, str]) -> dict[str, Any]:
    """Tensors as views of the file's bytes; safetensors' own ``load`` would copy gigabytes."""
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        stored = {key: entry["dtype"] for key, entry in header.items() if key != "__metadata__"}
        if stored != expected:
            raise DataError(f"{path}: damaged: it holds the tensors {stored}, expected {expected}")
        arrays: dict[str, Any] = {}
        for key, kind in expected.items():
            shape, (first, end) = header[key]["shape"], header[key]["data_offsets"]
            whole = memoryview(data)[start + first : start + end]
            arrays[key] = np.ndarray(shape, _NUMPY_DTYPES[kind], whole)
            if arrays[key].nbytes != end - first:
                raise ValueError(f"{key!r} has the shape {shape} and {end - first} bytes")
        return arrays
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: damaged: {error}") from error


def _gallery_metadata(path: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    try:
        metadata = parse_json(header["__metadata__"][_METADATA_KEY], str(path))
        schema, revision = metadata["schema"], metadata["revision"]
        metadata["maker"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: not a gallery: the header lacks vplface's metadata ({error!r})") from error
    if schema not in (1, 2):
        raise DataError(f"{path}: has schema {schema!r}, this vplface reads 1 and 2; upgrade vplface")
    if not isinstance(revision, str) or not revision.isalnum():
        raise DataError(f"{path}: damaged: 'revision' is {revision!r}")
    return dict(metadata)


def _decode_strings(path: Path, key: str, data: np.ndarray) -> list[str]:
    texts = parse_json(data.tobytes(), f"{path}: damaged: {key!r}")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{path}: damaged: {key!r} is not a list of strings")
    return texts


def _require_shapes(path: Path, fingerprint: EmbedderFingerprint, arrays: Mapping[str, Any]) -> None:
    n = len(arrays["files"])
    shapes = {
        "embeddings": (n, fingerprint.embedding_dim),
        "person": (n,),
        "sha256": (n, 32),
        "boxes": (n, 4),
        "enrolled": (n,),
        "norm": (n,),
        "quality": (n,),
        "paths": (n,),
    }
    for key in shapes.keys() & arrays.keys():
        shape, found = shapes[key], (len(arrays[key]),) if key == "paths" else arrays[key].shape
        if found != shape:
            raise DataError(f"{path}: damaged: {key!r} has the shape {list(found)}, for {n} pictures {list(shape)}")


def _require_consistent(path: Path, gallery: Gallery) -> None:
    if len(set(gallery.names)) != len(gallery.names):
        raise DataError(f"{path}: damaged: duplicate name of a person")
    if set(np.unique(gallery.person).tolist()) != set(range(len(gallery.names))):
        raise DataError(f"{path}: damaged: its pictures are not those of its {len(gallery.names)} people")
    enrolled = gallery.records.enrolled
    if len(enrolled) and not UNDATED <= enrolled.min() <= enrolled.max() <= LATEST:
        raise DataError(f"{path}: damaged: 'enrolled' holds a time that is not a date")
