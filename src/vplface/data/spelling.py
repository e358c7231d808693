"""Comparison of names regardless of Unicode composition: macOS decomposes "é" into a letter and an accent."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from vplface.reading import is_file


def composed(name: str) -> str:
    """The name in Unicode's composed form, NFC, in which equal names are equal."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def spelled_as_in(names: Iterable[str], wanted: Iterable[str]) -> set[str]:
    """The wanted names as spelled in ``names``; those not found are unchanged."""
    unknown = set(wanted)
    known = unknown.intersection(names)
    unknown -= known
    if not unknown:
        return known
    spellings: dict[str, set[str]] = {}
    for name in names:
        spellings.setdefault(composed(name), set()).add(name)
    return known.union(*(spellings.get(composed(name), {name}) for name in unknown))


def spelled_on_disk(folder: Path, path: str) -> Path:
    """The file that a list calls ``path`` below a folder, in the Unicode form that it has there; else as given."""
    given = folder / path
    if path.isascii() or is_file(given):
        return given
    others = (folder / unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
    return next((each for each in others if is_file(each)), given)
