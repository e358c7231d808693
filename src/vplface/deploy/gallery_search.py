"""Who in a gallery resembles a face: all cosines, or those of the candidates that a scan of short codes finds.

Pictures of one person have cosines of .3 to .9, and the most similar stranger among a million may have .6. People lie
about evenly on the sphere, so that there are no cells of which an inverted list could skip most without missing some.
So nothing is skipped: every embedding has a code of two bits a number (product quantisation, two numbers to one of 16
codewords; Jégou, Douze, Schmid, PAMI 2011), all codes are scanned, with the table of codewords in registers (André,
Kermarrec, Le Scouarnec, VLDB 2015; in faiss), and the best few hundred are compared exactly, by the embeddings in the
gallery's file. What must lie in memory is the codes, a sixteenth of the embeddings; pages of that file need not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Int64

from vplface.deploy.gallery import Gallery, Match
from vplface.deploy.gallery_folder import GALLERY_LIMIT, index_path, writing_index
from vplface.errors import DataError, MissingExtraError, import_extra
from vplface.progress import progress
from vplface.reading import is_file, read_bytes

Engine = Literal["auto", "exact", "faiss"]
"""``"exact"``: every cosine. ``"faiss"``: codes first. ``"auto"``: exact below :data:`EXACT_BELOW` pictures."""

EXACT_BELOW = 100_000

_PROBES = 64
_CANDIDATES = 256
_CODED_AT_ONCE = 16_384
_TRAINED_ON = 65_536


class Search:
    """Probes → the people who resemble them most.

    Args:
        gallery: where to look.
        engine: see :data:`Engine`.
        folder: the gallery's; the index is read from there, or made and kept there.

    Attributes:
        engine: which one it is, ``"exact"`` or ``"faiss"``.
        not_kept: why the index that was made could not be kept; None if it was, or none was made.

    Raises:
        MissingExtraError: faiss is needed, and the extra ``faiss`` is not installed.
        DataError: nobody is enrolled.
    """

    def __init__(self, gallery: Gallery, engine: Engine = "auto", folder: Path | None = None) -> None:
        if engine not in get_args(Engine):
            raise ValueError(f"engine must be one of {', '.join(get_args(Engine))}, got {engine!r}")
        if not len(gallery):
            raise DataError(f"{gallery.where}: nobody is enrolled")
        small = len(gallery) < EXACT_BELOW
        self.engine: Literal["exact", "faiss"] = (
            "exact" if engine == "exact" or (engine == "auto" and small) else "faiss"
        )
        self.not_kept: str | None = None
        self._gallery = gallery
        if self.engine == "faiss":
            self._index = self._opened(folder)
        else:
            _require_unit(gallery, np.arange(len(gallery)))
            self._order = np.argsort(gallery.person, kind="stable")
            self._starts = np.searchsorted(gallery.person[self._order], np.arange(len(gallery.names)))

    def __call__(self, probes: Float32[np.ndarray, "n dim"], k: int = 1) -> list[list[Match]]:
        """For each probe the ``k`` people (or all, if there are fewer) of the highest similarity, the highest first.

        A person's similarity is the highest cosine with a picture of that person. Of equals the one who was enrolled
        first comes first. With ``"faiss"`` a person can be missed; the similarities that are given are exact.

        Raises:
            ValueError: probes of another size than the gallery's embeddings, or k < 1.
        """
        if probes.ndim != 2 or probes.shape[1] != self._gallery.maker.embedding_dim or k < 1:
            raise ValueError(
                f"probes must be [n, {self._gallery.maker.embedding_dim}] and k positive, got {probes.shape}, {k}"
            )
        found: list[list[Match]] = []
        for start in range(0, len(probes), _PROBES):
            some = np.ascontiguousarray(probes[start : start + _PROBES], np.float32)
            found += self._exact(some, k) if self.engine == "exact" else self._by_codes(some, k)
        return found

    def _exact(self, probes: Float32[np.ndarray, "n dim"], k: int) -> list[list[Match]]:
        cosines = (probes @ self._gallery.embeddings.T)[:, self._order]
        of_people = np.maximum.reduceat(cosines, self._starts, axis=1)
        matches: list[list[Match]] = []
        for row, best in zip(cosines, of_people, strict=True):
            matches.append([])
            for person in _highest(best, k).tolist():
                last = self._starts[person + 1] if person + 1 < len(self._starts) else len(row)
                picture = self._order[self._starts[person] + row[self._starts[person] : last].argmax()]
                matches[-1].append(self._match(int(picture), float(best[person])))
        return matches

    def _by_codes(self, probes: Float32[np.ndarray, "n dim"], k: int) -> list[list[Match]]:
        most = max(_CANDIDATES, 64 * k)
        all_rows = np.arange(len(self._gallery))
        scanned = most < len(all_rows)
        found_rows = self._index.search(probes, most)[1] if scanned else np.full((len(probes), 1), -1)
        matches = []
        for probe, found in zip(probes, found_rows, strict=True):
            # faiss fills up with -1 where no code tells two pictures apart: then all of them are candidates.
            rows = all_rows if (found < 0).any() else np.sort(found)
            _require_unit(self._gallery, rows)
            cosines = self._gallery.embeddings[rows] @ probe
            best: dict[int, Match] = {}
            least = -np.inf
            for place in np.argsort(-cosines, kind="stable").tolist():
                if cosines[place] < least:
                    break
                person = int(self._gallery.person[rows[place]])
                if person not in best:
                    best[person] = self._match(int(rows[place]), float(cosines[place]))
                    least = cosines[place] if len(best) == k else least
            ranked = sorted(best.items(), key=lambda entry: (-entry[1].similarity, entry[0]))
            matches.append([match for _, match in ranked[:k]])
        return matches

    def _match(self, row: int, similarity: float) -> Match:
        gallery = self._gallery
        return Match(gallery.names[gallery.person[row]], similarity, gallery.files[row])

    def _opened(self, folder: Path | None) -> Any:
        """The index of this revision: the stored one, or a new one, which is stored."""
        try:
            faiss = import_extra("faiss", "faiss")
        except MissingExtraError as error:
            raise MissingExtraError(f"{error}; or search exactly, which is slower") from error
        if folder is not None and is_file(index_path(folder, self._gallery)):
            try:
                data = read_bytes(index_path(folder, self._gallery), GALLERY_LIMIT)
                index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
                if (index.ntotal, index.d) == self._gallery.embeddings.shape:
                    return index
            except (DataError, RuntimeError, MemoryError):
                pass  # damaged; a new one takes its place
        index = _coded(faiss, self._gallery)
        if folder is not None:
            try:
                with writing_index(folder, self._gallery) as path:
                    if path is not None:
                        faiss.write_index(index, str(path))
            except (DataError, RuntimeError) as error:
                self.not_kept = str(error)
        return index


def _coded(faiss: Any, gallery: Gallery) -> Any:
    rows, dim = gallery.embeddings.shape
    index = faiss.IndexPQFastScan(dim, dim // 2 if dim % 2 == 0 else dim, 4, faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.min_points_per_centroid = 1  # no warnings about galleries that are small
    sample = np.linspace(0, rows - 1, min(max(rows, 16), _TRAINED_ON)).astype(np.int64)
    _require_unit(gallery, sample)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # threads would wait for each other thousands of times, for minutes on a busy machine
    try:
        index.train(np.ascontiguousarray(gallery.embeddings[sample]))
    finally:
        faiss.omp_set_num_threads(threads)
    with progress("indexing", rows) as advance:
        for start in range(0, rows, _CODED_AT_ONCE):
            some = np.arange(start, min(start + _CODED_AT_ONCE, rows))
            _require_unit(gallery, some)
            index.add(np.ascontiguousarray(gallery.embeddings[some]))
            advance(len(some))
    return index


def _highest(values: Float32[np.ndarray, " n"], k: int) -> Int64[np.ndarray, " k"]:
    """Positions of the k highest, the highest first; of equals the lower position."""
    k = min(k, len(values))
    chosen = np.flatnonzero(values >= np.partition(values, len(values) - k)[len(values) - k])
    return chosen[np.argsort(-values[chosen], kind="stable")[:k]]


def _require_unit(gallery: Gallery, rows: Int64[np.ndarray, " n"]) -> None:
    """Raise DataError unless these embeddings are of unit norm, which a damaged file's are not."""
    for start in range(0, len(rows), _CODED_AT_ONCE):
        some = rows[start : start + _CODED_AT_ONCE]
        norms = np.linalg.norm(gallery.embeddings[some], axis=1)
        wrong = some[~(np.abs(norms - 1) < 1e-3)]
        if len(wrong):
            raise DataError(
                f"{gallery.where}: damaged: embedding {wrong[0]}, of {gallery.names[gallery.person[wrong[0]]]!r}, is "
                "not of unit norm; remove that person and enrol the pictures anew"
            )
