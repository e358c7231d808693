"""Opcodes of pickles against pickletools' own decoding of them."""

from __future__ import annotations

import pickle
import pickletools

import numpy as np
import pytest

from vplface.data.formats.pickle_opcodes import OpcodeReader, RefusedPickleError, StoredBytes
from vplface.data.formats.random_access import ReadAhead

NAMES = {opcode.name for opcode in pickletools.opcodes}


class Content:
    """A source in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)

    def read(self, start: int, count: int) -> bytes:
        return self.content[start : start + count]


@pytest.mark.parametrize("protocol", range(6))
def test_OpcodeReader_opcodes_equals_pickletools_genops(protocol: int) -> None:
    values = [b"plain", "text", 7, -1, 300, 70_000, 2**40, True, None, np.frombuffer(b"\x00\xff", np.uint8), (1, [2])]
    source = Content(pickle.dumps(values, protocol))
    found = []
    for name, argument in OpcodeReader(ReadAhead(source)).opcodes(NAMES):
        if isinstance(argument, StoredBytes):
            argument = argument.read(source).decode("latin-1") if argument.is_text else argument.read(source)
        found.append((name, " ".join(argument) if isinstance(argument, tuple) else argument))
    expected = [
        (opcode.name, argument.encode("latin-1") if opcode.name in ("BINSTRING", "SHORT_BINSTRING") else argument)
        for opcode, argument, _ in pickletools.genops(source.content)
    ]
    assert [*found, ("STOP", None)] == expected


def test_OpcodeReader_opcodes_does_not_read_the_argument_of_a_refused_opcode() -> None:
    reader = OpcodeReader(ReadAhead(Content(b"]\x8b\xff\xff\xff\x7f")))  # LONG4, two gigabytes long
    with pytest.raises(RefusedPickleError, match="the opcode LONG4 is not allowed"):
        list(reader.opcodes({"EMPTY_LIST"}))
    assert (reader.opcode_start, reader.position) == (1, 2)


@pytest.mark.parametrize(
    ("coding", "stored", "expected"),
    [
        ("raw", b"\xff\n", b"\xff\n"),
        ("utf-8", "ÿ\n".encode(), b"\xff\n"),
        ("raw_unicode_escape", b"\\u00ff\\u000a", b"\xff\n"),
        ("escape", b"\\xff\\n", b"\xff\n"),
    ],
)
def test_StoredBytes_read_undoes_the_coding(coding: str, stored: bytes, expected: bytes) -> None:
    assert StoredBytes(2, len(stored), coding).read(Content(b"..%b.." % stored)) == expected
