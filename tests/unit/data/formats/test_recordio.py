"""RecordIO against bytes built by hand, with a small independent writer and reader."""

from __future__ import annotations

import os
import pickle
import struct
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.data.formats import open_pictures
from vplface.data.formats.recordio import RecordIO, RecordIOWriter
from vplface.data.formats.recordio_frames import frame
from vplface.data.pictures import UnreadablePictureError
from vplface.errors import DataError

MAGIC = b"\x0a\x23\xd7\xce"


def png(number: int) -> bytes:
    """A small picture whose red is the number."""
    colour = np.full((20, 20, 3), (0, 0, number), np.uint8)  # OpenCV writes BGR
    return cv2.imencode(".png", colour)[1].tobytes()


def record(payload: bytes, kind: int = 0) -> bytes:
    return MAGIC + struct.pack("<I", kind << 29 | len(payload)) + payload + b"\0" * (-len(payload) % 4)


def image(key: int, label: float | tuple[float, ...], picture: bytes) -> bytes:
    if isinstance(label, tuple):
        return struct.pack(f"<IfQQ{len(label)}f", len(label), 0, key, 0, *label) + picture
    return struct.pack("<IfQQ", 0, label, key, 0) + picture


def write(folder: Path, payloads: dict[int, bytes], index: bool = True, lst: str | None = None) -> Path:
    """A .rec of whole records, given as key: payload in the order of the file."""
    rec, idx = b"", ""
    for key, payload in payloads.items():
        idx += f"{key}\t{len(rec)}\n"
        rec += payload if payload.startswith(MAGIC) else record(payload)
    folder.mkdir(exist_ok=True)
    path = folder / "train.rec"
    path.write_bytes(rec)
    if index:
        path.with_suffix(".idx").write_text(idx)
    if lst is not None:
        path.with_suffix(".lst").write_text(lst)
    return path


def insightface(labels: list[float], ranges: list[tuple[int, int]] | None = None) -> dict[int, bytes]:
    """A set with header and identity records in InsightFace's order: pictures, header, identities."""
    n = len(labels)
    if ranges is None:
        starts = [k for k in range(n) if k == 0 or labels[k] != labels[k - 1]]
        ranges = [(a + 1, b + 1) for a, b in zip(starts, [*starts[1:], n], strict=True)]
    payloads = {key: image(key, (label, 1.0), png(key)) for key, label in enumerate(labels, 1)}
    payloads[0] = image(0, (n + 1.0, n + 1.0 + len(ranges)), b"")
    for key, (begin, end) in enumerate(ranges, n + 1):
        payloads[key] = image(key, (float(begin), float(end)), b"")
    return payloads


def reds(pictures: RecordIO) -> list[int]:
    return [int(pictures.picture(index)[50, 50, 0]) for index in range(len(pictures))]


def is_that_set(pictures: RecordIO) -> None:
    assert list(pictures.identities) == ["0000003", "0000007", "0000042"]
    assert pictures.labels.tolist() == [1, 1, 0, 2, 2, 2]
    assert pictures.labels.dtype == np.int64
    assert reds(pictures) == [1, 2, 3, 4, 5, 6]


LABELS = [7, 7, 3, 42, 42, 42]


@pytest.mark.parametrize("index", [True, False])
def test_RecordIO_reads_insightfaces_form_with_sparse_labels(tmp_path: Path, index: bool) -> None:
    path = write(tmp_path, insightface(LABELS), index)
    (tmp_path / "property").write_text("43,112,112\n")
    for opened in (RecordIO(path), open_pictures(path), open_pictures(tmp_path)):
        is_that_set(opened)
    assert opened.name(3) == "0000042/00000004.png"
    assert opened.encoded(3) == png(4)
    assert opened.all_labels(3).tolist() == [42, 1]
    offset = sum(len(record(image(k, (0.0, 0.0), png(k)))) for k in (1, 2, 3))
    assert opened.where(3) == f"{path}, record 4 at offset {offset}"
    for outside in (-1, 6):
        for method in (opened.name, opened.where, opened.encoded, opened.picture, opened.all_labels):
            with pytest.raises(IndexError):
                method(outside)


def test_RecordIO_takes_labels_from_the_records_if_identity_records_do_not_cover_them(tmp_path: Path) -> None:
    for number, ranges in enumerate(([], [(1, 3), (3, 4)], [(1, 3), (4, 7)], [(2, 3), (3, 4), (4, 7)], [(1, 9)])):
        is_that_set(RecordIO(write(tmp_path / str(number), insightface(LABELS, ranges))))
    nan = insightface(LABELS, [(1, 3), (3, 4), (4, 7)])
    nan[8] = image(8, (float("nan"), 4.0), b"")
    is_that_set(RecordIO(write(tmp_path / "nan", nan)))


def test_RecordIO_merges_two_ranges_of_one_label(tmp_path: Path) -> None:
    pictures = RecordIO(write(tmp_path, insightface([5, 5, 1, 5])))
    assert list(pictures.identities) == ["0000001", "0000005"]
    assert pictures.labels.tolist() == [1, 1, 0, 1]


