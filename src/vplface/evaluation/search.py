"""Exact search for the most similar rows of a gallery: all cosines in blocks, keeping the highest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float32, Int32

from vplface.errors import import_extra
from vplface.evaluation.topk import keep_highest_of_rows
from vplface.evaluation.unit import unit
from vplface.progress import progress

Engine = Literal["exact", "faiss"]
"""``"exact"``: products in blocks, here. ``"faiss"``: an IndexFlatIP, which is exact too and copies the gallery."""

_PROBES, _ROWS = 2048, 1024
"""A block of similarities; it stays in the cache for the scan that follows its product."""


def search(
    probes: Float32[np.ndarray, "n dim"],
    galleries: Sequence[Float[np.ndarray, "_ dim"]],
    k: int,
    engine: Engine = "exact",
) -> tuple[Float32[np.ndarray, "n k"], Int32[np.ndarray, "n k"]]:
    """The k highest cosines of every probe, from highest to lowest, and their rows.

    Of equal cosines the one of the lower row comes first, and is kept where not all fit. Products are float32. Time is
    that of 2·n·m·dim operations; memory beside the galleries is 8·n·k bytes and about ten million.

    Args:
        probes: of unit norm.
        galleries: one or several, of any norm; rows are numbered from the first of the first to the last of the last.
        k: at most as many as there are rows.
        engine: see :data:`Engine`.

    Raises:
        DataError: a gallery row that is zero or not finite.
        MissingExtraError: ``"faiss"`` without the extra ``faiss``.
        ValueError: a k that is not positive or exceeds the rows.
    """
    total = sum(map(len, galleries))
    if not 0 < k <= total:
        raise ValueError(f"k must lie in 1..{total}, the number of rows, got {k}")
    if engine not in get_args(Engine):
        raise ValueError(f"engine must be one of {', '.join(get_args(Engine))}, got {engine!r}")
    if engine == "faiss":
        return _by_faiss(probes, galleries, k)
    score, index = np.full((len(probes), k), -np.inf, np.float32), np.full((len(probes), k), -1, np.int32)
    buffer = np.empty(min(len(probes), _PROBES) * _ROWS, np.float32)
    with progress("searching", total) as advance:
        for first, block in _blocks(galleries):
            for start in range(0, len(probes), _PROBES):
                some = slice(start, start + _PROBES)
                cosines = buffer[: len(probes[some]) * len(block)].reshape(-1, len(block))
                np.matmul(probes[some], block.T, out=cosines)
                keep_highest_of_rows(cosines, first, score[some], index[some])
            advance(len(block))
    order = np.lexsort((index, -score))
    return np.take_along_axis(score, order, 1), np.take_along_axis(index, order, 1)


def _by_faiss(
    probes: Float32[np.ndarray, "n dim"], galleries: Sequence[Float[np.ndarray, "_ dim"]], k: int
) -> tuple[Float32[np.ndarray, "n k"], Int32[np.ndarray, "n k"]]:
    faiss = import_extra("faiss", "faiss")
    index = faiss.IndexFlatIP(probes.shape[1])
    for _, block in _blocks(galleries):
        index.add(block)
    score, row = index.search(probes, k)
    return score, row.astype(np.int32)


def _blocks(galleries: Sequence[Float[np.ndarray, "_ dim"]]) -> Iterator[tuple[int, Float32[np.ndarray, "b dim"]]]:
    """Rows at unit norm, and the number of the first of them."""
    first = 0
    for gallery in galleries:
        for start in range(0, len(gallery), _ROWS):
            block = unit(gallery[start : start + _ROWS], "gallery", first)
            yield first, block
            first += len(block)
