"""Suggestions for a mistyped name: the most similar known names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_CUTOFF = 0.5
"""Minimum similarity of a suggestion, from 0 to 1; see ``difflib.get_close_matches``."""


def similar_names(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """The known names most similar to a mistyped one, best first; case is ignored.

    Args:
        name: the mistyped name.
        known: the names to choose from.
        count: maximum number of names to return.
    """
    by_lower_case = {each.lower(): each for each in known}
    return [by_lower_case[match] for match in difflib.get_close_matches(name.lower(), by_lower_case, count, _CUTOFF)]


def did_you_mean(name: str, known: Iterable[str], count: int = 1) -> str:
    """The end of an error message: ``"; did you mean 'cosface'?"``, empty where no known name is similar."""
    names = similar_names(name, known, count)
    return f"; did you mean {' or '.join(map(repr, names))}?" if names else ""


def did_you_mean_or_known(name: str, known: Iterable[str]) -> str:
    """As :func:`did_you_mean`, but where no known name is similar all of them are listed."""
    known = list(known)
    return did_you_mean(name, known) or f"; known: {', '.join(known)}"