def test_RecordIO_picture_refuses_a_label_unlike_that_of_its_identity_record(tmp_path: Path) -> None:
    pictures = RecordIO(write(tmp_path, insightface([7, 9, 3], [(1, 3), (3, 4)])))
    assert pictures.labels.tolist() == [1, 1, 0]
    assert pictures.picture(0)[0, 0, 0] == 1
    with pytest.raises(UnreadablePictureError, match=r"record 2 at .*: its label is 9, but the identity record says 7"):
        pictures.picture(1)


@pytest.mark.parametrize("index", [True, False])
def test_RecordIO_reads_mxnets_form_without_header(tmp_path: Path, index: bool) -> None:
    """Keys from 0, with several labels or one; the first picture has two labels and is no header."""
    payloads = {0: image(0, (2.0, 8.5), png(0)), 1: image(1, 0.0, png(1)), 2: image(2, (2.0, 0.5, 7.0), png(2))}
    pictures = RecordIO(write(tmp_path, payloads, index))
    assert list(pictures.identities) == ["0000000", "0000002"]
    assert pictures.labels.tolist() == [1, 0, 1]
    assert reds(pictures) == [0, 1, 2]
    assert pictures.all_labels(2).tolist() == [2, 0.5, 7]


def test_RecordIO_reads_keys_out_of_order_and_with_gaps(tmp_path: Path) -> None:
    payloads = {key: image(0, key % 3, png(key)) for key in (200, 5, 123, 4)}
    pictures = RecordIO(write(tmp_path, payloads))
    assert reds(pictures) == [4, 5, 123, 200]
    assert pictures.labels.tolist() == [1, 2, 0, 2]
    without = RecordIO(write(tmp_path / "without", payloads, index=False))
    assert reds(without) == [200, 5, 123, 4]  # ids are all the same: the order counts
    assert without.name(1) == "0000002/00000001.png"


def test_RecordIO_joins_records_that_are_split_at_the_magic(tmp_path: Path) -> None:
    """By hand: the magic at byte 24, where the picture begins, then twice in a row, then unaligned, which is kept."""
    head = struct.pack("<IfQQ", 0, 1.0, 1, 0)
    tail = b"x" + MAGIC + b"yz"
    parts = record(head, 1) + record(b"abcd", 2) + record(b"", 2) + record(tail, 3)
    payloads = {1: parts, 2: image(2, 0.0, b"after")}
    for index in (True, False):
        pictures = RecordIO(write(tmp_path, payloads, index))
        assert pictures.encoded(0) == MAGIC + b"abcd" + MAGIC + MAGIC + tail
        assert pictures.encoded(1) == b"after"
        assert pictures.labels.tolist() == [1, 0]
        (tmp_path / "train.idx").unlink(missing_ok=True)


pieces = st.lists(st.one_of(st.just(MAGIC), st.binary(max_size=9)), max_size=8).map(b"".join)


def joined(data: bytes) -> bytes:
    """An independent reader of one record, whole or in parts."""
    payload, kind = b"", None
    while kind not in (0, 3):
        assert data[:4] == MAGIC
        word = struct.unpack("<I", data[4:8])[0]
        payload += b"" if kind is None else MAGIC
        assert (word >> 29) in ((0, 1) if kind is None else (2, 3))
        kind, length = word >> 29, word & 0x1FFFFFFF
        payload += data[8 : 8 + length]
        assert not any(data[8 + length : 8 + length + -length % 4])
        data = data[8 + length + -length % 4 :]
    assert data == b""
    return payload


@given(pieces)
def test_frame_holds_its_payload_and_no_other_magic(payload: bytes) -> None:
    framed = frame(payload)
    assert joined(framed) == payload
    begins = [k for k in range(0, len(framed), 4) if framed[k : k + 4] == MAGIC]
    count = sum(payload[k : k + 4] == MAGIC for k in range(0, len(payload), 4))
    assert len(begins) == 1 + count  # a reader that looks for the magic finds the parts alone


@pytest.mark.parametrize("broken", range(8))
def test_RecordIO_with_a_bad_record_reads_the_others(tmp_path: Path, broken: int) -> None:
    good, last = image(1, 3.0, png(1)), image(3, 3.0, png(3))
    whole = record(image(2, 3.0, png(2)))
    bad, reason = [
        (b"\0\0\0\0" + whole[4:], "no record begins here"),
        (MAGIC + struct.pack("<I", 2**28) + whole[8:], "more than are left in the file"),
        (MAGIC + struct.pack("<I", 2 << 29 | 40) + whole[8:], "is of kind 2"),
        (record(whole[8:48], 1) + whole, "is of kind 0"),
        (record(b"short"), "has no picture header"),
        (record(struct.pack("<IfQQ", 2**31, 3.0, 2, 0) + png(2)), "2147483648 labels"),
        (record(image(2, 3.0, b"")), "the file is empty"),
        (record(image(2, 3.0, png(2)[:-30])), "cut short"),
    ][broken]
    rec = [record(good), bad, record(last)]
    (tmp_path / "x.rec").write_bytes(b"".join(rec))
    (tmp_path / "x.idx").write_text(f"1\t0\n2\t{len(rec[0])}\n3\t{len(rec[0]) + len(bad)}\n")
    pictures = RecordIO(tmp_path / "x.rec")
    assert pictures.labels.tolist() == [0, 0, 0]
    assert [int(pictures.picture(k)[0, 0, 0]) for k in (0, 2)] == [1, 3]
    with pytest.raises(UnreadablePictureError, match=rf"x\.rec, record 2 at offset {len(rec[0])}: .*{reason}"):
        pictures.picture(1)
    assert pictures.name(1).startswith("0000003/00000002.")


