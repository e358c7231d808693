"""Conversion of a set between formats, bit for bit and resumable.

A journal beside the target, ``.NAME.convert.jsonl``, exists until the target is complete. Its first line identifies the
source, so that a repeated command cannot continue from another one. The other lines list unreadable pictures, from
which follows which pictures the target already has.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from vplface.data.drop import indices_without
from vplface.data.format_table import Format
from vplface.data.formats import create_pictures, format_of, open_pictures
from vplface.data.pairs import Pairs, resolve, write_pairs
from vplface.data.pictures import StoredPictures, UnreadablePictureError
from vplface.errors import DataError
from vplface.files import claimed, replacing
from vplface.progress import progress
from vplface.reading import is_folder, kind_of, parse_json, read_text

if TYPE_CHECKING:
    from vplface.data.formats.verification_bin import VerificationBin

TOO_MANY = 1000
"""Number of consecutive unreadable pictures that indicates a disk error."""


@dataclass(frozen=True)
class Conversion:
    """Result of a conversion.

    Attributes:
        pictures: number of pictures in the target.
        identities: number of identities in the target.
        resumed: number of pictures written by an earlier, interrupted conversion.
        dropped: number of pictures left out by the list.
        unreadable: reason for each unreadable picture that was left out, by its path or record.
    """

    pictures: int
    identities: int
    resumed: int
    dropped: int
    unreadable: Mapping[str, str]


def convert(
    source: StoredPictures, where: Path, target: Path, form: Format | None = None, drop: Collection[str] = ()
) -> Conversion:
    """Write all pictures of a set at ``target`` without decoding; identities without pictures are left out.

    Pictures keep their order, except in RecordIO, where they are grouped by identity. All bytes that can be read are
    copied, even if they are not a picture.

    Args:
        source: the set.
        where: path of the set.
        target: path of the new set: missing, an empty folder, or an interrupted conversion.
        form: format of the new set, any but "bin"; None derives it from the path.
        drop: names of pictures to leave out.

    Raises:
        DataError: the target holds something else or cannot be written, the source has changed since the interrupted
            conversion, or a thousand consecutive pictures are unreadable. Complete pictures stay, and the same call
            resumes after them.
        UsageError: the path does not determine the format.
    """
    form = format_of(target) if form is None else form
    inside = target.resolve()
    if inside == where.resolve() or where.resolve() in inside.parents:
        raise DataError(f"{target}: is inside the source {where}; choose another place")
    order = indices_without(source, drop, where)
    if form == "recordio":
        order = order[np.argsort(source.labels[order], kind="stable")]
    present, labels = np.unique(source.labels[order], return_inverse=True)
    identities = [source.identities[label] for label in present]
    with claimed(target):
        return _convert(source, where, target, form, order, identities, labels)


def _convert(
    source: StoredPictures,
    where: Path,
    target: Path,
    form: Format,
    order: Int64[np.ndarray, " m"],
    identities: list[str],
    labels: Int64[np.ndarray, " m"],
) -> Conversion:
    journal = _Journal(target, _header(source, where, form, order))
    try:
        writer = create_pictures(target, form, identities)
    except BaseException:
        journal.give_up()
        raise
    with writer, journal:
        positions = np.setdiff1d(np.arange(len(order)), journal.unreadable)
        resumed = writer.written
        if resumed > len(positions):
            raise DataError(f"{target}: holds {resumed} pictures, the source {len(positions)}; pictures were added")
        # Unreadable pictures are noted only when a readable one follows: otherwise the disk has failed.
        failed: list[tuple[int, UnreadablePictureError]] = []
        with progress(f"writing {target}", len(positions), resumed) as advance:
            for position in positions[resumed:].tolist():
                index = int(order[position])
                try:
                    encoded = source.encoded(index)
                except UnreadablePictureError as error:
                    failed.append((position, error))
                    if len(failed) == TOO_MANY:
                        raise DataError(
                            f"{TOO_MANY} pictures in a row cannot be read, the last: {error}. Fix the cause and "
                            "repeat the command, or exclude them by a list, which vplface data check writes"
                        ) from error
                else:
                    journal.note(failed)
                    failed.clear()
                    writer.add(encoded, source.name(index), int(labels[position]))
                advance(1)
        journal.note(failed)
    expected = len(order) - len(journal.unreadable)
    if writer.written != expected:
        raise DataError(f"{target}: holds {writer.written} pictures instead of {expected}; was it changed meanwhile?")
    journal.remove()
    return Conversion(expected, len(identities), resumed, len(source) - len(order), journal.reasons)


def convert_to_bin(source: StoredPictures, target: Path, pairs: Pairs) -> Conversion:
    """Write pairs of pictures of a set as a .bin file, atomically.

    Raises:
        DataError: the target exists or cannot be written, or as
            :func:`vplface.data.formats.verification_bin.write_verification_bin`.
        UnreadablePictureError: a picture of a pair cannot be read.
    """
    from vplface.data.formats.verification_bin import write_verification_bin

    with claimed(target):
        if kind_of(target) is not None:
            raise DataError(f"{target}: already exists; choose another path, or delete it first")
        write_verification_bin(target, source, pairs)
    left, right = resolve(pairs, source)
    used = np.unique([left, right])
    return Conversion(len(used), len(np.unique(source.labels[used])), 0, 0, {})


def write_pairs_of_bin(source: VerificationBin, target: Path, form: Format) -> Path:
    """Write the pairs of a converted .bin file, with the names of the new set; returns the path TARGET.pairs.txt.

    Raises:
        DataError: pictures of the pairs are missing in the new set, or the list cannot be written.
    """
    folder = f"{target.with_suffix('').name}/" if form == "list" else ""
    left, right = ([folder + name for name in names] for names in (source.pairs.left, source.pairs.right))
    pairs = replace(source.pairs, left=left, right=right)
    resolve(pairs, open_pictures(target))
    path = target.with_name(f"{target.name}.pairs.txt")
    write_pairs(path, pairs)
    return path


def _header(source: StoredPictures, where: Path, form: Format, order: Int64[np.ndarray, " m"]) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps(list(source.identities)).encode())
    digest.update(order.astype("<i8").tobytes())
    digest.update(source.labels.astype("<i8").tobytes())
    # Some of the names only: a RecordIO file without a list derives them from its records, and would be read twice.
    for index in order[np.unique(np.linspace(0, len(order) - 1, 1000).astype(int))].tolist():
        digest.update(source.name(index).encode(errors="surrogateescape") + b"\0")
    return {
        "schema": 1,
        "source": str(where.resolve()),
        "form": form,
        "pictures": len(order),
        "names and labels": digest.hexdigest(),
    }


class _Journal:
    """Journal of a conversion, see the module; kept if the conversion fails."""

    def __init__(self, target: Path, header: dict[str, Any]) -> None:
        self._path = self.place(target)
        self.unreadable: list[int] = []
        self.reasons: dict[str, str] = {}
        lines: list[str] = []
        if kind_of(self._path) is not None:
            try:
                lines = read_text(self._path).split("\n")
            except DataError as error:
                raise DataError(f"{error}; delete it and {target}") from error
        elif kind_of(target) not in (None, "folder") or (is_folder(target) and any(target.iterdir())):
            raise DataError(f"{target}: already exists; choose another path, or delete it first")
        whole = [line for line in map(_parsed, lines) if line is not None]
        if whole and whole[0] != header:
            changed = ", ".join(f"{key} {whole[0].get(key)!r}, now {header[key]!r}" for key in header
                                if whole[0].get(key) != header[key])  # fmt: skip
            raise DataError(
                f"{target}: was started from another source ({changed}); repeat the command that started it, or delete "
                f"{target} and {self._path} first"
            )
        self._new = not whole
        try:
            for entry in whole[1:]:
                self._remember(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self._path}: is damaged; delete it and {target}") from error
        with replacing(self._path) as temporary:  # without the torn line of a killed process
            temporary.write_text("".join(json.dumps(line) + "\n" for line in whole or [header]), encoding="utf-8")
        self._file = self._path.open("a", encoding="utf-8")

    @staticmethod
    def place(target: Path) -> Path:
        """Path of the journal of a target."""
        return target.with_name(f".{target.name}.convert.jsonl")

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def note(self, failed: list[tuple[int, UnreadablePictureError]]) -> None:
        """Record unreadable positions, before any later picture is written."""
        if not failed:
            return
        try:
            for position, error in failed:
                entry = {"position": position, "where": error.where, "reason": error.reason}
                self._remember(entry)
                self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise DataError(f"cannot write {self._path}: {error.strerror or error}") from error

    def give_up(self) -> None:
        """Delete the journal of a conversion that could not be started."""
        self._file.close()
        if self._new:
            self.remove()

    def remove(self) -> None:
        """Delete the journal of a complete target."""
        self._path.unlink()

    def _remember(self, entry: Mapping[str, Any]) -> None:
        self.unreadable.append(int(entry["position"]))
        self.reasons[str(entry["where"])] = str(entry["reason"])


def _parsed(line: str) -> dict[str, Any] | None:
    """JSON object on a line; None if the line is incomplete."""
    try:
        entry = parse_json(line, "the journal")
    except DataError:
        return None
    return entry if isinstance(entry, dict) else None
