"""Known answers, written by hand from the specification of Thrift's compact protocol."""

import pytest

from vplface.data.formats.thrift import CompactReader, whole


def test_fields_of_every_kind():
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
    reader = CompactReader(data)
    assert reader.struct() == {
        1: True, 2: False, 3: 127, 4: -2, 5: 150, 6: None, 7: b"ab", 8: [1, 2], 9: None, 10: {1: 3}, 100: 4,
    }  # fmt: skip
    assert reader.at == len(data)


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
def test_what_is_not_of_the_protocol_is_refused(data, error):
    with pytest.raises(error):
        CompactReader(data).struct()


def test_only_whole_numbers_from_zero_on_are_taken():
    assert [whole({1: value}, 1) for value in (5, 0, -1, True, b"5", {}, None)] == [5, 0, -1, -1, -1, -1, -1]
    assert whole({}, 1) == -1
