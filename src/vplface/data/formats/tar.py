"""Reader of the headers of uncompressed, untrusted tar files (ustar, GNU and pax), without extraction."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vplface.errors import DataError

BLOCK = 512
MOST_EXTENSION_BYTES = 2**20
"""A longer name or set of extended header records is treated as malicious."""

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_NO_FILE = {b"1": "a hard link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe", b"S": "sparse"}
_OCTAL = re.compile(rb"[0-7]*").fullmatch


class Member(NamedTuple):
    """File in a tar: offsets of its header and its bytes, and the reason to reject it, if any."""

    at: int
    name: bytes
    start: int
    size: int
    fault: str | None


def members(file: BinaryIO, path: Path, length: int) -> Iterator[Member]:
    """Iterate over the members of a tar file: ustar, GNU and pax.

    Raises:
        DataError: the file is not a tar, damaged, or truncated.
    """
    at = 0
    long_name = b""
    long_size: int | None = None
    fault: str | None = None
    while True:
        file.seek(at)
        header = file.read(BLOCK)
        if len(header) < BLOCK and at:
            raise _damage(path, at, "ends without the mark of its end, so it is cut short; copy it again")
        if len(header) == BLOCK and not any(header):
            _require_nothing_behind(file, path, at)
            return
        size = _number(header[124:136]) if len(header) == BLOCK else None
        if size is None or not _checksum_is_right(header):
            if at == 0:
                raise DataError(f"{path}: {_what_instead(header)}")
            raise _damage(path, at, "is damaged: no header is where one should be; copy it again")
        kind = header[156:157]
        start = at + BLOCK
        if kind in b"123456":
            size = 0  # whatever its size field says, no bytes follow
        elif kind == b"S":
            start += BLOCK * _sparse_blocks(file, header)
        if long_size is not None and kind not in b"xgLK":
            size, long_size = long_size, None
        if start + size > length:
            cut = text(long_name or _short_name(header))
            raise _damage(path, at, f"is cut short: {cut!r} has {size:,} bytes, {length - start:,} are there")
        if kind in b"xgLK":
            if size > MOST_EXTENSION_BYTES:
                fault = fault or f"its header has an extension of {size:,} bytes"
            elif kind == b"L":
                long_name = file.read(size).rstrip(b"\0")
            elif kind != b"K":
                try:
                    records = _pax_records(file.read(size))
                    if b"size" in records:
                        long_size = _pax_size(records[b"size"])
                except ValueError:
                    raise _damage(path, at, "is damaged: an extended header cannot be read") from None
                if kind == b"g" and records.keys() & {b"path", b"size"}:
                    raise _damage(path, at, "gives all of its files one name or size")
                long_name = records.get(b"path", long_name)
                if any(key.startswith(b"GNU.sparse") for key in records):
                    fault = fault or "is sparse"
        else:
            name = long_name or _short_name(header)
            while name.startswith(b"./"):
                name = name[2:].lstrip(b"/")
            if kind in _NO_FILE:
                fault = fault or f"{text(name)!r} is {_NO_FILE[kind]}"
            elif kind not in b"0\0" + b"75":
                fault = fault or f"{text(name)!r} is of the unknown kind {text(kind)!r}"
            if name.startswith(b"/") or b".." in name.split(b"/"):
                fault = fault or f"{text(name)!r} leads out of the shard"
            if fault is not None or kind != b"5":
                yield Member(at, name, start, size, fault)
            long_name, fault = b"", None
        at = start + -(-size // BLOCK) * BLOCK


def _sparse_blocks(file: BinaryIO, header: bytes) -> int:
    """Number of blocks with a map of holes after a header."""
    count, more = 0, header[482]
    while more:
        block = file.read(BLOCK)
        count, more = count + 1, block[504] if len(block) == BLOCK else 0
    return count


def _short_name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _number(digits: bytes) -> int | None:
    """Numeric field of a header: octal digits, or binary for large values; None if it is neither."""
    if digits[0] == 0x80:
        return int.from_bytes(digits[1:])
    octal = digits.strip(b" \0")
    return int(octal or b"0", 8) if _OCTAL(octal) else None


def _checksum_is_right(header: bytes) -> bool:
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    stored = _number(header[148:156])
    # Some old programs took bytes for signed.
    return stored == total or stored == total - 256 * sum(byte > 127 for byte in header[:148] + header[156:])


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    r"""Records "LENGTH KEY=VALUE\n", LENGTH being that of the whole record; raises ValueError if malformed."""
    records = {}
    at = 0
    while at < len(data) and data[at]:
        digits, space, _ = data[at : at + 21].partition(b" ")
        length = int(digits) if digits.isdigit() and space else 0
        record = data[at + len(digits) + 1 : at + length]
        key, equals, value = record[:-1].partition(b"=")
        if at + length > len(data) or not record.endswith(b"\n") or not equals:
            raise ValueError("no record")
        records[key] = value
        at += length
    return records


def _pax_size(digits: bytes) -> int:
    if not re.fullmatch(rb"\d{1,18}", digits):
        raise ValueError("no size")
    return int(digits)


def _require_nothing_behind(file: BinaryIO, path: Path, at: int) -> None:
    while rest := file.read(2**20):
        if rest.count(0) != len(rest):
            raise _damage(path, at, "has data after its end mark; split tars that were concatenated")


def _what_instead(header: bytes) -> str:
    for magic, name in _COMPRESSED.items():
        if header.startswith(magic):
            return f"is compressed by {name}, which allows no random access; unpack it and give the .tar file"
    return "is not a tar file"


def _damage(path: Path, at: int, what: str) -> DataError:
    return DataError(f"{path}: at byte {at}: {what}")


def text(name: bytes) -> str:
    """Decode a name of arbitrary bytes."""
    try:
        return name.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return name.decode("utf-8", "surrogateescape")
