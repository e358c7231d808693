"""Gallery of enrolled people with their embeddings, an immutable value.

Similarities between embeddings of different models mean nothing, so a gallery has the fingerprint of its embedder.
:mod:`vplface.deploy.gallery_folder` stores it on disk, :mod:`vplface.deploy.gallery_search` searches it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from vplface.data.pictures import Preprocessing
from vplface.deploy.faces import Box
from vplface.deploy.picture_records import UNDATED, PictureRecords
from vplface.embedder import Embedder, Flip
from vplface.errors import DataError
from vplface.evaluation.provenance import hashes, model_files
from vplface.suggest import did_you_mean

FaceKey: TypeAlias = tuple[str, Box | None]
"""SHA-256 of a picture's file, in hex, and the box of a face in it; None if the picture is an aligned face."""

_NO_BOX = (-1, -1, -1, -1)


_DECISIVE = {
    "weights": "the model",
    "embedding_dim": "the size of embeddings",
    "preprocessing": "how pictures are prepared",
    "flip": "flip",
}
"""Fields of a fingerprint that decide about the embeddings, with their names in errors."""


@dataclass(frozen=True)
class EmbedderFingerprint:
    """Identity of an embedder. Two that agree in all but ``model`` produce the same embeddings.

    Attributes:
        model: path of the model when the gallery was created.
        weights: SHA-256 of its weights, or of its ``.onnx`` file.
        embedding_dim: dimension d of the embeddings.
        preprocessing: preparation of the pictures.
        flip: whether the embedding of the mirrored picture is added.
    """

    model: str
    weights: str
    embedding_dim: int
    preprocessing: Preprocessing
    flip: Flip

    @classmethod
    def of(cls, model: Path, embedder: Embedder, flip: Flip) -> EmbedderFingerprint:
        """The fingerprint of ``embedder``, which was loaded from ``model``."""
        weights = model_files(model)[0]
        digest = embedder.weights or hashes([weights])[str(weights)]
        return cls(str(model.resolve()), digest, embedder.dim, embedder.card.preprocessing, flip)

    def require_same(self, other: EmbedderFingerprint, where: str) -> None:
        """Raise DataError, naming the gallery ``where``, unless ``other`` produces the same embeddings."""
        for key, what in _DECISIVE.items():
            mine, others = getattr(self, key), getattr(other, key)
            if mine != others:
                both = f"{mine[:12]}… there, {others[:12]}… now" if key == "weights" else f"{mine} there, {others} now"
                raise DataError(
                    f"{where}: was enrolled with {self.model}; {what} differs ({both}), and similarities across models "
                    "mean nothing. Use that model, or enrol into a new gallery"
                )

    def agrees_with(self, other: EmbedderFingerprint) -> bool:
        """Whether ``other`` produces the same embeddings."""
        return all(getattr(self, key) == getattr(other, key) for key in _DECISIVE)

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON-compatible values."""
        return {**vars(self), "preprocessing": self.preprocessing.to_dict()}

    @classmethod
    def from_dict(cls, values: Any, where: str) -> EmbedderFingerprint:
        """Read back :meth:`to_dict`; raises DataError, naming ``where``, for anything else."""
        kinds = {"model": str, "weights": str, "embedding_dim": int, "preprocessing": dict, "flip": str}
        if not isinstance(values, dict) or any(not isinstance(values.get(key), kind) for key, kind in kinds.items()):
            raise DataError(f"{where}: damaged: the description of its model is incomplete")
        known = {key: values[key] for key in kinds}
        if known["flip"] not in get_args(Flip) or known["embedding_dim"] < 1:
            raise DataError(f"{where}: damaged: the description of its model is invalid: {known}")
        try:
            return cls(**known | {"preprocessing": Preprocessing.from_dict(known["preprocessing"])})
        except DataError as error:
            raise DataError(f"{where}: damaged: {error}") from error


Maker = EmbedderFingerprint
"""Former name, kept until version 0.2."""


@dataclass(frozen=True, eq=False)
class EnrolledFace:
    """Face to be enrolled in a gallery.

    Attributes:
        name: name of the person.
        embedding: embedding of unit norm.
        sha256: hash of the picture's file, in hex.
        file: name of the picture's file.
        box: box of the face in the picture; None if the picture is an aligned face.
        enrolled: time of the enrolment, in seconds since 1970-01-01 UTC; None if it is not known.
        norm: norm of the network's embedding; None if it is not known.
        quality: quality of the picture, higher is better; None if it was not measured.
        path: absolute path of the picture's file; empty if it is not known.
    """

    name: str
    embedding: Float32[np.ndarray, " dim"]
    sha256: str
    file: str
    box: Box | None = None
    enrolled: int | None = None
    norm: float | None = None
    quality: float | None = None
    path: str = ""


@dataclass(frozen=True, eq=False)
class Match:
    """Enrolled person who is similar to a probe.

    Attributes:
        name: name of the person.
        similarity: highest cosine of the probe with a picture of that person.
        file: name of that picture's file.
    """

    name: str
    similarity: float
    file: str


@dataclass(frozen=True, eq=False)
class Gallery:
    """The enrolled people.

    Attributes:
        fingerprint: identity of the embedder.
        names: people, in the order of their first enrolment.
        person: for each picture, the position of its person in ``names``.
        embeddings: unit-norm embedding of each picture.
        sha256: hash of each picture's file.
        boxes: box of the face in each picture: x, y, width, height; -1 if the picture was an aligned face.
        files: file name of each picture.
        where: folder of the gallery, for error messages.
        revision: changes with every change of the stored gallery.
        known_records: date, norm, quality and path of each picture; None if nothing is known. See :attr:`records`.
    """

    fingerprint: EmbedderFingerprint
    names: Sequence[str]
    person: Int32[np.ndarray, " n"]
    embeddings: Float32[np.ndarray, "n dim"]
    sha256: UInt8[np.ndarray, "n 32"]
    boxes: Int32[np.ndarray, "n 4"]
    files: Sequence[str]
    where: str = "the gallery"
    revision: str = ""
    known_records: PictureRecords | None = None

    @classmethod
    def empty(cls, fingerprint: EmbedderFingerprint, where: str = "the gallery") -> Gallery:
        """Gallery without any people."""
        none = np.empty(0, np.int32)
        rows = np.empty((0, fingerprint.embedding_dim), np.float32)
        return cls(fingerprint, [], none, rows, np.empty((0, 32), np.uint8), np.empty((0, 4), np.int32), [], where)

    def __len__(self) -> int:
        return len(self.person)

    @cached_property
    def records(self) -> PictureRecords:
        """Date, norm, quality and path of each picture."""
        return PictureRecords.unknown(len(self)) if self.known_records is None else self.known_records

    @cached_property
    def pictures(self) -> dict[str, int]:
        """Number of pictures by name, in the order of ``names``."""
        counts = np.bincount(self.person, minlength=len(self.names)).tolist()
        return dict(zip(self.names, counts, strict=True))

    @cached_property
    def keys(self) -> Sequence[FaceKey]:
        """Key of each enrolled face: SHA-256 of the file, and box."""
        digests = self.sha256.tobytes().hex()
        boxes = (None if box[0] == box[2] == -1 else tuple(box) for box in self.boxes.tolist())
        return [(digests[64 * row : 64 * row + 64], box) for row, box in enumerate(boxes)]

    @cached_property
    def owners(self) -> dict[FaceKey, str]:
        """Name of each enrolled face, by its key."""
        return dict(zip(self.keys, (self.names[person] for person in self.person.tolist()), strict=True))

    def adding(self, faces: Iterable[EnrolledFace]) -> tuple[Gallery, list[tuple[EnrolledFace, str]]]:
        """A gallery with these faces added, and the faces that were already enrolled, with their enrolled names.

        A face is already enrolled if the gallery has a picture of the same bytes with the same box, whatever its name:
        if the two names differ, one is wrong, and the gallery cannot know which.

        Raises:
            DataError: an invalid name, see :func:`normalise_name`.
            ValueError: an embedding of another dimension, or not of unit norm.
        """
        names, owners = list(self.names), dict(self.owners)
        number = {name: position for position, name in enumerate(names)}
        new: list[tuple[int, EnrolledFace]] = []
        known: list[tuple[EnrolledFace, str]] = []
        for face in faces:
            name, key = normalise_name(face.name), (face.sha256, face.box)
            unit = abs(np.linalg.norm(face.embedding) - 1) < 1e-3
            if face.embedding.shape != (self.fingerprint.embedding_dim,) or not unit:
                raise ValueError(f"{face.file}: expected a unit-norm embedding [{self.fingerprint.embedding_dim}]")
            if (owner := owners.get(key)) is not None:
                known.append((face, owner))
                continue
            owners[key] = name
            if name not in number:
                number[name] = len(names)
                names.append(name)
            new.append((number[name], face))
        if not new:
            return self, known
        digests = np.frombuffer(bytes.fromhex("".join(face.sha256 for _, face in new)), np.uint8).reshape(-1, 32)
        grown = replace(
            self,
            names=names,
            person=np.append(self.person, np.array([person for person, _ in new], np.int32)),
            embeddings=np.concatenate(
                [self.embeddings, np.stack([face.embedding for _, face in new])], dtype=np.float32
            ),
            sha256=np.concatenate([self.sha256, digests]),
            boxes=np.concatenate([self.boxes, np.array([face.box or _NO_BOX for _, face in new], np.int32)]),
            files=[*self.files, *(face.file for _, face in new)],
            known_records=self.records + _records_of([face for _, face in new]),
        )
        return grown, known

    def without(self, names: Iterable[str]) -> Gallery:
        """A gallery without these people and their pictures.

        Raises:
            DataError: a name is not enrolled; the message suggests similar names.
        """
        gone = {normalise_name(name) for name in names}
        for name in sorted(gone - set(self.names)):
            raise DataError(f"{self.where}: nobody is enrolled as {name!r}{did_you_mean(name, self.names, 3)}")
        stays = np.array([name not in gone for name in self.names], bool)
        return self.keeping(stays[self.person])

    def keeping(self, stays: Bool[np.ndarray, " n"]) -> Gallery:
        """A gallery of some of the pictures, and of the people who still have one.

        Args:
            stays: whether each picture stays.
        """
        rows = np.flatnonzero(stays)
        remains = np.bincount(self.person[rows], minlength=len(self.names)) > 0
        number = np.cumsum(remains) - 1
        return replace(
            self,
            names=[name for name, kept in zip(self.names, remains.tolist(), strict=True) if kept],
            person=number[self.person[rows]].astype(np.int32),
            embeddings=self.embeddings[rows],
            sha256=self.sha256[rows],
            boxes=self.boxes[rows],
            files=[self.files[row] for row in rows.tolist()],
            known_records=self.records.take(rows),
        )


def _records_of(faces: Sequence[EnrolledFace]) -> PictureRecords:
    return PictureRecords(
        np.array([UNDATED if face.enrolled is None else face.enrolled for face in faces], np.int64),
        np.array([np.nan if face.norm is None else face.norm for face in faces], np.float32),
        np.array([np.nan if face.quality is None else face.quality for face in faces], np.float32),
        [face.path for face in faces],
    )


def normalise_name(text: str) -> str:
    """Person's name as galleries store it: Unicode NFC, without leading or trailing blanks.

    Raises:
        DataError: an empty name, or one with control characters or invalid UTF-8.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise DataError(f"invalid name {text!r}: it is empty")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise DataError(f"invalid name {text!r}: it has control characters, or bytes that are not UTF-8")
    return name
