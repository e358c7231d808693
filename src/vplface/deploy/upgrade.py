"""Upgrade of a gallery to another model: every enrolled face is embedded again from its picture, found by its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from vplface.data.pictures import UnreadablePictureError, read_picture_file
from vplface.deploy.enrolment import embed_with_norms
from vplface.deploy.faces import Box, FaceReader, FoundFace, NoFaceError
from vplface.deploy.gallery import EmbedderFingerprint, FaceKey, Gallery
from vplface.deploy.gallery_folder import change_gallery, load_gallery
from vplface.embedder import Embedder
from vplface.errors import DataError
from vplface.progress import progress

_BATCH_SIZE = 64
_SAME_FACE = 0.5
"""Least overlap (intersection over union) of the box at enrolment with the box that the detector gives now."""


@dataclass(frozen=True)
class MissingFace:
    """Enrolled face that could not be embedded again, and the reason."""

    name: str
    file: str
    path: str
    sha256: str
    reason: str


@dataclass
class Upgrade:
    """Result of an upgrade.

    Attributes:
        stored: whether the gallery was replaced.
        pictures: number of faces embedded again, by name.
        missing: faces that could not be.
        must_come_again: people without any face embedded again.
    """

    stored: bool
    pictures: Mapping[str, int]
    missing: Sequence[MissingFace] = ()
    must_come_again: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class _Renewed:
    embedding: Float32[np.ndarray, " dim"]
    norm: float
    box: Box | None
    path: str


@dataclass
class _Work:
    """Faces embedded so far, and the reasons for those that could not be."""

    renewed: dict[FaceKey, _Renewed] = field(default_factory=dict)
    reasons: dict[FaceKey, str] = field(default_factory=dict)

    def lacks(self, key: FaceKey) -> bool:
        return key not in self.renewed and key not in self.reasons


def upgrade_gallery(
    folder: Path,
    fingerprint: EmbedderFingerprint,
    embedder: Embedder,
    pictures: Sequence[Path] = (),
    detector_model: Path | None = None,
    allow_missing: bool = False,
) -> Upgrade:
    """Replace all embeddings of a gallery by those of another model; names and dates stay.

    A picture is looked for at the path where it was enrolled, then by its SHA-256 among ``pictures``. A file with other
    bytes is not used. The stored gallery stays as it is until all faces are embedded, and is then replaced at once. If
    it was changed meanwhile, what was removed stays removed, and what was added is embedded too.

    Args:
        folder: folder of the gallery.
        fingerprint: fingerprint of ``embedder``.
        embedder: the new model.
        pictures: further files to look among.
        detector_model: YuNet's file, see :class:`~vplface.deploy.faces.FaceReader`.
        allow_missing: whether to replace the gallery though faces are missing, which are then deleted from it. If not,
            the gallery is left as it is.

    Raises:
        DataError: there is no gallery, it is of this model already, or it cannot be read or written.
    """
    work, found = _Work(), _hashed(pictures)
    stored = False

    def change(current: Gallery) -> Gallery | None:
        nonlocal stored
        keys = current.keys
        if any(map(work.lacks, keys)):
            return None
        stored = allow_missing or all(key in work.renewed for key in keys)
        return _renewed_gallery(current, fingerprint, work) if stored and len(current) else None

    while True:
        gallery = load_gallery(folder)
        if gallery.fingerprint.agrees_with(fingerprint):
            raise DataError(f"{folder}: is a gallery of this model already; there is nothing to upgrade")
        _embed(gallery, fingerprint, embedder, found, detector_model, work)
        gallery = change_gallery(folder, change)
        if not any(map(work.lacks, gallery.keys)):
            return _result(gallery, work, stored)


def _hashed(pictures: Sequence[Path]) -> dict[str, Path]:
    """Files by the SHA-256 of their bytes; unreadable ones are left out."""
    found: dict[str, Path] = {}
    with progress("hashing pictures", len(pictures)) as advance:
        for path in pictures:
            with suppress(UnreadablePictureError):
                found.setdefault(hashlib.sha256(read_picture_file(path)).hexdigest(), path)
            advance(1)
    return found


def _embed(
    gallery: Gallery,
    fingerprint: EmbedderFingerprint,
    embedder: Embedder,
    found: Mapping[str, Path],
    detector_model: Path | None,
    work: _Work,
) -> None:
    """Embed the faces of a gallery that ``work`` lacks, or note there why they cannot be."""
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(gallery.keys):
        if work.lacks(key):
            rows.setdefault(key[0], []).append(row)
    readers = {
        True: FaceReader(fingerprint.preprocessing.size, "never"),
        False: FaceReader(fingerprint.preprocessing.size, "always", detector_model),
    }
    pending: list[tuple[FaceKey, FoundFace, Path]] = []
    with progress("embedding again", sum(map(len, rows.values()))) as advance:
        for digest, of_picture in rows.items():
            keys = [gallery.keys[row] for row in of_picture]
            pending += _faces(digest, keys, gallery.records.paths[of_picture[0]], found, readers, work)
            if len(pending) >= _BATCH_SIZE:
                _embed_batch(pending, fingerprint, embedder, work)
                pending = []
            advance(len(of_picture))
    _embed_batch(pending, fingerprint, embedder, work)


def _faces(
    digest: str,
    keys: Sequence[FaceKey],
    enrolled_path: str,
    found: Mapping[str, Path],
    readers: Mapping[bool, FaceReader],
    work: _Work,
) -> Iterator[tuple[FaceKey, FoundFace, Path]]:
    """The enrolled faces of one picture."""
    data, path, reason = _picture(digest, enrolled_path, found)
    for aligned, reader in readers.items():
        some = [key for key in keys if (key[1] is None) == aligned]
        if not some:
            continue
        if data is None:
            work.reasons |= dict.fromkeys(some, reason)
            continue
        try:
            faces = list(reader.from_bytes(data, path).faces)
        except (UnreadablePictureError, NoFaceError) as error:
            work.reasons |= dict.fromkeys(some, error.reason)
            continue
        for key in some:
            overlaps = [_overlap(face.box, key[1]) for face in faces]
            if max(overlaps, default=0.0) < _SAME_FACE:
                work.reasons[key] = "the face that was enrolled is not found in it any more"
            else:
                yield key, faces.pop(overlaps.index(max(overlaps))), path


def _picture(digest: str, enrolled_path: str, found: Mapping[str, Path]) -> tuple[bytes | None, Path, str]:
    """The bytes of a picture and their file; None, and the reason, if no file with this hash is found."""
    reason = "where it was is not known, and no file with its hash was given"
    for path in (Path(enrolled_path) if enrolled_path else None, found.get(digest)):
        if path is None:
            continue
        try:
            data = read_picture_file(path)
        except UnreadablePictureError as error:
            reason = error.reason
            continue
        if hashlib.sha256(data).hexdigest() == digest:
            return data, path, ""
        reason = "the file has changed since it was enrolled"
    return None, Path(enrolled_path), reason


def _overlap(one: Box | None, other: Box | None) -> float:
    """Intersection over union of two boxes; 1 for two aligned faces."""
    if one is None or other is None:
        return float(one is other)
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(0, width) * max(0, height)
    return shared / max(1, one[2] * one[3] + other[2] * other[3] - shared)


def _embed_batch(
    pending: Sequence[tuple[FaceKey, FoundFace, Path]],
    fingerprint: EmbedderFingerprint,
    embedder: Embedder,
    work: _Work,
) -> None:
    if not pending:
        return
    crops: list[UInt8[np.ndarray, "size size 3"]] = [face.picture for _, face, _ in pending]
    embeddings, norms = embed_with_norms(embedder, crops, fingerprint.flip, [str(path) for _, _, path in pending])
    for (key, face, path), embedding, norm in zip(pending, embeddings, norms.tolist(), strict=True):
        work.renewed[key] = _Renewed(embedding, norm, face.box, str(path.absolute()))


def _renewed_gallery(gallery: Gallery, fingerprint: EmbedderFingerprint, work: _Work) -> Gallery:
    kept = gallery.keeping(np.array([key in work.renewed for key in gallery.keys], bool))
    renewed = [work.renewed[key] for key in kept.keys]
    records = replace(
        kept.records,
        norm=np.array([each.norm for each in renewed], np.float32),
        quality=np.full(len(renewed), np.nan, np.float32),
        paths=[each.path for each in renewed],
    )
    embeddings = np.array([each.embedding for each in renewed], np.float32).reshape(-1, fingerprint.embedding_dim)
    return replace(kept, fingerprint=fingerprint, embeddings=embeddings, boxes=_boxes(renewed), known_records=records)


def _boxes(renewed: Sequence[_Renewed]) -> np.ndarray:
    return np.array([each.box or (-1, -1, -1, -1) for each in renewed], np.int32).reshape(-1, 4)


def _result(gallery: Gallery, work: _Work, stored: bool) -> Upgrade:
    """The report on ``gallery``, as it was before the upgrade."""
    pictures: dict[str, int] = {}
    missing = []
    for row, key in enumerate(gallery.keys):
        name = gallery.names[gallery.person[row]]
        if key in work.renewed:
            pictures[name] = pictures.get(name, 0) + 1
        else:
            missing.append(MissingFace(name, gallery.files[row], gallery.records.paths[row], key[0], work.reasons[key]))
    return Upgrade(stored, pictures, missing, [name for name in gallery.names if name not in pictures])