@pytest.mark.parametrize("label", [float("nan"), float("inf"), -1.0, 0.5, 2.0**24, 1e30])
def test_RecordIO_picture_raises_UnreadablePictureError_for_an_invalid_label(tmp_path: Path, label: float) -> None:
    for number, bad in enumerate((label, (label, 1.0))):
        pictures = RecordIO(write(tmp_path / str(number), {1: image(1, 4.0, png(1)), 2: image(2, bad, png(2))}))
        assert list(pictures.identities) == ["0000004"]
        assert pictures.picture(0)[0, 0, 0] == 1
        with pytest.raises(
            UnreadablePictureError, match=r"record 2 at offset \d+: its label is .*, not a whole number"
        ):
            pictures.picture(1)
        with pytest.raises(DataError, match="no picture has a label; its label is"):
            RecordIO(write(tmp_path / f"{number} alone", {2: image(2, bad, png(2))}))


def damage(path: Path, suffix: str, change) -> Path:
    file = path.with_suffix(suffix)
    file.write_bytes(change(file.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        (".idx", lambda data: b"", r"train\.idx: holds no records"),
        (".idx", lambda data: b"\n\n", r"train\.idx: holds no records"),
        (".idx", lambda data: data[:-8], r"(?s)train\.rec, record \d+ at offset \d+: is the last .*remove train\.idx"),
        (".idx", lambda data: b"\x00\xffgarbage", r"train\.idx, line 1: expected a key, a tab and an offset, got"),
        (".idx", lambda data: data + b"9\n", r"train\.idx, line 11: expected a key"),
        (".idx", lambda data: data + b"9\t-8\n", r"train\.idx, line 11: expected a key"),
        (".idx", lambda data: data + b"9\t" + b"9" * 17 + b"\n", r"train\.idx, line 11: expected a key"),
        (".idx", lambda data: data + b"1\t0\n", r"train\.idx, line 11: the key 1 occurs more than once"),
        (".idx", lambda data: data + b"77\t6\n", r"record 77 should begin at offset 6, which is not a multiple of 4"),
        (
            ".idx",
            lambda data: data + b"77\t99996\n",
            r"record 77 should begin at offset 99996, but train\.rec ends",
        ),
        (
            ".rec",
            lambda data: data[:-1],
            r"train\.rec, record 9 at offset \d+: .*more than are left.*last record in train\.idx",
        ),
        (
            ".rec",
            lambda data: data[:-100],
            r"train\.idx, line 9: record 8 should begin at .*, but .* is cut short",
        ),
        (".rec", lambda data: data + bytes(8), r"record 9 at offset \d+: .*but the file has"),
        (".rec", lambda data: b"", r"train\.rec: is empty"),
    ],
)
def test_RecordIO_names_the_place_of_damage(tmp_path: Path, suffix: str, change, message: str) -> None:
    with pytest.raises(DataError, match=message):
        RecordIO(damage(write(tmp_path, insightface(LABELS)), suffix, change))


def test_RecordIO_without_an_index_names_the_first_bad_record(tmp_path: Path) -> None:
    path = write(tmp_path, insightface(LABELS), index=False)
    with pytest.raises(DataError, match=r"train\.rec, record number 9 at offset \d+: claims to have 32 bytes"):
        RecordIO(damage(path, ".rec", lambda data: data[:-4]))
    write(tmp_path, insightface(LABELS), index=False)
    with pytest.raises(DataError, match=r"record number 0 at offset 0: no record begins here; without an \.idx"):
        RecordIO(damage(path, ".rec", lambda data: b"\1" + data[1:]))


def test_RecordIO_refuses_an_impossible_header(tmp_path: Path) -> None:
    for labels in ((0.0, 3.0), (8.0, 7.0), (7.0, 99.0), (7.5, 10.0), (float("nan"), 10.0), (7.0, float("inf"))):
        payloads = insightface(LABELS) | {0: image(0, labels, b"")}
        with pytest.raises(DataError, match=r"record 0 at offset \d+: says that pictures have the keys"):
            RecordIO(write(tmp_path, payloads))
    broken = insightface(LABELS) | {0: record(b"no header")}
    with pytest.raises(DataError, match=r"record 0 at offset \d+: has no picture header; it may be the header"):
        RecordIO(write(tmp_path, broken))


def test_RecordIO_reads_a_header_rounded_to_float32(tmp_path: Path) -> None:
    """Keys beyond 2²⁴, as in Glint360K: the pictures end at an odd key, which float32 rounds to an even one."""
    first = 2**24 + 3
    for rounded in (2**24 + 2, 2**24 + 4):
        payloads = {first - 2: image(0, 5.0, png(1)), first - 1: image(0, 6.0, png(2))}
        payloads[0] = image(0, (float(rounded), float(first + 1)), b"")
        payloads[first] = image(0, (1.0, 2.0), b"")
        pictures = RecordIO(write(tmp_path, payloads))
        assert reds(pictures) == [1, 2]
        assert pictures.labels.tolist() == [0, 1]


