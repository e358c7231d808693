"""Known answers, written by hand from the specification of Thrift's compact protocol."""

import pytest

from vplface.data.formats.thrift import I32, I64, CompactReader


def test_CompactReader_struct_reads_or_skips_fields_of_every_type():
    data = bytes([
        0x11,  # field 1: true
        0x12,  # field 2: false
        0x13, 0x7F,  # field 3: byte 127
        0x15, 0x03,  # field 4: i32, zigzag of -2
        0x16, 0xAC, 0x02,  # field 5: i64, zigzag of 150
        0x17, *b"12345678",  # field 6: double
        0x18, 0x02, *b"ab",  # field 7: two bytes
        0x19, 0x25, 0x02, 0x04,  # field 8: list of two i32, 1 and 2
        0x1B, 0x01, 0x85, 0x01, 0x61, 0x02,  # field 9: a map of one entry, "a" to 1
        0x1C, 0x15, 0x06, 0x00,  # field 10: struct whose field 1 is 3
        0x05, 0xC8, 0x01, 0x08,  # field 100, written out: i32 4
        0x00,
    ])  # fmt: skip
    for wanted, found in (
        ({}, {}),
        ({4: I32, 5: I64, 10: {1: I32}, 100: I32}, {4: -2, 5: 150, 10: {1: 3}, 100: 4}),
        ({4: I64, 5: I32, 1: I32, 8: [{}], 10: [{}], 9: {}}, {8: []}),  # of another kind than they should be
    ):
        reader = CompactReader(data)
        assert reader.struct(wanted) == found
        assert reader.at == len(data)


def test_CompactReader_struct_reads_lists_of_structs_and_repeated_fields():
    data = bytes([
        0x19, 0x2C, 0x15, 0x02, 0x00, 0x15, 0x04, 0x00,  # field 1: two structs, whose field 1 is 1 and 2
        0x15, 0x06,  # field 2: i32 3
        0x05, 0x04, 0x08,  # field 2 again, written out: i32 4
        0x06, 0x04, 0x0A,  # and i64 5, which is not what it should be
        0x00,
    ])  # fmt: skip
    assert CompactReader(data).struct({1: [{1: I32}], 2: I32}) == {1: [{1: 1}, {1: 2}], 2: 4}


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", IndexError),
        (bytes([0x18, 0x7F, 0x61]), IndexError),  # more bytes than there are
        (bytes([0x19, 0xF5, 0xFF, 0xFF, 0xFF, 0x7F]), IndexError),  # a list of 268 million entries
        (bytes([0x1B, 0xFF, 0xFF, 0xFF, 0x7F]), IndexError),
        (bytes([0x1C] * 100), ValueError),  # nested
        (bytes([0x19, 0x19] * 100), ValueError),
        (bytes([0x15, *[0xFF] * 12]), ValueError),  # a number of 84 bits
        (bytes([0x1D, 0x00]), ValueError),  # no such type
    ],
)
def test_CompactReader_struct_refuses_malformed_data(data, error):
    with pytest.raises(error):
        CompactReader(data).struct({1: I32})
