"""Search of a gallery, exactly or by product-quantised codes with exact re-ranking.

Pictures of one person have cosines of .3 to .9, and the most similar stranger among a million may have .6. People are
spread about evenly on the sphere, so an inverted list cannot skip most cells without missing matches. Therefore every
embedding has a code of two bits per dimension (product quantisation, two dimensions to one of 16 codewords; Jégou,
Douze, Schmid, PAMI 2011). All codes are scanned, with the codeword table in registers (André, Kermarrec, Le Scouarnec,
VLDB 2015; in faiss), and the best few hundred are re-ranked with the embeddings in the gallery's file. Only the codes,
a sixteenth of the embeddings, must fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Int64

from vplface.deploy.gallery import Gallery, Match
from vplface.deploy.gallery_folder import read_index, write_index
from vplface.deploy.gallery_templates import templates_of
from vplface.errors import DataError, MissingExtraError, import_extra
from vplface.evaluation.identification import TemplateKind
from vplface.evaluation.topk import highest
from vplface.progress import progress

Engine = Literal["auto", "exact", "faiss"]
"""``"exact"``: every cosine. ``"faiss"``: codes first. ``"auto"``: exact below :data:`EXACT_BELOW` pictures."""

EXACT_BELOW = 100_000

_PROBE_BATCH = 64
_MIN_CANDIDATES = 256
_BLOCK_ROWS = 16_384
_MAX_TRAINING_ROWS = 65_536


class Search:
    """Search for the most similar enrolled people.

    Args:
        gallery: gallery to search.
        engine: see :data:`Engine`.
        folder: folder of the gallery; the index is loaded from there, or built and stored there.
        templates: what a probe is compared with: ``"best"``, every picture, of which the nearest counts; ``"mean"`` and
            ``"weighted"``, one template for each person, see :mod:`vplface.evaluation.identification.templates`.

    Attributes:
        engine: the engine in use, ``"exact"`` or ``"faiss"``.
        not_kept: reason why a new index could not be stored; None otherwise.

    Raises:
        MissingExtraError: faiss is needed, and the extra ``faiss`` is not installed.
        DataError: the gallery is empty.
    """

    def __init__(
        self,
        gallery: Gallery,
        engine: Engine = "auto",
        folder: Path | None = None,
        templates: TemplateKind = "best",
    ) -> None:
        if engine not in get_args(Engine):
            raise ValueError(f"engine must be one of {', '.join(get_args(Engine))}, got {engine!r}")
        if not len(gallery):
            raise DataError(f"{gallery.where}: nobody is enrolled")
        self._gallery = gallery
        self._templates = templates
        if templates == "best":
            self._rows, self._person = gallery.embeddings, gallery.person
        else:
            require_unit(gallery, np.arange(len(gallery)))
            self._rows = templates_of(gallery, templates)
            self._person = np.arange(len(gallery.names), dtype=np.int32)
            self._by_person = np.argsort(gallery.person, kind="stable")
            self._sorted_person = gallery.person[self._by_person]
        small = len(self._rows) < EXACT_BELOW
        self.engine: Literal["exact", "faiss"] = (
            "exact" if engine == "exact" or (engine == "auto" and small) else "faiss"
        )
        self.not_kept: str | None = None
        if self.engine == "faiss":
            self._index = self._load_or_build_index(folder)
        else:
            self._require_unit(np.arange(len(self._rows)))
            self._order = np.argsort(self._person, kind="stable")
            self._starts = np.searchsorted(self._person[self._order], np.arange(len(gallery.names)))

    def __call__(self, probes: Float32[np.ndarray, "n dim"], k: int = 1) -> list[list[Match]]:
        """The ``k`` most similar people for each probe (or all, if there are fewer), the most similar first.

        A person's similarity is the highest cosine with a picture of that person. Ties are ordered by enrolment. With
        ``"faiss"`` a person can be missed; the returned similarities are exact.

        Raises:
            ValueError: probes of another dimension than the gallery's embeddings, or k < 1.
        """
        if probes.ndim != 2 or probes.shape[1] != self._gallery.fingerprint.embedding_dim or k < 1:
            raise ValueError(
                f"probes must be [n, {self._gallery.fingerprint.embedding_dim}] and k positive, got {probes.shape}, {k}"
            )
        found: list[list[Match]] = []
        for start in range(0, len(probes), _PROBE_BATCH):
            some = np.ascontiguousarray(probes[start : start + _PROBE_BATCH], np.float32)
            found += self._search_exact(some, k) if self.engine == "exact" else self._search_codes(some, k)
        return found

    def _search_exact(self, probes: Float32[np.ndarray, "n dim"], k: int) -> list[list[Match]]:
        cosines = (probes @ self._rows.T)[:, self._order]
        return [
            self._most_similar(probe, row, self._order, self._starts, k)
            for probe, row in zip(probes, cosines, strict=True)
        ]

    def _search_codes(self, probes: Float32[np.ndarray, "n dim"], k: int) -> list[list[Match]]:
        num_candidates = max(_MIN_CANDIDATES, 64 * k)
        all_rows = np.arange(len(self._rows))
        scanned = num_candidates < len(all_rows)
        candidate_rows = self._index.search(probes, num_candidates)[1] if scanned else np.full((len(probes), 1), -1)
        matches = []
        for probe, candidates in zip(probes, candidate_rows, strict=True):
            # faiss pads with -1 if the codes cannot distinguish the pictures: then all of them are candidates.
            rows = all_rows if (candidates < 0).any() else np.sort(candidates)
            self._require_unit(rows)
            cosines = self._rows[rows] @ probe
            person = self._person[rows]
            by_person = np.argsort(person, kind="stable")
            starts = np.flatnonzero(np.diff(person[by_person], prepend=-1))
            matches.append(self._most_similar(probe, cosines[by_person], rows[by_person], starts, k))
        return matches

    def _most_similar(
        self,
        probe: Float32[np.ndarray, " dim"],
        cosines: Float32[np.ndarray, " n"],
        rows: Int64[np.ndarray, " n"],
        starts: Int64[np.ndarray, " people"],
        k: int,
    ) -> list[Match]:
        """The k people of the highest cosine.

        Args:
            probe: the probe.
            cosines: of the probe with rows that are sorted by person.
            rows: their numbers.
            starts: the first row of each person.
            k: number of people.
        """
        matches = []
        best = np.maximum.reduceat(cosines, starts)
        for person in highest(best, k).tolist():
            pictures = slice(starts[person], starts[person + 1] if person + 1 < len(starts) else None)
            row = int(rows[pictures][cosines[pictures].argmax()])
            matches.append(self._match(probe, row, float(best[person])))
        return matches

    def _match(self, probe: Float32[np.ndarray, " dim"], row: int, similarity: float) -> Match:
        gallery, person = self._gallery, int(self._person[row])
        if self._templates != "best":
            pictures = self._pictures_of(person)
            row = int(pictures[(gallery.embeddings[pictures] @ probe).argmax()])
        return Match(gallery.names[person], similarity, gallery.files[row])

    def _pictures_of(self, person: int) -> Int64[np.ndarray, " pictures"]:
        first, last = np.searchsorted(self._sorted_person, [person, person + 1])
        return self._by_person[first:last]

    def _require_unit(self, rows: Int64[np.ndarray, " n"]) -> None:
        if self._templates == "best":
            require_unit(self._gallery, rows)

    def _load_or_build_index(self, folder: Path | None) -> Any:
        """Load the index of this revision, or build and store it."""
        try:
            faiss = import_extra("faiss", "faiss")
        except MissingExtraError as error:
            raise MissingExtraError(f"{error}; or search exactly, which is slower") from error
        data = None if folder is None else read_index(folder, self._gallery, self._templates)
        if data is not None:
            try:
                index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
                if (index.ntotal, index.d) == self._rows.shape:
                    return index
            except (RuntimeError, MemoryError):
                pass  # damaged; replaced below
        index = _build_index(faiss, self._rows, self._require_unit)
        if folder is not None:
            try:
                write_index(folder, self._gallery, self._templates, faiss.serialize_index(index).tobytes())
            except (DataError, RuntimeError) as error:
                self.not_kept = str(error)
        return index


def _build_index(
    faiss: Any, embeddings: Float32[np.ndarray, "n dim"], require_unit: Callable[[Int64[np.ndarray, " n"]], None]
) -> Any:
    rows, dim = embeddings.shape
    index = faiss.IndexPQFastScan(dim, dim // 2 if dim % 2 == 0 else dim, 4, faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.min_points_per_centroid = 1  # no warnings about small galleries
    sample = np.linspace(0, rows - 1, min(max(rows, 16), _MAX_TRAINING_ROWS)).astype(np.int64)
    require_unit(sample)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # threads would wait for each other thousands of times, for minutes on a busy machine
    try:
        index.train(np.ascontiguousarray(embeddings[sample]))
    finally:
        faiss.omp_set_num_threads(threads)
    with progress("indexing", rows) as advance:
        for start in range(0, rows, _BLOCK_ROWS):
            some = np.arange(start, min(start + _BLOCK_ROWS, rows))
            require_unit(some)
            index.add(np.ascontiguousarray(embeddings[some]))
            advance(len(some))
    return index


def require_unit(gallery: Gallery, rows: Int64[np.ndarray, " n"]) -> None:
    """Raise DataError unless these embeddings are of unit norm, as in an undamaged file."""
    for start in range(0, len(rows), _BLOCK_ROWS):
        some = rows[start : start + _BLOCK_ROWS]
        norms = np.linalg.norm(gallery.embeddings[some], axis=1)
        wrong = some[~(np.abs(norms - 1) < 1e-3)]
        if len(wrong):
            raise DataError(
                f"{gallery.where}: damaged: embedding {wrong[0]}, of {gallery.names[gallery.person[wrong[0]]]!r}, is "
                "not of unit norm; remove that person and enrol the pictures again"
            )