def test_RecordIO_refuses_missing_ambiguous_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.rec': cannot be read: No such file"):
        RecordIO(tmp_path / "none.rec")
    with pytest.raises(DataError, match=r"expected one \.rec file in this folder, found none"):
        RecordIO(tmp_path)
    for name in ("a.rec", "b.rec"):
        (tmp_path / name).write_bytes(record(b""))
    with pytest.raises(DataError, match=r"found a\.rec, b\.rec; give one"):
        RecordIO(tmp_path)
    with pytest.raises(DataError, match=r"record 0 at offset 0: has no picture header"):
        RecordIO(tmp_path / "a.rec")
    (tmp_path / "a.rec").write_bytes(record(image(0, (1.0, 1.0), b"")))
    with pytest.raises(DataError, match=r"a\.rec: holds no pictures"):
        RecordIO(tmp_path / "a.rec")


def test_RecordIO_takes_names_from_a_list(tmp_path: Path) -> None:
    payloads = {key: image(key, label, png(key)) for key, label in ((1, 5), (2, 5), (3, 2))}
    lines = ["3\t2.000000\tGrace/b/1.png", "1\t5.000000\tЖанна/№ 1.png", "2\t5.0\tЖанна/2.png"]
    pictures = RecordIO(write(tmp_path, payloads, lst="\n".join(lines)))
    assert list(pictures.identities) == ["Grace", "Жанна"]
    assert [pictures.name(k) for k in range(3)] == ["Жанна/№ 1.png", "Жанна/2.png", "Grace/b/1.png"]
    shared = RecordIO(write(tmp_path, payloads, lst="1\t5\tall/1.png\n2\t5\tall/2.png\n3\t2\tall/3.png\n"))
    assert list(shared.identities) == ["0000002", "0000005"]  # one folder for two labels names nobody
    assert shared.name(2) == "all/3.png"
    others = RecordIO(write(tmp_path, payloads, lst="1\t/somewhere/1.png\t5\n1\t/somewhere/2.png\t5\n"))
    assert others.name(2) == "0000002/00000003.png"  # InsightFace's lists have no keys


@pytest.mark.parametrize(
    ("lst", "message"),
    [
        ("1\t5\ta/1\n2\t5\ta/2\n", r"train\.lst: has no line for 1 records, such as 3"),
        ("1\t5\ta/1\n2\ta/2\n3\t2\tb/3", r"train\.lst, line 2: expected a key, 1 labels and a name .* got '2\\ta/2'"),
        ("1\t5\ta/1\n2\t5\ta/2\nx\t2\tb/3\n", r"train\.lst, line 3: expected a key"),
        ("1\t5\ta/1\n\n3\t2\tb/3\n", r"train\.lst, line 2: expected a key"),
        ("1\t5\ta/1\n2\t5\t6\ta/2\n3\tb\n", r"train\.lst, line 2: expected a key"),
    ],
)
def test_RecordIO_names_the_damaged_line_of_a_list(tmp_path: Path, lst: str, message: str) -> None:
    payloads = {key: image(key, label, png(key)) for key, label in ((1, 5), (2, 5), (3, 2))}
    with pytest.raises(DataError, match=message):
        RecordIO(write(tmp_path, payloads, lst=lst))


numbers = st.integers(0, 10**16 - 1) | st.integers(0, 10**4)


@given(st.dictionaries(numbers, numbers, min_size=1, max_size=20), st.sampled_from(["\n", "\r\n", " \n"]))
def test_read_index_reads_numbers_of_any_length(tmp_path_factory, lines: dict[int, int], end: str) -> None:
    from vplface.data.formats.recordio_tables import read_index

    path = tmp_path_factory.mktemp("index") / "x.idx"
    path.write_bytes("".join(f"{key}\t{offset}{end}" for key, offset in lines.items()).encode())
    keys, offsets = read_index(path)
    assert keys.tolist() == list(lines)
    assert offsets.tolist() == list(lines.values())


def test_RecordIO_survives_pickling(tmp_path: Path) -> None:
    is_that_set(pickle.loads(pickle.dumps(RecordIO(write(tmp_path, insightface(LABELS))))))


edits = st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=6)), min_size=1, max_size=3)


@given(st.sampled_from([".rec", ".idx", ".lst"]), edits, st.none() | st.integers(0, 10**6), st.booleans())
def test_RecordIO_reads_or_refuses_mutated_files(tmp_path_factory, suffix, changes, cut, index) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    lst = "".join(f"{key}\t{label}\tp{label}/{key}.png\n" for key, label in enumerate(LABELS, 1))
    path = write(folder, insightface(LABELS), lst=lst)
    file = path.with_suffix(suffix)
    data = bytearray(file.read_bytes())
    for position, patch in changes:
        position %= len(data)
        data[position : position + len(patch)] = patch
    file.write_bytes(bytes(data if cut is None else data[: cut % len(data)]))
    if not index:
        path.with_suffix(".idx").unlink()
    try:
        pictures = RecordIO(path)
    except DataError as raised:
        message = str(raised)
        assert str(folder) in message
        return
    assert len(pictures) == len(pictures.labels)
    assert 0 <= pictures.labels.min() <= pictures.labels.max() < len(pictures.identities)
    for position in range(len(pictures)):
        assert pictures.name(position)
        with suppress(UnreadablePictureError):
            assert pictures.picture(position).shape == (112, 112, 3)


