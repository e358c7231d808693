"""A gallery on disk: one file, so that it is the old one or the new one whatever happens, and a lock for its writers.

GALLERY/gallery.safetensors   all of it; tensors beside each other, the model and the revision in the header
GALLERY/index-REVISION.faiss  codes of the embeddings, for large galleries; made when missing, deleted with every change
GALLERY/.lock                 held by whoever changes the gallery

The folder, the file and the indexes may be symbolic links. What they lead to is changed, and the links stay.
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

from vplface.deploy.gallery import EnrolledFace, Gallery, Maker
from vplface.errors import DataError
from vplface.files import PRIVATE, flush_folder, locked, remove_temporaries, replacing
from vplface.reading import is_file, parse_json, read_bytes

GALLERY_LIMIT = 16 * 2**30
"""The largest gallery that is read, in bytes."""

_FILE = "gallery.safetensors"
_LONGEST_HEADER = 2**20
_INDEXES = "index-*"
_INDEX_STARTS = b"IPfs"
_SCHEMA = 1
_KEY = "vplface_gallery"
_PATIENCE = 30.0
"""Seconds to wait for another writer."""

_TENSORS = {"embeddings": "F32", "person": "I32", "sha256": "U8", "boxes": "I32", "names": "U8", "files": "U8"}
_KINDS = {"F32": "<f4", "I32": "<i4", "U8": "u1"}


def has_gallery(folder: Path) -> bool:
    """Whether there is a gallery in a folder; raises DataError if that cannot be seen."""
    return is_file(folder / _FILE)


def load_gallery(folder: Path) -> Gallery:
    """The gallery in a folder, as it is now; it is in memory, and later changes of the file do not reach it.

    Raises:
        DataError: there is none, or a file of it is damaged; the file is named.
    """
    path = folder / _FILE
    if not has_gallery(folder):
        what = "it is a file" if is_file(folder) else "there is no gallery"
        raise DataError(f"{folder}: {what}; make one with: vplface enroll GALLERY --model MODEL --name NAME PICTURE...")
    data = read_bytes(path, GALLERY_LIMIT)
    described = _described(path, data)
    header = _header(path, described)
    arrays = _arrays(path, data, described)
    arrays |= {key: _texts(path, key, arrays[key]) for key in ("names", "files")}
    gallery = Gallery(
        Maker.from_dict(header["maker"], str(path)), **arrays, where=str(folder), revision=header["revision"]
    )
    _require_consistent(path, gallery)
    return gallery


def require_place(folder: Path) -> None:
    """Raise DataError unless a gallery is in the folder or can be made there: it is empty or new."""
    try:
        occupied = folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be a gallery: {error.strerror or error}") from error
    if occupied and not has_gallery(folder):  # in this order: what came in between is another writer's gallery
        raise DataError(f"{folder}: holds other files and no gallery; choose an empty or a new folder")


def add_faces(folder: Path, maker: Maker, faces: Sequence[EnrolledFace]) -> list[tuple[EnrolledFace, str]]:
    """Enrol faces, into a new gallery if there is none; returns those that are there already, see Gallery.adding.

    Raises:
        DataError: the gallery was made with another model, is damaged, cannot be written, or is being changed by
            another process for long.
    """
    require_place(folder)
    with _writing(folder):
        gallery = load_gallery(folder) if has_gallery(folder) else Gallery.empty(maker, str(folder))
        gallery.maker.require_same(maker, str(folder))
        grown, known = gallery.adding(faces)
        if grown is not gallery:
            _store(folder, grown)
    return known


def remove_people(folder: Path, names: Sequence[str]) -> int:
    """Delete people, and all that the folder holds of them; returns how many pictures that were.

    Raises:
        DataError: nobody of that name, and as :func:`add_faces`.
    """
    load_gallery(folder)  # no folder is made for a gallery that is not there
    with _writing(folder):
        gallery = load_gallery(folder)
        rest = gallery.without(names)
        _store(folder, rest)
    return len(gallery) - len(rest)


def store_gallery(folder: Path, gallery: Gallery) -> None:
    """Store a whole gallery in place of the one that is there, if there is one; raises DataError as add_faces does."""
    require_place(folder)
    with _writing(folder):
        _store(folder, gallery)


def index_path(folder: Path, gallery: Gallery) -> Path:
    """Where the index of this revision of the gallery belongs."""
    return folder / f"index-{gallery.revision}.faiss"


@contextmanager
def writing_index(folder: Path, gallery: Gallery) -> Iterator[Path | None]:
    """Yield a path to write the index to; None if the gallery has changed since, so that its index must not be kept."""
    with _writing(folder):
        if _stored_revision(folder) != gallery.revision:
            yield None
        else:
            with replacing(index_path(folder, gallery), _mode(folder)) as path:
                yield path


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Hold the lock. What a killed writer has left is deleted: it may hold people who were removed."""
    otherwise = f"another process has been changing this gallery for {_PATIENCE:g} seconds; try again later"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(folder, otherwise, _PATIENCE):
            _sweep(folder)
            yield
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _sweep(folder: Path) -> None:
    stored = _target(folder / _FILE)
    remove_temporaries(folder, _INDEXES)
    if stored.parent.is_dir():
        remove_temporaries(stored.parent, glob.escape(stored.name))
    earlier = folder / ".unfinished"  # where earlier versions wrote
    if earlier.is_symlink():
        behind = _target(earlier)
        if not (behind / ".lock").exists():  # else it is another gallery
            for path in (*behind.glob(f"*{_FILE}*"), *behind.glob(f"*{_INDEXES}")):
                path.unlink(missing_ok=True)
        earlier.unlink()
    elif earlier.is_dir():
        shutil.rmtree(earlier)


