"""What the page can do, without the page: a model, what finds faces for it, and a gallery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vplface.deploy.decision import Threshold, flip_of, stored_point, threshold_of
from vplface.deploy.enrolment import Enrolment, enrol
from vplface.deploy.faces import FaceReader, FoundFace, Photograph
from vplface.deploy.gallery import Maker, Match, name_of
from vplface.deploy.gallery_folder import has_gallery, load_gallery, remove_people, require_place
from vplface.deploy.gallery_search import Search
from vplface.embedder import Embedder
from vplface.errors import DataError

LONGEST_NAME = 200
"""Of a person, in characters."""

_NEAREST = 3
"""People that are given for a face."""


@dataclass(frozen=True, eq=False)
class Recogniser:
    """A model in use.

    Attributes:
        model: where it is.
        embedder: the model.
        reader: finds faces.
        gallery: the folder of the gallery, which may not be there yet.
        maker: what makes the embeddings, of the gallery and of all others.
        threshold: None if the model has no operating point, so that nothing is decided.
    """

    model: Path
    embedder: Embedder
    reader: FaceReader
    gallery: Path
    maker: Maker
    threshold: Threshold | None

    @classmethod
    def of(
        cls, model: Path, embedder: Embedder, reader: FaceReader, gallery: Path, threshold: float | None = None
    ) -> Recogniser:
        """A recogniser that embeds as its gallery does, or else as the model's operating point was measured.

        Args:
            model: where ``embedder`` was loaded from.
            embedder: the model.
            reader: finds faces.
            gallery: a folder with a gallery, an empty one, or none yet.
            threshold: instead of the model's operating point.

        Raises:
            DataError: the folder holds other things, its gallery another model's embeddings, or the operating point
                does not hold for embeddings like the gallery's.
        """
        require_place(gallery)
        point = stored_point(model, threshold, embedder.weights)
        there = load_gallery(gallery).maker if has_gallery(gallery) else None
        maker = Maker.of(model, embedder, flip_of(point, None) if there is None else there.flip)
        if there is not None:
            there.require_same(maker, str(gallery))
        decided = threshold_of(model, point, threshold, maker.flip, maker.preprocessing)
        return cls(model, embedder, reader, gallery, maker, decided)

    def read(self, data: bytes, name: Path) -> Photograph:
        """A picture and its faces; raises as :class:`~vplface.deploy.faces.FaceReader` does."""
        return self.reader.decoded(data, name)

    def similarity(self, first: FoundFace, second: FoundFace) -> float:
        """Cosine of the embeddings of two faces."""
        a, b = self.embedder([first.picture, second.picture], self.maker.flip)
        return float(a @ b)

    def people(self) -> dict[str, int]:
        """{name: pictures} of who is enrolled."""
        return dict(load_gallery(self.gallery).pictures) if has_gallery(self.gallery) else {}

    def enrol(self, name: str, pictures: Mapping[Path, bytes]) -> Enrolment:
        """Enrol the largest face of each of a person's pictures; see :func:`vplface.deploy.enrolment.enrol`.

        Raises:
            DataError: no name, an impossible or very long one; the gallery cannot be changed.
        """
        name = name_of(name)
        if len(name) > LONGEST_NAME:
            raise DataError(f"this name has {len(name):,} characters; give one of at most {LONGEST_NAME}")
        sources = [(name, path) for path in pictures]
        return enrol(
            self.gallery, self.maker, self.embedder, self.reader, sources, bytes_of=lambda path: pictures[path]
        )

    def remove(self, name: str) -> int:
        """Delete a person and all that the gallery's folder holds of them; returns how many pictures that were."""
        return remove_people(self.gallery, [name])

    def search(self, photograph: Photograph) -> tuple[list[list[Match]], int]:
        """For each face the people who resemble it most, and the number of pictures that were compared.

        Raises:
            DataError: nobody is enrolled, or the gallery was made anew with another model meanwhile.
        """
        if not has_gallery(self.gallery):
            raise DataError("nobody is enrolled yet; enrol somebody first")
        people = load_gallery(self.gallery)
        people.maker.require_same(self.maker, str(self.gallery))
        find = Search(people, folder=self.gallery)
        crops = [face.picture for face in photograph.faces]
        return find(self.embedder(crops, self.maker.flip), _NEAREST), len(people)