# --- records that the header does not announce ---


def joined_files(*sets: dict[int, bytes]) -> dict[int, bytes]:
    """Several files concatenated, with consecutive keys."""
    return dict(enumerate(record(payloads[key]) for payloads in sets for key in sorted(payloads)))


def with_header(labels: list[float], header: tuple[float, float]) -> dict[int, bytes]:
    return insightface(labels) | {0: image(0, header, b"")}


def plain(labels: list[float], first: int = 1, numbered: bytes | None = None) -> dict[int, bytes]:
    """Pictures without header and identity records; or with a header of one number."""
    start = {} if numbered is None else {0: numbered}
    return start | {key: image(key, label, png(key)) for key, label in enumerate(labels, first)}


IDENTITY = image(0, (1.0, 3.0), b"")
BEYOND = {
    "two files": (
        joined_files(insightface([0, 0, 1]), insightface([0, 1])),
        "announces the records up to 5, but 5 more",
    ),
    "three files": (joined_files(*[insightface([0, 1])] * 3), "announces the records up to 4, but 10 more"),
    "pictures behind": (
        insightface([0, 1]) | {5: image(5, 2.0, png(5)), 6: image(6, 2.0, png(6))},
        "announces the records up to 4, but 2 more",
    ),
    "a header too low": (with_header(LABELS, (6.0, 10.0)), "holds a picture, but .* 1 pictures would be lost"),
    "a header far too low": (with_header(LABELS, (4.0, 10.0)), "holds a picture, but .* 3 pictures would be lost"),
    "a header that ends early": (with_header(LABELS, (7.0, 9.0)), "announces the records up to 8, but 1 more"),
    "a header too high": (with_header([3, 3, 5], (5.0, 6.0)), "record 4 .* holds no picture but numbers"),
    "a header of zeros": (with_header(LABELS, (0.0, 0.0)), "says that pictures have the keys"),
    "identity records among the pictures": (
        insightface([0, 1, 2], [(1, 2), (2, 3)]) | {2: image(2, (1.0, 2.0), b"")},
        "holds no picture but numbers",
    ),
    "a set behind pictures alone": (joined_files(plain([4, 5]), insightface([0, 1])), "holds no picture but numbers"),
    "two headers of one number": (
        joined_files(*[plain([4, 5], numbered=image(0, 3.0, b""))] * 2),
        "record 3 .* holds no picture but numbers",
    ),
    "a record too few": (
        {key: payload for key, payload in insightface(LABELS).items() if key != 4},
        "announces 9 records, and 8 are there: 1 are missing",
    ),
}


@pytest.mark.parametrize("kind", BEYOND)
@pytest.mark.parametrize("index", [True, False])
def test_RecordIO_refuses_records_that_the_header_does_not_announce(tmp_path: Path, kind: str, index: bool) -> None:
    payloads, message = BEYOND[kind]
    with pytest.raises(DataError, match=message) as caught:
        RecordIO(write(tmp_path, payloads, index))
    assert str(tmp_path / "train.rec") in str(caught.value)


@pytest.mark.parametrize("numbered", [image(0, 7.0, b""), image(0, (7.0,), b""), image(0, 0.0, b"")])
def test_RecordIO_takes_a_header_of_one_number_for_neither_identity_nor_picture(
    tmp_path: Path, numbered: bytes
) -> None:
    for index in (True, False):
        pictures = RecordIO(write(tmp_path / str(index), plain(LABELS, numbered=numbered), index))
        is_that_set(pictures)
        behind = plain(LABELS, numbered=numbered) | {
            key: image(key, ends, b"") for key, ends in ((7, (1.0, 3.0)), (8, (3.0, 4.0)), (9, (4.0, 7.0)))
        }
        is_that_set(RecordIO(write(tmp_path / f"{index} identities", behind, index)))
    with pytest.raises(DataError, match="holds no pictures"):
        RecordIO(write(tmp_path, {0: numbered}))


def the_records(data: bytes) -> list[bytes]:
    """The payloads in a file of whole records."""
    found = []
    while data:
        length = struct.unpack("<I", data[4:8])[0]
        found.append(data[8 : 8 + length])
        data = data[8 + length + -length % 4 :]
    return found


labels_of_a_file = st.lists(st.integers(0, 3), min_size=1, max_size=5)
valid_files = st.one_of(
    st.builds(lambda labels: insightface(sorted(labels)), labels_of_a_file),
    st.builds(lambda labels: insightface(sorted(labels), []), labels_of_a_file),
    st.builds(lambda labels, first: plain(labels, first), labels_of_a_file, st.integers(0, 9)),
    st.builds(lambda labels: plain(labels, numbered=image(0, (float(len(labels) + 1),), b"")), labels_of_a_file),
)


