"""Rows at unit norm, and the check that they are not zero."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32

from vplface.errors import DataError


def unit(rows: Float[np.ndarray, "n dim"], what: str, first: int = 0) -> Float32[np.ndarray, "n dim"]:
    """The rows at unit norm.

    Args:
        rows: embeddings of any norm.
        what: name of the rows, for the error.
        first: number of the first row, for the error.

    Raises:
        DataError: a row that is zero or not finite; it is named.
    """
    rows = np.asarray(rows, np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    require_direction(norms, lambda row: f"row {first + row} of the {what}")
    unit_rows: Float32[np.ndarray, "n dim"] = rows / norms[:, None].astype(np.float32)
    return unit_rows


def require_direction(norms: Float[np.ndarray, " n"], name: Callable[[int], str]) -> None:
    """Check that no embedding is zero or not finite, by their norms.

    Args:
        norms: of the embeddings.
        name: of the embedding at a position, for the error.

    Raises:
        DataError: one is; the first is named.
    """
    wrong = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {len(norms)} embeddings are zero or not finite, the first is that of "
            f"{name(int(wrong[0]))}; the model is damaged or its training diverged"
        )
