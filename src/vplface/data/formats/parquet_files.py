"""Search for the Parquet files of a set, by their locations and names.

| files | layout |
|---|---|
| SPLIT-00000-of-00004.parquet, SPLIT.parquet | ``datasets`` writes them, in the folder or in its folder ``data`` |
| SPLIT/0000.parquet | the Hugging Face hub converts a set of one configuration |
| CONFIG/SPLIT/0000.parquet, CONFIG/SPLIT-00000-of-00004.parquet | a set of several configurations has them |
"""

from __future__ import annotations

import re
from pathlib import Path

from vplface.data.folder_scan import natural_key
from vplface.errors import DataError
from vplface.reading import is_folder, kind_of

MOST_FOLDERS = 256
"""Largest number of subfolders that are searched for configurations or splits."""

_SHARD = re.compile(r"(?P<split>.+)-(?P<number>[0-9]{5,9})-of-(?P<count>[0-9]{5,9})")
_NUMBERED = re.compile(r"[0-9]{4,9}")


def holds_parquet(folder: Path) -> bool:
    """Whether a folder is a set of Parquet files."""
    return any(any(_parquet_in(each)) for each in (folder, folder / "data")) or bool(_configurations(folder))


def find_files(path: Path) -> list[Path]:
    """The files of a set in natural order.

    Args:
        path: a file, or a folder.

    Raises:
        DataError: if the path does not exist, a file is missing from a numbered series, or there are several
            configurations.
    """
    kind = kind_of(path)
    if kind is None:
        raise DataError(f"{path}: does not exist")
    if kind != "folder":
        return [path]
    hidden = False
    for folder in (path, path / "data"):
        found = _parquet_in(folder)
        hidden |= bool(found)
        if files := [file for file in found if not file.name.startswith(".")]:
            return _complete(files)
    if hidden:
        raise DataError(f"{path}: incomplete; repeat the command that wrote it, which resumes")
    configurations = _configurations(path)
    if len(configurations) > 1:
        names = ", ".join(sorted((repr(folder.name) for folder in configurations), key=natural_key)[:20])
        raise DataError(f"{path}: holds {len(configurations)} configurations: {names}; give one, {path}/NAME")
    for files in configurations.values():
        return _complete(files)
    raise DataError(f"{path}: holds no .parquet files, nor does its folder 'data'")


def split_of(file: Path) -> str:
    """The split that a file belongs to, by its name, or by that of its folder if it is only numbered."""
    shard = _SHARD.fullmatch(file.stem)
    return shard["split"] if shard else file.parent.name if _NUMBERED.fullmatch(file.stem) else file.stem


def _configurations(folder: Path) -> dict[Path, list[Path]]:
    """The files of each configuration: of the folder itself, if its folders are splits, or of each folder in it."""
    splits = _folders_in(folder)
    if own := [file for split in splits for file in _numbered_in(split)]:
        return {folder: own}
    found = {}
    for each in splits:
        files = [file for file in _parquet_in(each) if _SHARD.fullmatch(file.stem)]
        if files := files or [file for split in _folders_in(each) for file in _numbered_in(split)]:
            found[each] = files
    return found


def _folders_in(folder: Path) -> list[Path]:
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.suffix == ""]
    except OSError:
        return []
    if len(entries) > MOST_FOLDERS:
        return []
    return sorted((entry for entry in entries if is_folder(entry)), key=lambda entry: natural_key(entry.name))


def _parquet_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"), key=lambda file: natural_key(file.name))


def _numbered_in(folder: Path) -> list[Path]:
    return [file for file in _parquet_in(folder) if _NUMBERED.fullmatch(file.stem)]


def _complete(files: list[Path]) -> list[Path]:
    """The files; raises DataError if one is missing from a numbered series."""
    series: dict[tuple[str, int], set[int]] = {}
    numbered: dict[Path, set[int]] = {}
    for file in files:
        if shard := _SHARD.fullmatch(file.stem):
            series.setdefault((shard["split"], int(shard["count"])), set()).add(int(shard["number"]))
        elif _NUMBERED.fullmatch(file.stem):
            numbered.setdefault(file.parent, set()).add(int(file.stem))
    for (split, count), numbers in series.items():
        if len(numbers) < count:
            missing = next(number for number in range(count) if number not in numbers)
            raise DataError(
                f"{files[0].parent}: {count - len(numbers)} of the {count} files of {split!r} are missing, "
                f"such as {split}-{missing:05d}-of-{count:05d}.parquet; download them, or finish writing the set"
            )
    for folder, numbers in numbered.items():
        missing = next(number for number in range(len(numbers) + 1) if number not in numbers)
        if missing < len(numbers):
            raise DataError(f"{folder}: {missing:04d}.parquet is missing; download it")
    return files
