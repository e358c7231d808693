"""Pairs of pictures for verification: writing them, and finding their pictures in a set."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from vplface.data.pictures import PictureSet
from vplface.data.spelling import composed
from vplface.errors import DataError
from vplface.files import PRIVATE, replacing

COLUMNS = ("left", "right", "same", "fold")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of pictures by name, whether each pair is genuine, and its fold."""

    left: list[str]
    right: list[str]
    same: Bool[np.ndarray, " p"]
    fold: Int64[np.ndarray, " p"]

    def __post_init__(self) -> None:
        lengths = [len(self.left), len(self.right), len(self.same), len(self.fold)]
        if len(set(lengths)) != 1:
            raise ValueError(f"left, right, same and fold must be of one length, got {lengths}")

    def __len__(self) -> int:
        return len(self.left)


def write_pairs(path: Path | str, pairs: Pairs) -> None:
    """Write pairs in the plain format, with a header line.

    Raises:
        DataError: a name cannot be represented (empty, with a tab or a line break, or with blanks around it), or the
            file cannot be written.
    """
    for name in (*pairs.left, *pairs.right):
        if not name or name != name.strip() or re.search(r"[\t\n\r\ud800-\udfff]", name):
            raise DataError(f"{path}: the name {name!r} cannot be written into a list of pairs")
    rows = zip(pairs.left, pairs.right, pairs.same.astype(int), pairs.fold, strict=True)
    lines = ["\t".join(COLUMNS), *(f"{left}\t{right}\t{same}\t{fold}" for left, right, same, fold in rows)]
    with replacing(Path(path), PRIVATE) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def resolve(pairs: Pairs, pictures: PictureSet) -> tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"]]:
    """Indices in a set of the left and the right pictures of all pairs.

    A pair may name a picture by its full name, by its name without the file type, or by the last part of it, as CALFW
    does. Accents match whether they are composed or not.

    Raises:
        DataError: names are missing from the set, or ambiguous in it.
    """
    indices_of: dict[str, list[int]] = {}
    wanted = set(pairs.left) | set(pairs.right)
    for normalise in (str, composed, _file_part):
        missing = {name for name in wanted - indices_of.keys() if normalise is not _file_part or "/" not in name}
        if missing:
            indices = _indices_by_name(pictures, set(map(normalise, missing)), normalise)
            indices_of |= {name: indices[normalise(name)] for name in missing if normalise(name) in indices}
    if missing := wanted - indices_of.keys():
        example = f"; its names look like {pictures.name(0)!r}" if len(pictures) else ", which is empty"
        raise DataError(
            f"{len(missing)} of the {len(wanted)} pictures of the pairs are not in the set: "
            f"{_first_names(sorted(missing))}{example}"
        )
    ambiguous = sorted(name for name, indices in indices_of.items() if len(indices) > 1)
    if ambiguous:
        raise DataError(f"{len(ambiguous)} names of the pairs match several pictures: {_first_names(ambiguous)}")
    return (
        np.array([indices_of[name][0] for name in pairs.left], dtype=np.int64),
        np.array([indices_of[name][0] for name in pairs.right], dtype=np.int64),
    )


def _indices_by_name(pictures: PictureSet, wanted: set[str], normalise: Callable[[str], str]) -> dict[str, list[int]]:
    """Indices of the pictures with each wanted name: of the full name if there are any, else without the file type."""
    exact: dict[str, list[int]] = {}
    by_stem: dict[str, list[int]] = {}
    for index in range(len(pictures)):
        name = normalise(pictures.name(index))
        if name in wanted:
            exact.setdefault(name, []).append(index)
        stem, _, kind = name.rpartition(".")
        if stem in wanted and "/" not in kind:
            by_stem.setdefault(stem, []).append(index)
    return by_stem | exact


def _file_part(name: str) -> str:
    """Last part of a path, for names without a folder."""
    return composed(name.rpartition("/")[2])


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
