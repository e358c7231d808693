"""Galleries on disk: one file, replaced atomically, and a lock for writers.

GALLERY/gallery.safetensors   the gallery's tensors; the embedder's fingerprint and the revision are in the header
GALLERY/index-REVISION.faiss  codes of the embeddings, for large galleries; created on demand, deleted with every change
GALLERY/.lock                 held by the process that changes the gallery

The folder, the file and the indexes may be symbolic links. Their targets are changed, and the links stay.
"""

from __future__ import annotations

import glob
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from vplface.deploy.gallery import EmbedderFingerprint, EnrolledFace, Gallery
from vplface.errors import DataError
from vplface.files import PRIVATE, flush_folder, locked, remove_temporaries, replacing
from vplface.reading import is_file, parse_json, read_bytes

GALLERY_LIMIT = 16 * 2**30
"""Largest gallery file that is read, in bytes."""

_FILE_NAME = "gallery.safetensors"
_MAX_HEADER_BYTES = 2**20
_INDEX_PATTERN = "index-*"
_INDEX_MAGIC = b"IPfs"
_SCHEMA = 1
_METADATA_KEY = "vplface_gallery"
_LOCK_TIMEOUT = 30.0
"""Seconds to wait for another writer."""

_TENSORS = {"embeddings": "F32", "person": "I32", "sha256": "U8", "boxes": "I32", "names": "U8", "files": "U8"}
_NUMPY_DTYPES = {"F32": "<f4", "I32": "<i4", "U8": "u1"}


def has_gallery(folder: Path) -> bool:
    """Whether a folder has a gallery; raises DataError if the folder cannot be read."""
    return is_file(folder / _FILE_NAME)


def load_gallery(folder: Path) -> Gallery:
    """Load the gallery in a folder into memory; later changes of the file do not affect it.

    Raises:
        DataError: there is no gallery, or its file is damaged.
    """
    path = folder / _FILE_NAME
    if not has_gallery(folder):
        what = "it is a file" if is_file(folder) else "there is no gallery"
        raise DataError(f"{folder}: {what}; make one with: vplface enroll GALLERY --model MODEL --name NAME PICTURE...")
    data = read_bytes(path, GALLERY_LIMIT)
    header = _parse_header(path, data)
    metadata = _gallery_metadata(path, header)
    arrays = _map_tensors(path, data, header)
    arrays |= {key: _decode_strings(path, key, arrays[key]) for key in ("names", "files")}
    fingerprint = EmbedderFingerprint.from_dict(metadata["maker"], str(path))
    _require_shapes(path, fingerprint, arrays)
    gallery = Gallery(fingerprint, **arrays, where=str(folder), revision=metadata["revision"])
    _require_consistent(path, gallery)
    return gallery


def require_gallery_or_empty(folder: Path) -> None:
    """Raise DataError unless the folder has a gallery, is empty or does not exist."""
    try:
        occupied = folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be a gallery: {error.strerror or error}") from error
    if occupied and not has_gallery(folder):  # in this order: another writer may create a gallery in between
        raise DataError(f"{folder}: not a gallery and not empty; choose an empty or a new folder")


def add_faces(
    folder: Path, fingerprint: EmbedderFingerprint, faces: Sequence[EnrolledFace]
) -> list[tuple[EnrolledFace, str]]:
    """Enrol faces, in a new gallery if there is none; returns the already enrolled ones, see Gallery.adding.

    Raises:
        DataError: the gallery was made with another model, is damaged, cannot be written, or stays locked by another
            process.
    """
    require_gallery_or_empty(folder)
    with _write_lock(folder):
        gallery = load_gallery(folder) if has_gallery(folder) else Gallery.empty(fingerprint, str(folder))
        gallery.fingerprint.require_same(fingerprint, str(folder))
        grown, known = gallery.adding(faces)
        if grown is not gallery:
            _store(folder, grown)
    return known


def remove_people(folder: Path, names: Sequence[str]) -> int:
    """Delete people with all their data in the folder; returns the number of removed pictures.

    Raises:
        DataError: a name is not enrolled, and as :func:`add_faces`.
    """
    load_gallery(folder)  # fail before a missing folder is created
    with _write_lock(folder):
        gallery = load_gallery(folder)
        rest = gallery.without(names)
        _store(folder, rest)
    return len(gallery) - len(rest)


def store_gallery(folder: Path, gallery: Gallery) -> None:
    """Store a gallery, replacing the one in the folder; raises DataError as :func:`add_faces`."""
    require_gallery_or_empty(folder)
    with _write_lock(folder):
        _store(folder, gallery)


def index_path(folder: Path, gallery: Gallery) -> Path:
    """Path of the index for this revision of the gallery."""
    return folder / f"index-{gallery.revision}.faiss"


