"""Pictures into a gallery: each is read, its face embedded and stored, and what became of it is told."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vplface.data.pictures import UnreadablePictureError, read_picture_file
from vplface.deploy.faces import Box, FaceReader, NoFaceError
from vplface.deploy.gallery import EnrolledFace, Maker
from vplface.deploy.gallery_folder import add_faces, has_gallery, load_gallery
from vplface.embedder import Embedder
from vplface.progress import progress

_BATCH_SIZE = 64
_BETWEEN_SAVES = 60.0


@dataclass(frozen=True)
class PassedOver:
    """A picture that was not enrolled, whose it was said to be, and why."""

    path: Path
    name: str
    reason: str


@dataclass(frozen=True)
class SeveralFaces:
    """A picture that shows several faces, whose it was said to be, and which one was taken, 1 for the largest."""

    path: Path
    name: str
    boxes: Sequence[Box | None]
    taken: int


@dataclass
class Enrolment:
    """What became of pictures.

    Attributes:
        added: {name: pictures that were enrolled}.
        there: how many were enrolled before.
        passed_over: the others.
        several: pictures that show several faces.
    """

    added: dict[str, int] = field(default_factory=dict)
    there: int = 0
    passed_over: list[PassedOver] = field(default_factory=list)
    several: list[SeveralFaces] = field(default_factory=list)


def enrol(
    gallery: Path,
    maker: Maker,
    embedder: Embedder,
    read: FaceReader,
    pictures: Sequence[tuple[str, Path]],
    face: int | None = None,
    bytes_of: Callable[[Path], bytes] = read_picture_file,
) -> Enrolment:
    """Put pictures into the gallery in a folder, which is made if it is not there.

    What is done is stored about once a minute, and a picture that is enrolled under its name already is not looked at
    again: an enrolment that was stopped is completed by repeating it.

    Args:
        gallery: the folder.
        maker: what ``embedder`` is.
        embedder: the model.
        read: finds the faces.
        pictures: (name, picture) for each.
        face: which face of a picture, 1 for the largest; None takes the largest of pictures that are not there yet.
        bytes_of: how to have the bytes of a picture; those of an upload are in no file.

    Raises:
        DataError: the gallery was made with another model, is damaged or cannot be written.
        NoFaceError: a picture has no face of the number ``face``.
    """
    done = Enrolment()
    known = _known(gallery)
    pending: dict[EnrolledFace, Path] = {}
    stored = time.monotonic()
    with progress("enrolling", len(pictures)) as advance:
        for start in range(0, len(pictures), _BATCH_SIZE):
            batch = pictures[start : start + _BATCH_SIZE]
            pending |= _embedded(batch, maker, embedder, read, face, bytes_of, known, done)
            if time.monotonic() - stored > _BETWEEN_SAVES:
                _store(gallery, maker, pending, done)
                pending, stored = {}, time.monotonic()
            advance(len(batch))
    _store(gallery, maker, pending, done)
    return done


def _known(gallery: Path) -> dict[str, set[str]]:
    """{SHA-256 of a picture: names of the people it is enrolled for}."""
    known: dict[str, set[str]] = {}
    if has_gallery(gallery):
        for (digest, _), name in load_gallery(gallery).owners.items():
            known.setdefault(digest, set()).add(name)
    return known


def _embedded(
    batch: Sequence[tuple[str, Path]],
    maker: Maker,
    embedder: Embedder,
    read: FaceReader,
    number: int | None,
    bytes_of: Callable[[Path], bytes],
    known: dict[str, set[str]],
    done: Enrolment,
) -> dict[EnrolledFace, Path]:
    found = []
    for name, path in batch:
        try:
            data = bytes_of(path)
            if number is None and name in known.get(hashlib.sha256(data).hexdigest(), ()):
                done.there += 1
                continue
            photograph = read.decoded(data, path)
            found.append((name, photograph, photograph.face(number or 1)))
        except UnreadablePictureError as error:
            done.passed_over.append(PassedOver(path, name, error.reason))
        except NoFaceError as error:
            if number is not None:
                raise
            done.passed_over.append(PassedOver(path, name, error.reason))
        else:
            if len(photograph.faces) > 1:
                done.several.append(SeveralFaces(path, name, photograph.boxes, number or 1))
    if not found:
        return {}
    crops, paths = [face.picture for _, _, face in found], [photograph.path for _, photograph, _ in found]
    embeddings = embedder(crops, maker.flip, names=[str(path) for path in paths])
    return {
        EnrolledFace(name, embedding, photograph.sha256, photograph.path.name, face.box): photograph.path
        for (name, photograph, face), embedding in zip(found, embeddings, strict=True)
    }


def _store(gallery: Path, maker: Maker, faces: dict[EnrolledFace, Path], done: Enrolment) -> None:
    if not faces:
        return
    owners = dict(add_faces(gallery, maker, list(faces)))
    for face, path in faces.items():
        owner = owners.get(face)
        if owner is None:
            done.added[face.name] = done.added.get(face.name, 0) + 1
        elif owner == face.name:
            done.there += 1
        else:
            reason = f"this face is enrolled as {owner!r} already; if that is wrong, remove {owner!r} first"
            done.passed_over.append(PassedOver(path, face.name, reason))