@given(st.lists(valid_files, min_size=1, max_size=4), st.booleans())
def test_RecordIO_refuses_joined_files_or_reads_every_picture(tmp_path_factory, sets, index: bool) -> None:
    """A set that opens has all the pictures, each with its label, and no other identity."""
    payloads = joined_files(*sets)
    path = write(tmp_path_factory.mktemp("joined"), payloads, index)
    expected = []
    for payload in the_records(path.read_bytes()):
        flag, label = struct.unpack("<If", payload[:8])
        if picture := payload[24 + 4 * flag :]:
            expected.append((picture, struct.unpack("<f", payload[24:28])[0] if flag else label))
    try:
        pictures = RecordIO(path)
    except DataError:
        assert len(sets) > 1
        return
    found = [(pictures.encoded(k), float(pictures.identities[pictures.labels[k]])) for k in range(len(pictures))]
    assert sorted(found) == sorted(expected)
    assert {float(name) for name in pictures.identities} == {label for _, label in expected}


def indexed(folder: Path, payloads: dict[int, bytes], change) -> Path:
    """A set whose .idx has other lines."""
    path = write(folder, payloads)
    lines = path.with_suffix(".idx").read_text().splitlines()
    path.with_suffix(".idx").write_text("\n".join(change(lines)) + "\n")
    return path


def offset_of(line: str, add: int) -> str:
    key, offset = line.split("\t")
    return f"{key}\t{int(offset) + add}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:3], offset_of(lines[3], 10**9), *lines[4:]], r"idx, line 4: record 4 .*ends at \d+"),
        (lambda lines: [*lines[:3], offset_of(lines[3], 4), *lines[4:]], r"idx, line 4: .* but no record begins there"),
        (
            lambda lines: [*lines[:3], offset_of(lines[3], -8), *lines[4:]],
            r"line 4: .* but no record begins there",
        ),
        (lambda lines: [*lines[:3], f"4\t{lines[2].split()[1]}", *lines[4:]], r"idx, line 4: .*, as record 3 is"),
        (lambda lines: [*lines[:3], "4\t-4", *lines[4:]], r"idx, line 4: expected a key, a tab and an offset"),
        (lambda lines: [*lines[:3], "4\t" + "8" * 5000, *lines[4:]], r"idx, line 4: expected a key.*\.\.\."),
        (lambda lines: [*lines[:3], "4" * 5000 + "\t8", *lines[4:]], r"idx, line 4: expected a key"),
        (lambda lines: [*lines[:3], "4\tnan", *lines[4:]], r"idx, line 4: expected a key"),
        (lambda lines: [*lines[:3], "4\t0x10", *lines[4:]], r"idx, line 4: expected a key"),
        (lambda lines: [*lines[:3], "4\t\u0664", *lines[4:]], r"idx, line 4: expected a key"),
        (lambda lines: [*lines[:3], *lines[4:]], r"1 records of train\.rec are not in it, the first at offset \d+"),
        (lambda lines: [lines[0], *lines[3:]], r"2 records of train\.rec are not in it, the first at offset 140"),
    ],
)
def test_RecordIO_refuses_an_impossible_index(tmp_path: Path, change, message: str) -> None:
    payloads = {key: image(key, float(key), png(key)) for key in range(1, 9)}
    with pytest.raises(DataError, match=message) as caught:
        RecordIO(indexed(tmp_path, payloads, change))
    assert "train.idx" in str(caught.value)


def test_RecordIO_detects_the_index_of_another_file(tmp_path: Path) -> None:
    """The other file is as long and has the same last record; then it is longer."""
    more = [0, 4, 8, 12, 16, 0]
    one = write(tmp_path / "a", {key: image(key, 1.0, png(key) + bytes(more[key])) for key in range(6)})
    two = write(tmp_path / "b", {key: image(key, 1.0, png(key) + bytes([0, 8, 4, 12, 16, 0][key])) for key in range(6)})
    assert one.stat().st_size == two.stat().st_size
    one.with_suffix(".idx").write_bytes(two.with_suffix(".idx").read_bytes())
    with pytest.raises(DataError, match=r"train\.idx, line 3: record 2 should begin .*but no record begins there"):
        RecordIO(one)
    longer = write(tmp_path / "b", {key: image(key, 1.0, png(key)) for key in range(7)})
    one.with_suffix(".idx").write_bytes(longer.with_suffix(".idx").read_bytes())
    with pytest.raises(DataError, match=r"train\.rec, record 6 .*the last record in train\.idx"):
        RecordIO(one)


def test_RecordIO_picture_refuses_too_many_labels_or_parts(tmp_path: Path) -> None:
    many = struct.pack("<IfQQ", 70_000, 0, 2, 0) + bytes(4 * 70_000) + png(2)
    parts = record(b"a" * 24, 1) + record(b"", 2) * 70_000 + record(png(3), 3)
    pictures = RecordIO(write(tmp_path, {1: image(1, 3.0, png(1)), 2: many, 3: parts, 4: image(4, 3.0, png(4))}))
    assert pictures.picture(0)[0, 0, 0] == 1
    for index, reason in ((1, "has 70,000 labels, more than the limit of 65,536"), (2, "has more than 65,536 parts")):
        with pytest.raises(UnreadablePictureError, match=reason):
            pictures.picture(index)


