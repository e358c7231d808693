"""Enrolment of pictures in a gallery, with a report for each picture."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from vplface.data.pictures import UnreadablePictureError, read_picture_file
from vplface.deploy.faces import Box, FaceReader, NoFaceError
from vplface.deploy.gallery import EmbedderFingerprint, EnrolledFace
from vplface.deploy.gallery_folder import add_faces, has_gallery, load_gallery
from vplface.deploy.quality import FaceQuality, QualityCheck
from vplface.embedder import Embedder, Flip
from vplface.progress import progress

_BATCH_SIZE = 64
_SAVE_INTERVAL = 60.0
"""Seconds between saves of the gallery."""


@dataclass(frozen=True)
class SkippedPicture:
    """Picture that was not enrolled, the name given for it, and the reason."""

    path: Path
    name: str
    reason: str


@dataclass(frozen=True)
class MultiFacePicture:
    """Picture with several faces, the name given for it, and the number of the enrolled face, 1 for the largest."""

    path: Path
    name: str
    boxes: Sequence[Box | None]
    taken: int


@dataclass
class Enrolment:
    """Result of an enrolment.

    Attributes:
        added: number of newly enrolled pictures by name.
        already_enrolled: number of pictures enrolled before.
        skipped: pictures that were not enrolled.
        several: pictures that show several faces.
    """

    added: dict[str, int] = field(default_factory=dict)
    already_enrolled: int = 0
    skipped: list[SkippedPicture] = field(default_factory=list)
    several: list[MultiFacePicture] = field(default_factory=list)


def enrol(
    gallery: Path,
    fingerprint: EmbedderFingerprint,
    embedder: Embedder,
    reader: FaceReader,
    pictures: Sequence[tuple[str, Path]],
    face: int | None = None,
    read_file: Callable[[Path], bytes] | None = None,
    check: QualityCheck | None = None,
) -> Enrolment:
    """Enrol pictures in the gallery in a folder, which is created if missing.

    Progress is saved about once a minute, and a picture already enrolled under its name is skipped: repeat an
    interrupted enrolment to complete it.

    Args:
        gallery: folder of the gallery.
        fingerprint: fingerprint of ``embedder``.
        embedder: the model.
        reader: detects and aligns faces.
        pictures: (name, path) of each picture.
        face: number of the face to enrol, 1 for the largest; None enrols the largest and skips enrolled pictures.
        read_file: returns the bytes of a path, for uploads in memory; None reads files, whose paths are kept.
        check: of the quality of faces, which is stored; faces that are too poor are skipped. None for no check.

    Raises:
        DataError: the gallery was made with another model, is damaged or cannot be written.
        NoFaceError: a picture has no face of the number ``face``.
    """
    done = Enrolment()
    known = _enrolled_names(gallery)
    pending: dict[EnrolledFace, Path] = {}
    last_save = time.monotonic()
    with progress("enrolling", len(pictures)) as advance:
        for start in range(0, len(pictures), _BATCH_SIZE):
            batch = pictures[start : start + _BATCH_SIZE]
            pending |= _embed_batch(batch, fingerprint, embedder, reader, face, read_file, known, done, check)
            if time.monotonic() - last_save > _SAVE_INTERVAL:
                _store(gallery, fingerprint, pending, done)
                pending, last_save = {}, time.monotonic()
            advance(len(batch))
    _store(gallery, fingerprint, pending, done)
    return done


def _enrolled_names(gallery: Path) -> dict[str, set[str]]:
    """Names under which each picture is enrolled, by its SHA-256."""
    known: dict[str, set[str]] = {}
    if has_gallery(gallery):
        for (digest, _), name in load_gallery(gallery).owners.items():
            known.setdefault(digest, set()).add(name)
    return known


# size: the pictures, how they are read and embedded, and what is known of them
def _embed_batch(
    batch: Sequence[tuple[str, Path]],
    fingerprint: EmbedderFingerprint,
    embedder: Embedder,
    reader: FaceReader,
    number: int | None,
    read_file: Callable[[Path], bytes] | None,
    known: dict[str, set[str]],
    done: Enrolment,
    check: QualityCheck | None,
) -> dict[EnrolledFace, Path]:
    readable = []
    for name, path in batch:
        try:
            data = (read_file or read_picture_file)(path)
            if number is None and name in known.get(hashlib.sha256(data).hexdigest(), ()):
                done.already_enrolled += 1
                continue
            photograph = reader.from_bytes(data, path)
            readable.append((name, photograph, photograph.face(number or 1)))
        except UnreadablePictureError as error:
            done.skipped.append(SkippedPicture(path, name, error.reason))
        except NoFaceError as error:
            if number is not None:
                raise
            done.skipped.append(SkippedPicture(path, name, error.reason))
        else:
            if len(photograph.faces) > 1:
                done.several.append(MultiFacePicture(path, name, photograph.boxes, number or 1))
    if not readable:
        return {}
    crops, paths = [face.picture for _, _, face in readable], [photograph.path for _, photograph, _ in readable]
    embeddings, norms = embed_with_norms(embedder, crops, fingerprint.flip, [str(path) for path in paths])
    qualities: list[FaceQuality | None] = [None] * len(crops)
    if check is not None:
        qualities = list(check(embeddings * norms[:, None], crops))
    now = int(time.time())
    return {
        EnrolledFace(
            name,
            embedding,
            photograph.sha256,
            photograph.path.name,
            face.box,
            enrolled=now,
            norm=norm,
            quality=None if quality is None else quality.value,
            path=str(photograph.path.absolute()) if read_file is None else "",
        ): photograph.path
        for (name, photograph, face), embedding, norm, quality in zip(
            readable, embeddings, norms.tolist(), qualities, strict=True
        )
        if _good_enough(photograph.path, name, quality, done)
    }


def _good_enough(path: Path, name: str, quality: FaceQuality | None, done: Enrolment) -> bool:
    """Whether a face is not too poor; one that is counts as skipped."""
    if quality is None or not quality.too_poor:
        return True
    done.skipped.append(SkippedPicture(path, name, f"too poor: {quality}"))
    return False


def embed_with_norms(
    embedder: Embedder, crops: Sequence[UInt8[np.ndarray, "size size 3"]], flip: Flip, names: Sequence[str]
) -> tuple[Float32[np.ndarray, "n dim"], Float32[np.ndarray, " n"]]:
    """Embeddings of unit norm, and the norms that the network gave them; raises as the embedder does."""
    raw = embedder(crops, flip, names, unit=False).astype(np.float64)
    norms = np.linalg.norm(raw, axis=1)
    return (raw / norms[:, None]).astype(np.float32), norms.astype(np.float32)


def _store(gallery: Path, fingerprint: EmbedderFingerprint, faces: dict[EnrolledFace, Path], done: Enrolment) -> None:
    if not faces:
        return
    owners = dict(add_faces(gallery, fingerprint, list(faces)))
    for face, path in faces.items():
        owner = owners.get(face)
        if owner is None:
            done.added[face.name] = done.added.get(face.name, 0) + 1
        elif owner == face.name:
            done.already_enrolled += 1
        else:
            reason = f"this face is already enrolled as {owner!r}; if that is wrong, remove {owner!r} first"
            done.skipped.append(SkippedPicture(path, face.name, reason))
