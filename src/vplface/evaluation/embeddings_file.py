"""Files of existing embeddings, of any model.

| file | holds |
|---|---|
| .npy | an array [n, dim], a row for each picture of the set, in the set's order |
| .npy | one array with the fields "name" and "embedding", as ``vplface embed`` writes it |
| .npz | "embeddings" [n, dim], and "names" [n] as ``vplface embed`` writes it; without names in the set's order |

A name is that of a picture of the set, or a path that ends in one: ``vplface embed`` writes paths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from vplface.arrays import ARRAYS_LIMIT, array_names, parse_array, parse_arrays
from vplface.data.pictures import PictureSet
from vplface.errors import DataError
from vplface.reading import read_bytes

TYPES = (".npy", ".npz")


@dataclass(frozen=True, eq=False)
class EmbeddingsFile:
    """A file of embeddings, as it was read.

    Attributes:
        path: see the module's table.
        embeddings: a row for each picture.
        names: of the pictures; None if they are in the set's order.
        files: SHA-256 of the bytes that were read, by path.
    """

    path: Path
    embeddings: Float32[np.ndarray, "n dim"]
    names: Sequence[str] | None
    files: Mapping[str, str]

    @classmethod
    def read(cls, path: Path | str) -> EmbeddingsFile:
        """Read a file; raises DataError if it is missing, damaged, too large or of another layout."""
        path = Path(path)
        data = read_bytes(path, ARRAYS_LIMIT)
        return cls(path, *_parsed(path, data), {str(path): hashlib.sha256(data).hexdigest()})

    def of(self, pictures: PictureSet, used: Int64[np.ndarray, " m"] | None = None) -> Float32[np.ndarray, "n dim"]:
        """The embedding of each picture of a set, in the set's order.

        Args:
            pictures: the set.
            used: the pictures that must have one; None for all. Others without one are NaN.

        Raises:
            DataError: the number of rows is not that of the pictures, or a picture has no embedding or two.
        """
        embeddings, names = self.embeddings, self.names
        if names is None:
            if len(embeddings) != len(pictures):
                raise DataError(
                    f"{self.path}: holds {len(embeddings)} embeddings, the set {len(pictures)} pictures; without names "
                    "there must be a row for each picture, in the set's order. Write names with them: vplface embed "
                    "does"
                )
            return embeddings
        row_of = _rows(self.path, names, pictures)
        wanted = np.arange(len(pictures)) if used is None else used
        missing = [index for index in wanted.tolist() if index not in row_of]
        if missing:
            raise DataError(
                f"{self.path}: {len(missing)} of the {len(wanted)} pictures to evaluate have no embedding in the "
                f"file, for example {pictures.name(missing[0])!r}; its names look like {names[0]!r}"
            )
        found = np.full((len(pictures), embeddings.shape[1]), np.nan, np.float32)
        found[list(row_of)] = embeddings[list(row_of.values())]
        return found


def read_embeddings(
    path: Path | str, pictures: PictureSet, used: Int64[np.ndarray, " m"] | None = None
) -> Float32[np.ndarray, "n dim"]:
    """The embedding of each picture of a set; see :meth:`EmbeddingsFile.read` and :meth:`EmbeddingsFile.of`."""
    return EmbeddingsFile.read(path).of(pictures, used)


def _rows(path: Path, names: Sequence[str], pictures: PictureSet) -> dict[int, int]:
    """The row of each picture that is named, under its name or under the longest end of a path that is one."""
    index_of: dict[str, int] = {}
    for index in range(len(pictures)):
        if index_of.setdefault(pictures.name(index), index) != index:
            raise DataError(f"{path}: the set has two pictures {pictures.name(index)!r}, so names are ambiguous")
    rows: dict[int, int] = {}
    for row, name in enumerate(names):
        end = name.replace("\\", "/")
        while end not in index_of and "/" in end:
            end = end.partition("/")[2]
        if end not in index_of:
            continue
        first = rows.setdefault(index_of[end], row)
        if first != row:
            raise DataError(f"{path}: {names[first]!r} and {name!r} both name the picture {end!r}")
    return rows


def _parsed(path: Path, data: bytes) -> tuple[Float32[np.ndarray, "n dim"], list[str] | None]:
    arrays: dict[str, np.ndarray[Any, Any]]
    if path.suffix.lower() == ".npz":
        names_there = array_names(data, path)
        arrays = parse_arrays(data, path, [name for name in ("embeddings", "names") if name in names_there])
        held = ", ".join(names_there) or "nothing"
    else:
        loaded = parse_array(data, path)
        fields = loaded.dtype.names
        arrays = {"embeddings": loaded} if fields is None else {f"{field}s": loaded[field] for field in fields}
        held = ", ".join(fields or ())
    if "embeddings" not in arrays:
        raise DataError(f"{path}: lacks the array 'embeddings'; it holds {held}")
    embeddings, names = arrays["embeddings"], arrays.get("names")
    if embeddings.ndim != 2 or not embeddings.size or not np.issubdtype(embeddings.dtype, np.floating):
        raise DataError(
            f"{path}: embeddings must be an array [n, dim] of floating-point numbers, "
            f"got {embeddings.dtype} {list(embeddings.shape)}"
        )
    if names is not None and (names.shape != (len(embeddings),) or names.dtype.kind != "U"):
        raise DataError(
            f"{path}: 'names' must be a text for each of the {len(embeddings)} embeddings, "
            f"got {names.dtype} {list(names.shape)}"
        )
    return embeddings.astype(np.float32, copy=False), None if names is None else names.tolist()