@contextmanager
def write_index_if_current(folder: Path, gallery: Gallery) -> Iterator[Path | None]:
    """Yield a path to write the index to; None if the stored gallery has changed and the index is outdated."""
    with _write_lock(folder):
        if _stored_revision(folder) != gallery.revision:
            yield None
        else:
            with replacing(index_path(folder, gallery), _file_mode(folder)) as path:
                yield path


@contextmanager
def _write_lock(folder: Path) -> Iterator[None]:
    """Hold the lock. Files left by a killed writer are deleted: they may contain removed people."""
    otherwise = f"another process has been changing this gallery for {_LOCK_TIMEOUT:g} seconds; try again later"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(folder, otherwise, _LOCK_TIMEOUT):
            _remove_leftovers(folder)
            yield
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _remove_leftovers(folder: Path) -> None:
    stored = _resolve_links(folder / _FILE_NAME)
    remove_temporaries(folder, _INDEX_PATTERN)
    if stored.parent.is_dir():
        remove_temporaries(stored.parent, glob.escape(stored.name))
    earlier = folder / ".unfinished"  # temporary folder of earlier versions
    if earlier.is_symlink():
        behind = _resolve_links(earlier)
        if not (behind / ".lock").exists():  # otherwise it is another gallery
            for path in (*behind.glob(f"*{_FILE_NAME}*"), *behind.glob(f"*{_INDEX_PATTERN}")):
                path.unlink(missing_ok=True)
        earlier.unlink()
    elif earlier.is_dir():
        shutil.rmtree(earlier)


def _resolve_links(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _file_mode(folder: Path) -> int:
    """Permissions for new files: those of the stored gallery, or for the owner only."""
    stored = folder / _FILE_NAME
    return stat.S_IMODE(stored.stat().st_mode) if has_gallery(folder) else PRIVATE


def _store(folder: Path, gallery: Gallery) -> None:
    """Replace the stored gallery. The old index is deleted first: it contains codes of everybody enrolled."""
    for index in folder.glob(_INDEX_PATTERN):
        _remove_index(index)
    flush_folder(folder)
    header = {"schema": _SCHEMA, "revision": secrets.token_hex(8), "maker": gallery.fingerprint.to_dict()}
    arrays = {
        "embeddings": np.ascontiguousarray(gallery.embeddings, np.float32),
        "person": gallery.person,
        "sha256": np.ascontiguousarray(gallery.sha256),
        "boxes": np.ascontiguousarray(gallery.boxes),
        "names": np.frombuffer(json.dumps(list(gallery.names)).encode(), np.uint8),
        "files": np.frombuffer(json.dumps(list(gallery.files)).encode(), np.uint8),
    }
    with replacing(folder / _FILE_NAME, _file_mode(folder)) as temporary:  # save_file creates its own temporary files
        temporary.write_bytes(safetensors.numpy.save(arrays, {_METADATA_KEY: json.dumps(header)}))


def _remove_index(path: Path) -> None:
    """Delete an index, and the target of a link if that is an index."""
    target = _resolve_links(path)
    if path.is_symlink() and is_file(target):
        with target.open("rb") as file:
            starts = file.read(len(_INDEX_MAGIC))
        if starts == _INDEX_MAGIC:
            target.unlink()
            flush_folder(target.parent)
    path.unlink(missing_ok=True)


def _stored_revision(folder: Path) -> str:
    path = folder / _FILE_NAME
    with path.open("rb") as file:
        start = file.read(_MAX_HEADER_BYTES)
    return str(_gallery_metadata(path, _parse_header(path, start))["revision"])


def _parse_header(path: Path, data: bytes) -> dict[str, Any]:
    """Parse the header of a safetensors file from its first bytes."""
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")], f"{path}: damaged")
    if not isinstance(header, dict):
        raise DataError(f"{path}: damaged: its header is not a JSON object")
    return header


def _map_tensors(path: Path, data: bytes, header: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors as views of the file's bytes; safetensors' own ``load`` would copy gigabytes."""
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        stored = {key: entry["dtype"] for key, entry in header.items() if key != "__metadata__"}
        if stored != _TENSORS:
            raise DataError(f"{path}: damaged: it holds the tensors {stored}, expected {_TENSORS}")
        arrays: dict[str, Any] = {}
        for key, kind in _TENSORS.items():
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
    if schema != _SCHEMA:
        raise DataError(f"{path}: has schema {schema!r}, this vplface reads {_SCHEMA}; upgrade vplface")
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
    }
    for key, shape in shapes.items():
        found = arrays[key].shape
        if found != shape:
            raise DataError(f"{path}: damaged: {key!r} has the shape {list(found)}, for {n} pictures {list(shape)}")


def _require_consistent(path: Path, gallery: Gallery) -> None:
    if len(set(gallery.names)) != len(gallery.names):
        raise DataError(f"{path}: damaged: duplicate name of a person")
    if set(np.unique(gallery.person).tolist()) != set(range(len(gallery.names))):
        raise DataError(f"{path}: damaged: its pictures are not those of its {len(gallery.names)} people")
