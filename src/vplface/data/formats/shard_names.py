"""Expansion of a path, a folder or a pattern to tar files."""

from __future__ import annotations

import glob
import itertools
import math
import re
from pathlib import Path

from vplface.errors import DataError, import_extra
from vplface.reading import kind_of

MOST_SHARDS = 100_000
"""Largest number of shards of a pattern."""

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?\d+)?")
_INNERMOST = re.compile(r"\{([^{}]*)\}")
_COUNTED = re.compile(r"<(\d+)>")


def find_shards(path: Path) -> list[Path]:
    """Shards of a path, in order.

    Raises:
        DataError: there are none or too many, one is missing, or the pattern is invalid.
        MissingExtraError: a brace pattern, but the package that expands it is not installed.
    """
    pattern = str(path)
    kind = kind_of(path)
    if kind == "folder":
        shards = sorted(entry for entry in path.glob("*.tar") if not entry.name.startswith("."))
        if not shards and any(path.glob("*.tar.*")):
            raise DataError(f"{path}: the shards are compressed, which allows no random access; unpack them (gunzip)")
    elif kind is not None:
        shards = [path]
    elif "{" in pattern:
        expand = import_extra("braceexpand", "webdataset")
        try:
            if _count_of(pattern) > MOST_SHARDS:
                raise DataError(
                    f"{path}: expands to more than {MOST_SHARDS:,} shards, the limit; give a narrower pattern"
                )
            shards = [Path(each) for each in itertools.islice(expand.braceexpand(pattern), MOST_SHARDS + 1)]
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not a valid brace pattern: {error}") from error
    else:
        shards = sorted(map(Path, glob.glob(pattern)))  # noqa: PTH207 - the pattern may be absolute
    if not shards:
        raise DataError(f"{path}: no tar files found")
    if len(shards) > MOST_SHARDS:
        raise DataError(f"{path}: expands to more than {MOST_SHARDS:,} shards, the limit; give a narrower pattern")
    missing = [shard for shard in shards if kind_of(shard) is None]
    if missing:
        more = f" and {len(missing) - 1} more of {len(shards)}" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]}{more}: no such file")
    return shards


def _count_of(pattern: str) -> int:
    """Number of names of a brace pattern, without expanding it; the innermost braces are counted first."""
    counts: list[int] = []

    def count_names(found: re.Match[str]) -> str:
        inside = found[1]
        if letters := _LETTERS.fullmatch(inside):
            counts.append(abs(ord(letters[1]) - ord(letters[2])) + 1)
        elif numbers := _RANGE.fullmatch(inside):
            if max(len(digits or "") for digits in numbers.groups()) > 18:
                counts.append(MOST_SHARDS + 1)
            else:
                first, last, step = (int(digits or 1) for digits in numbers.groups())
                counts.append(abs(last - first) // max(1, abs(step)) + 1)
        else:
            parts = [math.prod(counts[int(at)] for at in _COUNTED.findall(part)) for part in inside.split(",")]
            counts.append(sum(parts))
        return f"<{len(counts) - 1}>"

    left = re.sub("[<>]", "", pattern)
    for _ in range(len(pattern)):
        left, found = _INNERMOST.subn(count_names, left)
        if not found or max(counts) > MOST_SHARDS:
            break
    return max([math.prod(counts[int(at)] for at in _COUNTED.findall(left)), *counts])