def test_RecordIO_detects_a_file_changed_while_open(tmp_path: Path) -> None:
    path = write(tmp_path, insightface(LABELS))
    pictures, size = RecordIO(path), path.stat().st_size
    os.truncate(path, 100)
    for index in (0, 5):
        with pytest.raises(UnreadablePictureError, match=rf"has changed .* had {size:,} bytes and now has 100"):
            pictures.picture(index)
    os.truncate(path, size)
    with pytest.raises(UnreadablePictureError, match="has changed since it was opened: it was written to"):
        pictures.picture(5)
    copy = pickle.dumps(RecordIO(write(tmp_path, insightface(LABELS))))
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(DataError, match=r"train\.rec: the file has changed"):
        pickle.loads(copy)


def test_RecordIO_reads_the_original_of_a_file_replaced_while_open(tmp_path: Path) -> None:
    path = write(tmp_path, insightface(LABELS))
    pictures = RecordIO(path)
    other = write(tmp_path / "other", insightface([1, 2]))
    other.replace(path)
    is_that_set(pictures)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("suffix", [".rec", ".idx", ".lst"])
def test_RecordIO_refuses_or_ignores_pipes_and_devices(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, insightface(LABELS), lst="" if suffix == ".lst" else None)
    path.with_suffix(suffix).unlink()
    os.mkfifo(path.with_suffix(suffix))
    if suffix == ".rec":
        with pytest.raises(DataError, match="not a regular file"):
            RecordIO(path)
        path.unlink()
        path.symlink_to("/dev/zero")
        with pytest.raises(DataError, match="not a regular file"):
            RecordIO(path)
    else:  # as if it were not there
        assert len(RecordIO(path)) == 6


# --- writing ---

PEOPLE = ["ada", "nobody", "Жанна", "grace"]
GROUPED = [("ada/1.png", 0), ("ada/2.png", 0), ("other/name.png", 3), ("Жанна/x/1.png", 2), ("Жанна/x/2.png", 2)]
MIXED = [("ada/1.png", 0), ("grace/1.png", 3), ("ada/2.png", 0)]


def payload_of(number: int) -> bytes:
    """Awkward bytes: the magic, aligned and not, in the first and at the last place, and odd lengths."""
    return [b"first", MAGIC + b"x" + MAGIC, b"\0" + MAGIC * 3, b"", b"abcd" + MAGIC + b"efg" + MAGIC][number % 5]


def fill(path: Path, items: list[tuple[str, int]]) -> RecordIO:
    with RecordIOWriter(path, PEOPLE) as writer:
        for number in range(writer.written, len(items)):
            name, label = items[number]
            writer.add(payload_of(number), name, label)
    return RecordIO(path)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def insightfaces_loader(folder: Path) -> tuple[dict[int, tuple[float, bytes]], list[tuple[int, int]]]:
    """As InsightFace's loaders read .idx and .rec: header at key 0, pictures before, identities from its label."""
    rec = (folder / "train.rec").read_bytes()
    offsets = dict(map(int, line.split("\t")) for line in (folder / "train.idx").read_text().splitlines())
    assert list(offsets) == list(range(len(offsets)))

    def read(key: int) -> tuple[tuple[float, ...], bytes]:
        end = offsets.get(key + 1, len(rec))
        payload = joined(rec[offsets[key] : end])
        flag, label, ident, zero = struct.unpack("<IfQQ", payload[:24])
        assert (ident, zero) == (key, 0)
        labels = struct.unpack(f"<{flag}f", payload[24 : 24 + 4 * flag]) if flag else (label,)
        return labels, payload[24 + 4 * flag :]

    (first, stop), nothing = read(0)
    assert nothing == b""
    assert stop == len(offsets)
    ranges = [read(key) for key in range(int(first), int(stop))]
    assert all(picture == b"" for _, picture in ranges)
    pictures = {key: read(key) for key in range(1, int(first))}
    return (
        {key: (labels[0], picture) for key, (labels, picture) in pictures.items()},
        [(int(a), int(b)) for (a, b), _ in ranges],
    )


def test_RecordIOWriter_writes_what_insightface_reads(tmp_path: Path) -> None:
    fill(tmp_path, GROUPED)
    pictures, ranges = insightfaces_loader(tmp_path)
    assert pictures == {key: (label, payload_of(key - 1)) for key, (_, label) in enumerate(GROUPED, 1)}
    assert ranges == [(1, 3), (3, 4), (4, 6)]
    assert (tmp_path / "property").read_text() == "4,112,112\n"
    assert sorted(files(tmp_path)) == ["property", "train.idx", "train.lst", "train.rec"]


def test_RecordIOWriter_writes_no_identity_records_for_mixed_identities(tmp_path: Path) -> None:
    written = fill(tmp_path, MIXED)
    pictures, ranges = insightfaces_loader(tmp_path)
    assert [label for label, _ in pictures.values()] == [0, 3, 0]
    assert ranges == []
    assert written.labels.tolist() == [0, 1, 0]
    assert list(written.identities) == ["ada", "grace"]


