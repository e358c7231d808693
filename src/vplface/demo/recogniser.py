"""Operations behind the demo's page, on a model, a face reader and a gallery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from vplface.deploy.decision import Threshold, load_operating_point, resolve_flip, resolve_threshold
from vplface.deploy.enrolment import Enrolment, enrol
from vplface.deploy.faces import FaceReader, FoundFace, Photograph
from vplface.deploy.gallery import EmbedderFingerprint, Match, normalise_name
from vplface.deploy.gallery_folder import (
    has_gallery,
    is_encrypted,
    load_gallery,
    remove_people,
    require_gallery_or_empty,
)
from vplface.deploy.sealed import GalleryKey
from vplface.deploy.shared_search import SharedSearch
from vplface.embedder import Embedder
from vplface.errors import DataError

MAX_NAME_LENGTH = 200
"""Longest name of a person, in characters."""

_NUM_MATCHES = 3
"""Number of people returned for a face."""


@dataclass(frozen=True, eq=False)
class Recogniser:
    """Face recogniser: compares, enrols, removes and searches.

    Attributes:
        model: path of the model.
        embedder: the loaded model.
        reader: detects and aligns faces.
        gallery: folder of the gallery; it is created when somebody is enrolled.
        fingerprint: fingerprint of the embedder; the gallery's is the same.
        threshold: decision threshold; None if the model has no operating point, so that nothing is decided.
    """

    model: Path
    embedder: Embedder
    reader: FaceReader
    gallery: Path
    fingerprint: EmbedderFingerprint
    threshold: Threshold | None

    @classmethod
    def of(
        cls, model: Path, embedder: Embedder, reader: FaceReader, gallery: Path, threshold: float | None = None
    ) -> Recogniser:
        """Recogniser that embeds as its gallery does; without a gallery, as the operating point was measured.

        Args:
            model: path from which ``embedder`` was loaded.
            embedder: the loaded model.
            reader: detects and aligns faces.
            gallery: folder with a gallery, or an empty or missing folder.
            threshold: replaces that of the model's operating point.

        Raises:
            DataError: the folder holds other files, its gallery was made with another model, or the operating point
                was measured with another flip or preprocessing than the gallery's.
        """
        require_gallery_or_empty(gallery)
        point = load_operating_point(model, threshold, embedder.weights)
        there = load_gallery(gallery).fingerprint if has_gallery(gallery) else None
        fingerprint = EmbedderFingerprint.of(
            model, embedder, resolve_flip(point, None) if there is None else there.flip
        )
        if there is not None:
            there.require_same(fingerprint, str(gallery))
        decided = resolve_threshold(model, point, threshold, fingerprint.flip, fingerprint.preprocessing)
        return cls(model, embedder, reader, gallery, fingerprint, decided)

    @cached_property
    def _search(self) -> SharedSearch:
        return SharedSearch(self.gallery)

    def read(self, data: bytes, name: Path) -> Photograph:
        """Decode a picture and find its faces; raises as :class:`~vplface.deploy.faces.FaceReader` does."""
        return self.reader.from_bytes(data, name)

    def similarity(self, first: FoundFace, second: FoundFace) -> float:
        """Cosine similarity of two faces."""
        a, b = self.embedder([first.picture, second.picture], self.fingerprint.flip)
        return float(a @ b)

    def people(self) -> dict[str, int]:
        """Number of enrolled pictures by name."""
        return dict(load_gallery(self.gallery).pictures) if has_gallery(self.gallery) else {}

    def enrol(self, name: str, pictures: Mapping[Path, bytes]) -> Enrolment:
        """Enrol the largest face of each of a person's pictures; see :func:`vplface.deploy.enrolment.enrol`.

        Raises:
            DataError: an empty, invalid or very long name; the gallery cannot be changed.
        """
        name = normalise_name(name)
        if len(name) > MAX_NAME_LENGTH:
            raise DataError(f"this name has {len(name):,} characters; give one of at most {MAX_NAME_LENGTH}")
        sources = [(name, path) for path in pictures]
        return enrol(
            self.gallery, self.fingerprint, self.embedder, self.reader, sources, read_file=lambda path: pictures[path]
        )

    @property
    def encrypted(self) -> bool:
        """Whether the gallery is encrypted, or will be when somebody is enrolled."""
        return is_encrypted(self.gallery) if has_gallery(self.gallery) else GalleryKey.of_environment() is not None

    def remove(self, name: str) -> int:
        """Delete a person with all their data in the gallery's folder; returns their number of pictures."""
        removed = remove_people(self.gallery, [name])
        self._search.forget()
        return removed

    def embed(self, photograph: Photograph) -> Float32[np.ndarray, "faces dim"]:
        """Embeddings of the faces; by one thread at a time, because there is one model."""
        return self.embedder([face.picture for face in photograph.faces], self.fingerprint.flip)

    def find(self, embeddings: Float32[np.ndarray, "faces dim"]) -> tuple[list[list[Match]], int]:
        """The most similar people for each face, and the number of pictures in the gallery; by several threads at once.

        Raises:
            DataError: nobody is enrolled, or the gallery was meanwhile replaced by one of another model.
        """
        if not has_gallery(self.gallery):
            raise DataError("nobody is enrolled yet; enrol somebody first")
        people, find = self._search.current()
        people.fingerprint.require_same(self.fingerprint, str(self.gallery))
        return find(embeddings, _NUM_MATCHES), len(people)

    def search(self, photograph: Photograph) -> tuple[list[list[Match]], int]:
        """The results of :meth:`find` for the faces of a photograph."""
        return self.find(self.embed(photograph))
