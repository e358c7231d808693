"""Encoding and decoding of RecordIO records.

A record is framed as ``uint32 magic, uint32 kind << 29 | length, payload, zeros up to a multiple of 4``. A payload that
holds the magic at a multiple of 4 is split there into parts of kind 1, 2, ..., 2, 3, without the magic; others are of
kind 0. The payload of a picture is ``uint32 flag, float32 label, uint64 id, uint64 id2``, then as many float32
labels as the flag says, which replace the first label if there are any, then the picture's file. Everything is
little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from vplface.data.formats.random_access import Source
from vplface.reading import MEBIBYTE, PICTURE_LIMIT

MAGIC = 0xCED7230A
LABELS = 2**24
"""Labels and keys are kept as float32, in which whole numbers are exact below this."""

LONGEST = 2**29 - 1
"""Bytes of the longest part."""

MOST_PARTS = 2**16
MOST_LABELS = 2**16
"""Largest number of parts or labels in a picture's record."""

FRAME = struct.Struct("<II")
HEADER = struct.Struct("<IfQQ")

_MAGIC = struct.pack("<I", MAGIC)
_AHEAD = 2**13
"""Bytes that are read at first, enough for most pictures of 112 x 112."""


class BrokenRecordError(ValueError):
    """Raised for a damaged record, with the reason."""


def payload_at(file: Source, offset: int) -> bytes:
    """The payload of the record at an offset, its parts joined; raises BrokenRecordError, and OSError."""
    start = offset + FRAME.size
    ahead = file.read(offset, _AHEAD)
    if len(ahead) >= FRAME.size:
        magic, length = FRAME.unpack_from(ahead)
        if magic == MAGIC and length <= PICTURE_LIMIT and start + length + 3 <= file.size:  # of kind 0, as nearly all
            payload = ahead[FRAME.size : FRAME.size + length]
            return payload if len(payload) == length else payload + file.read(offset + _AHEAD, length - len(payload))
    parts, _ = parts_at(file, offset)
    if sum(end - start for start, end in parts) > PICTURE_LIMIT:
        raise BrokenRecordError(f"has more than {PICTURE_LIMIT // MEBIBYTE} MiB, the limit for a picture")
    return _MAGIC.join(file.read(start, end - start) for start, end in parts)


def parts_at(file: Source, offset: int) -> tuple[list[tuple[int, int]], int]:
    """Positions of the parts of a record's payload, and its end; raises BrokenRecordError, and OSError."""
    parts: list[tuple[int, int]] = []
    size = file.size
    while True:
        if offset + FRAME.size > size:
            raise BrokenRecordError("is cut short by the end of the file")
        magic, word = FRAME.unpack(file.read(offset, FRAME.size))
        kind, length = word >> 29, word & LONGEST
        start = offset + FRAME.size
        end = start + length
        if magic != MAGIC:
            raise BrokenRecordError(
                f"does not begin with the magic number (at {offset})" if parts else "no record begins here"
            )
        if kind not in ((2, 3) if parts else (0, 1)):
            raise BrokenRecordError(f"is of kind {kind}, which is not allowed here (at {offset})")
        offset = (end + 3) & ~3
        if offset > size:
            raise BrokenRecordError(f"claims to have {length} bytes, more than are left in the file")
        if len(parts) == MOST_PARTS:
            raise BrokenRecordError(f"has more than {MOST_PARTS:,} parts")
        parts.append((start, end))
        if kind in (0, 3):
            return parts, offset


def unpack(payload: bytes) -> tuple[tuple[float, ...], bytes]:
    """The labels and the picture in a payload; raises BrokenRecordError."""
    if len(payload) < HEADER.size:
        raise BrokenRecordError("has no picture header")
    flag, label, _, _ = HEADER.unpack_from(payload)
    if flag == 0:
        return (label,), payload[HEADER.size :]
    if HEADER.size + 4 * flag > len(payload):
        raise BrokenRecordError(f"claims to have {flag} labels, more than fit into it")
    if flag > MOST_LABELS:
        raise BrokenRecordError(f"has {flag:,} labels, more than the limit of {MOST_LABELS:,}")
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