@pytest.mark.parametrize("keep", [("train.idx", "train.lst"), ("train.lst",)])
def test_RecordIOWriter_round_trips_with_and_without_an_index(tmp_path: Path, keep: tuple[str, ...]) -> None:
    fill(tmp_path / "sub" / "train.rec", GROUPED)
    for name in {"train.idx", "train.lst"} - set(keep):
        (tmp_path / "sub" / name).unlink()
    again = RecordIO(tmp_path / "sub")
    assert [again.encoded(k) for k in range(5)] == [payload_of(k) for k in range(5)]
    assert list(again.identities) == ["ada", "Жанна", "grace"]
    assert again.labels.tolist() == [0, 0, 2, 1, 1]
    assert [again.name(k) for k in range(5)] == [
        "ada/1.png",
        "ada/2.png",
        "grace/other/name.png",
        "Жанна/x/1.png",
        "Жанна/x/2.png",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("items", [GROUPED, MIXED])
def test_RecordIOWriter_resumes_after_truncation_at_any_byte(
    tmp_path: Path, items: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # thousands of them take a minute
    fill(tmp_path / "whole", items)
    expected = files(tmp_path / "whole")
    killed = RecordIOWriter(tmp_path / "killed", PEOPLE)
    killed.__enter__()
    for number, (name, label) in enumerate(items):
        killed.add(payload_of(number), name, label)
    killed._records.flush(), killed._list.flush()
    state = files(tmp_path / "killed")
    # Identity records that were written before the kill are not pictures.
    state[".train.rec.part"] += record(image(len(items) + 1, (1.0, 3.0), b""))
    lines = state[".train.lst.part"].splitlines(keepends=True)
    ends = [len(b"".join(lines[:k])) for k in range(len(lines) + 1)]
    offsets = [int(line.split(b"\t")[1]) for line in expected["train.idx"].splitlines()][: len(items) + 1]
    offsets.append(offsets[-1] + len(frame(image(len(items), 0.0, payload_of(len(items) - 1)))))
    for name in (".train.rec.part", ".train.lst.part"):
        for length in range(len(state[name])):
            folder = tmp_path / f"{name}{length}"
            folder.mkdir()
            for other, data in state.items():
                (folder / other).write_bytes(data[:length] if other == name else data)
            written = RecordIOWriter(folder, PEOPLE).written
            if name == ".train.lst.part":
                assert written == max(k for k in range(len(ends)) if ends[k] <= length)
            else:
                assert written == max([k - 1 for k in range(1, len(offsets)) if offsets[k] <= length], default=0)
            fill(folder, items)
            assert files(folder) == expected


def test_RecordIOWriter_keeps_complete_records_and_no_set_after_an_error(tmp_path: Path) -> None:
    def interrupted() -> None:
        with RecordIOWriter(tmp_path, PEOPLE) as writer:
            writer.add(png(1), "ada/1.png", 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(DataError, match="found none"):
        RecordIO(tmp_path)
    with pytest.raises(DataError, match=r"\.train\.lst\.part, line 1: belongs to another set"):
        RecordIOWriter(tmp_path, ["somebody else"])
    assert RecordIOWriter(tmp_path, PEOPLE).written == 1


@pytest.mark.parametrize("step", ["train.idx", "train.lst", "property", "train.rec"])
def test_RecordIOWriter_completes_an_interrupted_finish(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if Path(target).name == step:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", failing)
        with pytest.raises(DataError, match=r"cannot write .*: No space left on device"):
            fill(tmp_path / "cut", GROUPED)
    assert RecordIOWriter(tmp_path / "cut", PEOPLE).written == len(GROUPED)
    fill(tmp_path / "cut", GROUPED)
    fill(tmp_path / "whole", GROUPED)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_RecordIOWriter_leaves_a_complete_set_unchanged(tmp_path: Path) -> None:
    fill(tmp_path, GROUPED)
    before = files(tmp_path)
    (tmp_path / ".train.lst.part").write_bytes(b"left over")
    with RecordIOWriter(tmp_path, PEOPLE) as writer:
        assert writer.written == 5
        with pytest.raises(DataError, match="is complete already"):
            writer.add(b"x", "ada/3.png", 0)
    assert files(tmp_path) == before


def test_RecordIOWriter_refuses_invalid_names_labels_and_paths(tmp_path: Path) -> None:
    for name in ("a/b", "a\tb", "a\nb", ""):
        with pytest.raises(DataError, match="an identity cannot be called"):
            RecordIOWriter(tmp_path, [name])
    with RecordIOWriter(tmp_path, PEOPLE) as writer:
        with pytest.raises(DataError, match=r"a \.lst cannot hold the name 'a\\tb'"):
            writer.add(b"x", "a\tb", 0)
        with pytest.raises(IndexError, match=r"0\.\.3, got 4"):
            writer.add(b"x", "a", 4)
        writer.add(b"x", "a", 0)
    with (
        pytest.raises(DataError, match="there are no pictures to write"),
        RecordIOWriter(tmp_path / "empty", PEOPLE),
    ):
        pass
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(DataError, match=r"cannot write .*file/train\.rec"),
        RecordIOWriter(tmp_path / "file" / "train.rec", PEOPLE),
    ):
        pass