def _target(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _mode(folder: Path) -> int:
    """The permissions of what is written: for its owner only, or for whom the gallery that is there is opened to."""
    stored = folder / _FILE
    return stat.S_IMODE(stored.stat().st_mode) if has_gallery(folder) else PRIVATE


def _store(folder: Path, gallery: Gallery) -> None:
    """Replace the stored gallery; its index goes first, since it has codes of everybody in the old one."""
    for index in folder.glob(_INDEXES):
        _remove_index(index)
    flush_folder(folder)
    header = {"schema": _SCHEMA, "revision": secrets.token_hex(8), "maker": gallery.maker.to_dict()}
    arrays = {
        "embeddings": np.ascontiguousarray(gallery.embeddings, np.float32),
        "person": gallery.person,
        "sha256": np.ascontiguousarray(gallery.sha256),
        "boxes": np.ascontiguousarray(gallery.boxes),
        "names": np.frombuffer(json.dumps(list(gallery.names)).encode(), np.uint8),
        "files": np.frombuffer(json.dumps(list(gallery.files)).encode(), np.uint8),
    }
    with replacing(folder / _FILE, _mode(folder)) as temporary:  # save_file makes temporary files of its own
        temporary.write_bytes(safetensors.numpy.save(arrays, {_KEY: json.dumps(header)}))


def _remove_index(path: Path) -> None:
    """Delete an index; of one behind a link what the link leads to, if that is an index."""
    target = _target(path)
    if path.is_symlink() and is_file(target):
        with target.open("rb") as file:
            starts = file.read(len(_INDEX_STARTS))
        if starts == _INDEX_STARTS:
            target.unlink()
            flush_folder(target.parent)
    path.unlink(missing_ok=True)


def _stored_revision(folder: Path) -> str:
    path = folder / _FILE
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
    return str(_header(path, _described(path, start))["revision"])


def _described(path: Path, data: bytes) -> dict[str, Any]:
    """What a safetensors file that starts like this says of its tensors."""
    described = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")], f"{path}: damaged")
    if not isinstance(described, dict):
        raise DataError(f"{path}: damaged: its header is not a JSON object")
    return described


def _arrays(path: Path, data: bytes, described: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors as views of the file's bytes; safetensors' own ``load`` would copy what may be gigabytes."""
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        stored = {key: entry["dtype"] for key, entry in described.items() if key != "__metadata__"}
        if stored != _TENSORS:
            raise DataError(f"{path}: damaged: it holds {stored}, a gallery {_TENSORS}")
        arrays: dict[str, Any] = {}
        for key, kind in _TENSORS.items():
            shape, (first, end) = described[key]["shape"], described[key]["data_offsets"]
            whole = memoryview(data)[start + first : start + end]
            arrays[key] = np.ndarray(shape, _KINDS[kind], whole)
            if arrays[key].nbytes != end - first:
                raise ValueError(f"{key!r} has the shape {shape} and {end - first} bytes")
        return arrays
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: damaged: {error}") from error


def _header(path: Path, described: Mapping[str, Any]) -> dict[str, Any]:
    try:
        header = parse_json(described["__metadata__"][_KEY], str(path))
        schema, revision = header["schema"], header["revision"]
        header["maker"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: not a gallery: its header is none of vplface's ({error!r})") from error
    if schema != _SCHEMA:
        raise DataError(f"{path}: has schema {schema!r}, this vplface reads {_SCHEMA}; upgrade vplface")
    if not isinstance(revision, str) or not revision.isalnum():
        raise DataError(f"{path}: damaged: 'revision' is {revision!r}")
    return dict(header)


def _texts(path: Path, key: str, data: np.ndarray) -> list[str]:
    texts = parse_json(data.tobytes(), f"{path}: damaged: {key!r}")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{path}: damaged: {key!r} is no list of texts")
    return texts


def _require_consistent(path: Path, gallery: Gallery) -> None:
    n = len(gallery.files)
    shapes = {
        "embeddings": (n, gallery.maker.embedding_dim),
        "person": (n,),
        "sha256": (n, 32),
        "boxes": (n, 4),
    }
    for key, shape in shapes.items():
        found = getattr(gallery, key).shape
        if found != shape:
            raise DataError(f"{path}: damaged: {key!r} has the shape {list(found)}, for {n} pictures {list(shape)}")
    if len(set(gallery.names)) != len(gallery.names):
        raise DataError(f"{path}: damaged: a name occurs twice among those of the people")
    if set(np.unique(gallery.person).tolist()) != set(range(len(gallery.names))):
        raise DataError(f"{path}: damaged: its pictures are not those of its {len(gallery.names)} people")
