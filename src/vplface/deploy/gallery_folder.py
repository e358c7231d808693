"""Galleries on disk: one file, replaced atomically, and a lock for writers.

GALLERY/gallery.safetensors   the gallery's tensors; the embedder's fingerprint and the revision are in the header
GALLERY/index-REVISION.faiss  codes of the embeddings, for large galleries; made on demand, deleted with every change;
                              those of templates are in index-REVISION-mean.faiss and index-REVISION-weighted.faiss
GALLERY/.lock                 held by the process that changes the gallery

With a key in the environment a new gallery is encrypted, and its indexes are; see :mod:`vplface.deploy.sealed`.
The folder, the file and the indexes may be symbolic links. Their targets are changed, and the links stay.
"""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from vplface.deploy.gallery import EmbedderFingerprint, EnrolledFace, Gallery
from vplface.deploy.gallery_file import MAX_HEADER_BYTES, gallery_bytes, parse_gallery, parse_revision
from vplface.deploy.sealed import GalleryKey, is_sealed, required_key
from vplface.errors import DataError
from vplface.evaluation.identification import TemplateKind
from vplface.files import PRIVATE, flush_folder, locked, remove_temporaries, replacing
from vplface.reading import is_file, read_bytes

GALLERY_LIMIT = 16 * 2**30
"""Largest gallery file that is read, in bytes."""

_FILE_NAME = "gallery.safetensors"
_INDEX_PATTERN = "index-*"
_INDEX_MAGIC = b"IPfs"
_LOCK_TIMEOUT = 30.0
"""Seconds to wait for another writer."""


def has_gallery(folder: Path) -> bool:
    """Whether a folder has a gallery; raises DataError if the folder cannot be read."""
    return is_file(folder / _FILE_NAME)


def gallery_version(folder: Path) -> tuple[int, ...]:
    """Numbers that change with every change of the stored gallery, without reading it; empty without a gallery."""
    try:
        found = (folder / _FILE_NAME).stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


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
    if is_sealed(data, "gallery"):
        data = required_key(str(path)).unseal(data, "gallery", str(path))
    return parse_gallery(path, data)


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
    removed = 0

    def change(gallery: Gallery) -> Gallery:
        nonlocal removed
        rest = gallery.without(names)
        removed = len(gallery) - len(rest)
        return rest

    change_gallery(folder, change)
    return removed


def remove_pictures(folder: Path, chosen: Callable[[Gallery], Bool[np.ndarray, " n"]]) -> Gallery:
    """Delete pictures, and people without any left, with all their data; returns the gallery as it was before.

    Args:
        folder: folder of the gallery.
        chosen: which pictures of the stored gallery to delete.

    Raises:
        DataError: as :func:`add_faces`.
    """

    def change(gallery: Gallery) -> Gallery | None:
        gone = chosen(gallery)
        return gallery.keeping(~gone) if gone.any() else None

    return change_gallery(folder, change)


def is_encrypted(folder: Path) -> bool:
    """Whether the gallery in a folder is encrypted."""
    path = folder / _FILE_NAME
    try:
        with path.open("rb") as file:
            return is_sealed(file.read(8), "gallery")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def set_encryption(folder: Path, encrypted: bool) -> None:
    """Encrypt a gallery with the key of the environment, or store it without encryption.

    Raises:
        DataError: there is no key, or the gallery is stored this way already, and as :func:`add_faces`.
    """
    load_gallery(folder)  # fail before a missing folder is created
    with _write_lock(folder):
        if is_encrypted(folder) == encrypted:
            raise DataError(f"{folder}: is {'encrypted already' if encrypted else 'not encrypted'}")
        _store(folder, load_gallery(folder), encrypted)


def change_gallery(folder: Path, change: Callable[[Gallery], Gallery | None]) -> Gallery:
    """Replace the stored gallery by what ``change`` makes of it; returns the gallery as it was before.

    Args:
        folder: folder of the gallery.
        change: is called with the lock held; None leaves the gallery as it is.

    Raises:
        DataError: as :func:`add_faces`.
    """
    load_gallery(folder)  # fail before a missing folder is created
    with _write_lock(folder):
        gallery = load_gallery(folder)
        changed = change(gallery)
        if changed is not None:
            _store(folder, changed)
    return gallery


def store_gallery(folder: Path, gallery: Gallery) -> None:
    """Store a gallery, replacing the one in the folder; raises DataError as :func:`add_faces`."""
    require_gallery_or_empty(folder)
    with _write_lock(folder):
        _store(folder, gallery)


def index_path(folder: Path, gallery: Gallery, templates: TemplateKind = "best") -> Path:
    """Path of the index for this revision of the gallery; that of templates has a name of its own."""
    return folder / f"index-{gallery.revision}{'' if templates == 'best' else f'-{templates}'}.faiss"


def read_index(folder: Path, gallery: Gallery, templates: TemplateKind) -> bytes | None:
    """The content of the stored index for this revision of the gallery; None if there is none that can be read.

    That of an encrypted gallery is encrypted with the same key; one that is not is not read.
    """
    path = index_path(folder, gallery, templates)
    try:
        if not is_file(path):
            return None
        data = read_bytes(path, GALLERY_LIMIT)
        return required_key(str(path)).unseal(data, "index", str(path)) if is_encrypted(folder) else data
    except DataError:
        return None


def write_index(folder: Path, gallery: Gallery, templates: TemplateKind, data: bytes) -> None:
    """Store an index, encrypted if the gallery is; not if the stored gallery has another revision by now.

    Raises:
        DataError: the folder cannot be written, or stays locked by another process.
    """
    with _write_lock(folder):
        if _stored_revision(folder) == gallery.revision:
            path = index_path(folder, gallery, templates)
            content = required_key(str(path)).seal(data, "index") if is_encrypted(folder) else data
            with replacing(path, _file_mode(folder)) as temporary:
                temporary.write_bytes(content)


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


def _store(folder: Path, gallery: Gallery, encrypted: bool | None = None) -> None:
    """Replace the stored gallery. The old index is deleted first: it contains codes of everybody enrolled.

    Args:
        folder: folder of the gallery.
        gallery: the new gallery.
        encrypted: whether to encrypt it; None does what was done before, and encrypts a new gallery if there is a key.
    """
    if encrypted is None:
        encrypted = is_encrypted(folder) if has_gallery(folder) else GalleryKey.of_environment() is not None
    content = gallery_bytes(gallery, secrets.token_hex(8))
    if encrypted:
        content = required_key(str(folder)).seal(content, "gallery")
    for index in folder.glob(_INDEX_PATTERN):
        _remove_index(index)
    flush_folder(folder)
    with replacing(folder / _FILE_NAME, _file_mode(folder)) as temporary:
        temporary.write_bytes(content)


def _remove_index(path: Path) -> None:
    """Delete an index, and the target of a link if that is an index."""
    target = _resolve_links(path)
    if path.is_symlink() and is_file(target):
        with target.open("rb") as file:
            starts = file.read(8)
        if starts.startswith(_INDEX_MAGIC) or is_sealed(starts, "index"):
            target.unlink()
            flush_folder(target.parent)
    path.unlink(missing_ok=True)


def _stored_revision(folder: Path) -> str:
    path = folder / _FILE_NAME
    if is_encrypted(folder):
        return load_gallery(folder).revision
    with path.open("rb") as file:
        return parse_revision(path, file.read(MAX_HEADER_BYTES))
