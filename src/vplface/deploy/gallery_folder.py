"""A gallery on disk: one file, so that it is the old one or the new one whatever happens, and a lock for its writers.

GALLERY/gallery.safetensors   all of it; tensors beside each other, the model and the revision in the header
GALLERY/index-REVISION.faiss  codes of the embeddings, for large galleries; made when missing, deleted with every change
GALLERY/.lock                 held by whoever changes the gallery
GALLERY/.unfinished/          what is being written; left by a killed writer, deleted by the next
"""

from __future__ import annotations

import json
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from vplface.deploy.gallery import EnrolledFace, Gallery, Maker
from vplface.errors import DataError
from vplface.files import locked, replacing

_FILE = "gallery.safetensors"
_UNFINISHED = ".unfinished"
_SCHEMA = 1
_KEY = "vplface_gallery"
_PATIENCE = 30.0
"""Seconds to wait for another writer."""

_TENSORS = {"embeddings": "F32", "person": "I32", "sha256": "U8", "boxes": "I32", "names": "U8", "files": "U8"}


def has_gallery(folder: Path) -> bool:
    """Whether there is a gallery in a folder; raises DataError if that cannot be seen."""
    try:
        return stat.S_ISREG((folder / _FILE).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error


def load_gallery(folder: Path) -> Gallery:
    """The gallery in a folder, as it is now. Embeddings are read from the file when they are used.

    Raises:
        DataError: there is none, or a file of it is damaged; the file is named.
    """
    path = folder / _FILE
    if not has_gallery(folder):
        what = "it is a file" if folder.is_file() else "there is no gallery"
        raise DataError(f"{folder}: {what}; make one with: vplface enroll GALLERY --model MODEL --name NAME PICTURE...")
    try:
        with safe_open(path, "pt") as file:
            header = _header(path, file.metadata())
            stored = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 - it is no dictionary
            if stored != _TENSORS:
                raise DataError(f"{path}: damaged: it holds {stored}, a gallery {_TENSORS}")
            arrays: dict[str, Any] = {key: file.get_tensor(key).numpy() for key in _TENSORS}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: damaged or not readable: {error}") from error
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
        if load_gallery(folder).revision != gallery.revision:
            yield None
        else:
            with _replacing(index_path(folder, gallery)) as path:
                yield path


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Hold the lock. What a killed writer has left unfinished is deleted: it may hold people who were removed."""
    otherwise = f"another process has been changing this gallery for {_PATIENCE:g} seconds; try again later"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(folder, otherwise, _PATIENCE):
            _sweep(folder)
            try:
                yield
            finally:
                _sweep(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _sweep(folder: Path) -> None:
    if (folder / _UNFINISHED).is_dir():
        shutil.rmtree(folder / _UNFINISHED)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """As :func:`vplface.files.replacing`, with all that is unfinished in a folder of its own, which can be deleted.

    It can be read by its owner only, or by whom the gallery that is there has been opened to.
    """
    finished, stored = path.parent / _UNFINISHED / path.name, path.parent / _FILE
    mode = stored.stat().st_mode & 0o777 if stored.exists() else 0o600
    finished.parent.mkdir(mode=0o700, exist_ok=True)
    with replacing(finished) as temporary:
        yield temporary
    finished.chmod(mode)
    finished.replace(path)


def _store(folder: Path, gallery: Gallery) -> None:
    """Replace the stored gallery; its index goes first, since it has codes of everybody in the old one."""
    for index in folder.glob("index-*"):
        index.unlink(missing_ok=True)
    header = {"schema": _SCHEMA, "revision": secrets.token_hex(8), "maker": gallery.maker.to_dict()}
    arrays = {
        "embeddings": np.ascontiguousarray(gallery.embeddings, np.float32),
        "person": gallery.person,
        "sha256": np.ascontiguousarray(gallery.sha256),
        "boxes": np.ascontiguousarray(gallery.boxes),
        "names": np.frombuffer(json.dumps(list(gallery.names)).encode(), np.uint8),
        "files": np.frombuffer(json.dumps(list(gallery.files)).encode(), np.uint8),
    }
    path = folder / _FILE
    with _replacing(path) as temporary:
        try:
            safetensors.numpy.save_file(arrays, temporary, {_KEY: json.dumps(header)})
        except SafetensorError as error:  # a full disk among others
            raise DataError(f"cannot write {path}: {error}; what was there before is unharmed") from error


def _header(path: Path, metadata: dict[str, str] | None) -> dict[str, Any]:
    try:
        header = json.loads((metadata or {})[_KEY])
        schema, revision = header["schema"], header["revision"]
        header["maker"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a gallery: its header is none of vplface's ({error!r})") from error
    if schema != _SCHEMA:
        raise DataError(f"{path}: has schema {schema!r}, this vplface reads {_SCHEMA}; upgrade vplface")
    if not isinstance(revision, str) or not revision.isalnum():
        raise DataError(f"{path}: damaged: 'revision' is {revision!r}")
    return dict(header)


def _texts(path: Path, key: str, data: np.ndarray) -> list[str]:
    try:
        texts = json.loads(data.tobytes())
    except ValueError as error:
        raise DataError(f"{path}: damaged: {key!r} is no JSON: {error}") from error
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
