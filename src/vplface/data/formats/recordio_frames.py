"""The bytes of a RecordIO record.

A record is framed as ``uint32 magic, uint32 kind << 29 | length, payload, zeros up to a multiple of 4``. A payload that
holds the magic at a multiple of 4 is cut there into parts of kind 1, 2, ..., 2, 3, between which it belongs; whole ones
are of kind 0. The payload of a picture is ``uint32 flag, float32 label, uint64 id, uint64 id2``, then as many float32
labels as the flag says, which count instead of the first if there are any, then the picture's file. Everything is
little-endian.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence

MAGIC = 0xCED7230A
LABELS = 2**24
"""Labels and keys are kept as float32, in which whole numbers are exact below this."""

LONGEST = 2**29 - 1
"""Bytes of the longest part."""

FRAME = struct.Struct("<II")
HEADER = struct.Struct("<IfQQ")

_MAGIC = struct.pack("<I", MAGIC)


class BrokenRecordError(ValueError):
    """What is wrong with a record."""


def payload_at(data: mmap.mmap, offset: int) -> bytes:
    """The payload of the record at an offset, its parts joined; raises BrokenRecordError."""
    start, size = offset + FRAME.size, len(data)
    if start <= size:
        magic, length = FRAME.unpack_from(data, offset)
        if magic == MAGIC and length <= LONGEST and start + length + 3 <= size:  # of kind 0, as nearly all are
            return data[start : start + length]
    parts, _ = parts_at(data, offset)
    if len(parts) == 1:
        return data[parts[0][0] : parts[0][1]]
    return _MAGIC.join(data[start:end] for start, end in parts)


def parts_at(data: mmap.mmap, offset: int) -> tuple[list[tuple[int, int]], int]:
    """Where the parts of a record's payload are, and where the record ends; raises BrokenRecordError."""
    parts: list[tuple[int, int]] = []
    while True:
        if offset + FRAME.size > len(data):
            raise BrokenRecordError("is cut short by the end of the file")
        magic, word = FRAME.unpack_from(data, offset)
        kind, length = word >> 29, word & LONGEST
        start = offset + FRAME.size
        end = start + length
        if magic != MAGIC:
            raise BrokenRecordError(
                f"does not begin with the magic number (at {offset})" if parts else "no record begins here"
            )
        if kind not in ((2, 3) if parts else (0, 1)):
            raise BrokenRecordError(f"is of kind {kind}, which cannot stand here (at {offset})")
        offset = (end + 3) & ~3
        if offset > len(data):
            raise BrokenRecordError(f"is said to have {length} bytes, more than are left in the file")
        parts.append((start, end))
        if kind in (0, 3):
            return parts, offset


def unpack(payload: bytes) -> tuple[tuple[float, ...], bytes]:
    """The labels and the picture in a payload; raises BrokenRecordError."""
    if len(payload) < HEADER.size:
        raise BrokenRecordError("holds no header of a picture")
    flag, label, _, _ = HEADER.unpack_from(payload)
    if flag == 0:
        return (label,), payload[HEADER.size :]
    if HEADER.size + 4 * flag > len(payload):
        raise BrokenRecordError(f"is said to have {flag} labels, more than there is room for")
    return struct.unpack_from(f"<{flag}f", payload, HEADER.size), payload[HEADER.size + 4 * flag :]


def is_label(value: float) -> bool:
    """Whether it is a whole number that float32 holds exactly."""
    return 0 <= value < LABELS and value.is_integer()


def pack(key: int, labels: Sequence[float], picture: bytes) -> bytes:
    """The payload of a picture, or of a record with several labels and no picture."""
    if len(labels) == 1:
        return HEADER.pack(0, labels[0], key, 0) + picture
    return HEADER.pack(len(labels), 0.0, key, 0) + struct.pack(f"<{len(labels)}f", *labels) + picture


def frame(payload: bytes) -> bytes:
    """A payload as a record, or as several if it holds the magic number at a multiple of 4."""
    cuts = []
    found = payload.find(_MAGIC)
    while found >= 0:
        if found % 4 == 0:
            cuts.append(found)
        found = payload.find(_MAGIC, found + (4 if found % 4 == 0 else 1))
    starts, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(payload)]
    last = len(cuts)
    framed = bytearray()
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        kind = 0 if last == 0 else 1 if number == 0 else 3 if number == last else 2
        framed += FRAME.pack(MAGIC, kind << 29 | end - start) + payload[start:end]
    return bytes(framed) + bytes(-len(framed) % 4)
