"""Changes of bytes that readers stumble over: bits, lengths, missing and repeated parts, tokens of the formats."""

from __future__ import annotations

import random

NUMBERS = (
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**24,
    2**29 - 1,
    2**29,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
)
# fmt: off
TOKENS = (
    b"\0", b"\n", b"\r\n", b",", b"\t", b'"', b"'", b"..", b"../", b"/", b"\\", b"\xef\xbb\xbf", b"\xff\xd8\xff",
    b"NaN", b"1e999", b"-1", b"null", b"%s%n", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\x1b]0;x\x07", b"$\\foo$",
    b"[" * 50, b"{" * 50, b"[" * 5000, b'{"a":' * 5000, b"9" * 30, b"9" * 5000,
    b"&a ", b"*a", b"<<: *a", b"!!int ", b"!!timestamp ", b"? ", b"- ", b": ", b" #", b"0x_", b"2026-11-31", b"1:2:3",
)
# fmt: on


def mutate(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """One change of one file."""
    size = len(data)
    at = rng.randrange(size + 1)
    match rng.randrange(10):
        case 0 | 1 if size:  # a bit
            changed = bytearray(data)
            changed[rng.randrange(size)] ^= 1 << rng.randrange(8)
            return bytes(changed)
        case 2:  # a number of some width, such as a length
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(NUMBERS) + rng.randrange(-2, 3)
            number = (value % (1 << 8 * width)).to_bytes(width, rng.choice(("little", "big")))
            place = at - at % width if rng.random() < 0.7 else at
            return data[:place] + number + data[place + width :]
        case 3:  # a nearby change of a number
            changed = bytearray(data)
            if size:
                place = rng.randrange(size)
                changed[place] = (changed[place] + rng.choice((-1, 1, 16, -16))) % 256
            return bytes(changed)
        case 4:  # cut off
            return data[:at]
        case 5:  # a part removed
            return data[:at] + data[at + rng.randrange(1, 65) :]
        case 6:  # a part repeated
            part = data[at : at + rng.randrange(1, 129)]
            return data[:at] + part * rng.randrange(1, 4) + data[at:]
        case 7:  # something inserted
            return (
                data[:at]
                + (rng.choice(TOKENS) if rng.random() < 0.7 else rng.randbytes(rng.randrange(1, 33)))
                + data[at:]
            )
        case 8:  # the end of another file
            return data[:at] + other[rng.randrange(len(other) + 1) :]
        case _:  # digits
            start = data.find(rng.choice((b"0", b"1", b"2", b"3")), at)
            return (
                data[:start] + rng.choice((b"9", b"-", b"99999999", b"7", b"")) + data[start + 1 :]
                if start >= 0
                else data
            )
