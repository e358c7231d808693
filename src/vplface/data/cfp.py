"""Lists of pairs of CFP (Celebrities in Frontal-Profile)."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from vplface.data.list_lines import NUMBER, read_lines, read_rows
from vplface.data.pairs import Pairs
from vplface.errors import DataError
from vplface.reading import is_file


def read_cfp(root: Path | str, protocol: Literal["FF", "FP"]) -> Pairs:
    """Read the frontal-frontal (FF) or frontal-profile (FP) protocol of CFP.

    Pair_list_F.txt and Pair_list_P.txt number the pictures ("7 ../Data/Images/001/frontal/07.jpg", here called
    001/frontal/07.jpg). Split/FP/01/same.txt and diff.txt hold the pairs "i,j" of fold 1, of frontal picture i and, in
    FP, profile picture j.

    Args:
        root: folder of the data set, or its Protocol, Protocol/Split, Protocol/Split/FF or Protocol/Split/FP.
        protocol: FF or FP.

    Raises:
        DataError: a list is missing or malformed; the line is named.
    """
    folder = _cfp_folder(root)
    frontal = _read_picture_numbers(folder / "Pair_list_F.txt")
    other = frontal if protocol == "FF" else _read_picture_numbers(folder / "Pair_list_P.txt")
    left: list[str] = []
    right: list[str] = []
    same: list[bool] = []
    fold: list[int] = []
    for number, split in enumerate(_cfp_folds(folder / "Split" / protocol)):
        for name, is_same in (("same.txt", True), ("diff.txt", False)):
            for line, fields in read_rows(split / name):
                if len(fields) != 2:
                    raise DataError(f"{split / name}, line {line}: expected two numbers 'i,j', got {fields}")
                left.append(_picture_name(split / name, line, fields[0], frontal))
                right.append(_picture_name(split / name, line, fields[1], other))
                same.append(is_same)
                fold.append(number)
    if not same:
        raise DataError(f"{folder / 'Split' / protocol}: holds no pairs")
    return Pairs(left, right, np.array(same), np.array(fold, dtype=np.int64))


def cfp_files(path: Path | str) -> list[Path]:
    """Files of the protocol in a folder Split/FF or Split/FP; raises DataError for another folder."""
    folder, protocol = _cfp_folder(path), cfp_protocol(path)
    lists = [folder / f"Pair_list_{letter}.txt" for letter in sorted(set(protocol))]
    splits = _cfp_folds(folder / "Split" / protocol)
    return [*lists, *(split / name for split in splits for name in ("same.txt", "diff.txt"))]


def cfp_protocol(path: Path | str) -> Literal["FF", "FP"]:
    """Protocol of a folder Split/FF or Split/FP; raises DataError for another folder."""
    match Path(path).absolute().name.upper():
        case "FF" | "FP" as protocol:
            return protocol
    folder = _cfp_folder(path)
    raise DataError(f"{path}: holds two protocols; choose {folder / 'Split' / 'FF'} or {folder / 'Split' / 'FP'}")


def _cfp_folder(path: Path | str) -> Path:
    root = Path(path)
    parents = root.absolute().parents
    for folder in (root, root / "Protocol", *parents[:2]):
        if is_file(folder / "Pair_list_F.txt"):
            return folder
    raise DataError(
        f"{path}: cannot be read: it is a folder, but not CFP's Protocol/Split/FF or Protocol/Split/FP (no "
        "Pair_list_F.txt in it or its parents)"
    )


def _cfp_folds(folder: Path) -> list[Path]:
    splits = {int(split.name): split for split in folder.glob("*") if NUMBER.fullmatch(split.name) and split.is_dir()}
    missing = sorted(set(range(1, 11)) - splits.keys())
    if missing:
        raise DataError(f"{folder}: {len(missing)} of the folds 01 to 10 are missing, such as {missing[0]:02d}")
    return [splits[number] for number in sorted(splits)]


def _read_picture_numbers(path: Path) -> dict[int, str]:
    """Paths of CFP's pictures below Images, by number."""
    pictures: dict[int, str] = {}
    for line, text in read_lines(path):
        number, _, location = text.partition(" ")
        parts = PurePosixPath(location.strip().replace("\\", "/")).parts
        below = parts[parts.index("Images") + 1 :] if "Images" in parts else tuple(p for p in parts if p != "..")
        if not NUMBER.fullmatch(number) or not below:
            raise DataError(f"{path}, line {line}: expected a number and a path, got {text!r}")
        if int(number) in pictures:
            raise DataError(f"{path}, line {line}: duplicate picture number {number}: {pictures[int(number)]}")
        pictures[int(number)] = "/".join(below)
    return pictures


def _picture_name(path: Path, line: int, number: str, pictures: dict[int, str]) -> str:
    if not NUMBER.fullmatch(number) or int(number) not in pictures:
        raise DataError(f"{path}, line {line}: unknown picture number {number!r}; there are {len(pictures)} pictures")
    return pictures[int(number)]
