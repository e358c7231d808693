from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vplface.data.formats import open_pictures, pickle_opcodes
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.formats.verification_bin import VerificationBin, write_verification_bin
from vplface.data.pair_lists import read_pairs
from vplface.data.pairs import Pairs, resolve, write_pairs
from vplface.data.pictures import UnreadablePictureError
from vplface.errors import DataError

from .test_image_folder import fill

one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

# Not pictures, but bytes of every value: what matters here is that they come back as they were.
FOUR = [bytes(range(256)), b"\xff\xd8\xff\n\\'\"\x00\r", b"", b"\x89PNG\r\n\x1a\n\x80"]
SHOWN = [0, 1, 1, 2, 3, 0, 3, 3]
SAME = [True, True, False, True]


def as_int64(same: list[bool]) -> np.ndarray:
    return np.array(same, np.int64)


def as_ints(same: list[bool]) -> list[int]:
    return [int(each) for each in same]


def written(folder: Path, content: bytes) -> Path:
    path = folder / "set.bin"
    path.write_bytes(content)
    return path


def array(content: bytes, shape: tuple[int, ...] = (-1,)) -> np.ndarray:
    return np.frombuffer(content, np.uint8).reshape(shape).copy()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("picture", [bytes, array, lambda content: array(content, (-1, 1))])
@pytest.mark.parametrize("truths", [list, np.array, lambda same: [np.bool_(each) for each in same], as_int64, as_ints])
def test_VerificationBin_reads_what_pickle_and_numpy_write(tmp_path: Path, protocol: int, picture, truths) -> None:
    content = pickle.dumps(([picture(FOUR[k]) for k in SHOWN], truths(SAME)), protocol=protocol)
    pictures = VerificationBin(written(tmp_path, content))
    assert [pictures.encoded(k) for k in range(4)] == FOUR
    assert pictures.labels.tolist() == [0, 0, 0, 1]  # 0-1 and 1-2 are genuine; 3-0 is not
    assert list(pictures.identities) == ["00000", "00001"]
    names = ["00000/00000", "00000/00001.jpg", "00000/00002", "00001/00003.png"]
    assert [pictures.name(k) for k in range(4)] == names
    assert pictures.pairs.left == [names[k] for k in SHOWN[0::2]]
    assert pictures.pairs.right == [names[k] for k in SHOWN[1::2]]
    assert pictures.pairs.same.tolist() == SAME
    assert pictures.pairs.fold.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["i1", "u1", "<i2", ">i2", "<u4", ">i4", "<i8", ">i8", "<u8", "?"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_VerificationBin_reads_truth_values_of_any_width(tmp_path: Path, kind: str, protocol: int) -> None:
    values = np.array(SAME).astype(kind)
    for truths in (values, values.reshape(-1, 1), list(values), [values[k : k + 1] for k in range(4)]):
        content = pickle.dumps(([FOUR[k] for k in SHOWN], truths), protocol=protocol)
        assert VerificationBin(written(tmp_path, content)).pairs.same.tolist() == SAME
    for truths in (values + 2, list(values + 2), [np.array(SAME).astype(kind)] * 4) if kind != "?" else ():
        content = pickle.dumps(([FOUR[k] for k in SHOWN], truths), protocol=protocol)
        with pytest.raises(DataError, match=r"boolean 0 is neither"):
            VerificationBin(written(tmp_path, content))


def test_VerificationBin_refuses_values_that_are_not_truth_values(tmp_path: Path) -> None:
    for truths in (
        np.array([0.5] * 4),
        np.array(["1"] * 4),
        np.array([1.0] * 4),
        [0.0] * 4,
        [-1] * 4,
        [256] * 4,
        ["1"] * 4,
    ):
        with pytest.raises(DataError, match="not a verification set that can be trusted"):
            VerificationBin(written(tmp_path, pickle.dumps(([FOUR[k] for k in SHOWN], truths))))


def test_VerificationBin_reads_a_picture_of_many_pairs_once(tmp_path: Path) -> None:
    picture = b"x" * 2**20
    content = pickle.dumps(([picture] * 200_000, [True] * 100_000), protocol=4)
    assert len(content) < 2**21
    pictures = VerificationBin(written(tmp_path, content))
    assert len(pictures) == 1
    assert len(pictures.pairs) == 100_000


def test_VerificationBin_names_a_file_that_has_changed(tmp_path: Path) -> None:
    path = written(tmp_path, pickle.dumps(([FOUR[k] for k in SHOWN], SAME)))
    pictures = VerificationBin(path)
    copy = pickle.dumps(pictures)
    os.truncate(path, 30)
    with pytest.raises(UnreadablePictureError, match="has changed since it was opened"):
        pictures.encoded(0)
    with pytest.raises(DataError, match=r"set\.bin: the file has changed"):
        pickle.loads(copy)


def test_VerificationBin_reads_pickles_of_python_2(tmp_path: Path) -> None:
    # Protocol 2, with str for the pictures and a numpy array written by Python 2, assembled by hand.
    ndarray = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x03\x85cnumpy\ndtype\n"
        b"U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x03\xff\x00\x80tb"
    )
    content = b"\x80\x02]q\x00(U\x04\xff\xd8\xff\xe0q\x01T\x02\x00\x00\x00BMh\x01" + ndarray + b"e]q\x02(\x88\x89e\x86."
    pictures = VerificationBin(written(tmp_path, content))
    assert [pictures.encoded(k) for k in range(3)] == [b"\xff\xd8\xff\xe0", b"BM", b"\xff\x00\x80"]
    assert pictures.pairs.same.tolist() == [True, False]
    # Protocol 0: text, with the quotes that Python 2's repr chose.
    content = b"((lp0\nS'\\xff\\n\\'\"'\np1\naS\"it's\"\np2\na(lp3\nI01\natp4\n."
    pictures = VerificationBin(written(tmp_path, content))
    assert [pictures.encoded(k) for k in range(2)] == [b"\xff\n'\"", b"it's"]


def test_VerificationBin_folds_are_contiguous_and_the_first_are_longer(tmp_path: Path) -> None:
    content = pickle.dumps(([b"%d" % k for k in range(46)], [True] * 23))
    fold = VerificationBin(written(tmp_path, content)).pairs.fold
    assert np.bincount(fold).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert (np.diff(fold) >= 0).all()


MARKER = "it_ran"


class Calls:
    def __init__(self, function, *arguments) -> None:
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


class Sets:
    def __reduce__(self):
        return list, (), {"__setstate__": 1}


def hostile(command: str) -> dict[str, bytes]:
    touch = command.encode()
    persistent = io.BytesIO()

    class Persistent(pickle.Pickler):
        def persistent_id(self, value):
            return "1" if value == b"x" else None

    Persistent(persistent, 2).dump(([b"x"], [True]))
    picture, nothing = b"C\x01x", b"]\x88a\x86."
    posix = os.system.__module__.encode()
    return {
        "posix.system": pickle.dumps(([Calls(os.system, command)], [True]), 2),
        "posix.system, protocol 5": pickle.dumps(([Calls(os.system, command)], [True]), 5),
        "eval": pickle.dumps(([Calls(eval, f"__import__('os').system({command!r})")], [True]), 4),
        "nested": pickle.dumps(([Calls(getattr, Calls(__import__, "os"), "system")], [True]), 4),
        "reduce of a string": b"\x80\x02]C\x01xC\x01y\x85Ra\x88a\x86.",
        "state": pickle.dumps(([Sets()], [True]), 2),
        "state on a list": b"\x80\x02]](C\x01xtb" + nothing,
        "instance": b"(S'" + touch + b"'\ni" + posix + b"\nsystem\n.",
        "object": b"(c" + posix + b"\nsystem\nS'" + touch + b"'\no.",
        "new object": b"\x80\x02c" + posix + b"\nsystem\nU\x01x\x85\x81.",
        "encode elsewhere": b"\x80\x02]c_codecs\nencode\nX\x01\x00\x00\x00xX\x06\x00\x00\x00zlib_x\x86Ra" + nothing,
        "decode": b"\x80\x02]c_codecs\ndecode\nX\x01\x00\x00\x00xX\x05\x00\x00\x00rot13\x86Ra" + nothing,
        "numpy.load": b"\x80\x02]cnumpy\nload\nX\x01\x00\x00\x00x\x85Ra" + nothing,
        "array of objects": pickle.dumps((np.array([Calls(os.system, command)], dtype=object), [True]), 2),
        "dotted name": b"\x80\x04]\x8c\x05numpy\x8c\x0entypes.inspect\x93C\x01x\x85Ra" + nothing,
        "persistent id": persistent.getvalue(),
        "extension": b"\x80\x02]\x82\x01a" + nothing,
        "extension 4": b"\x80\x02]\x84\x01\x00\x00\x00a" + nothing,
        "out of band": b"\x80\x05]\x97a" + nothing,
        "dictionary": b"\x80\x02}" + picture + b"\x88s.",
        "set": b"\x80\x04\x8f(" + picture + b"\x90.",
    }


@pytest.mark.parametrize("kind", hostile("").keys())
def test_VerificationBin_runs_nothing_of_a_hostile_file(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / MARKER
    path = written(tmp_path, hostile(f"touch {marker}")[kind])
    with pytest.raises(DataError, match=r"set\.bin: not a verification set that can be trusted, at byte \d+: "):
        VerificationBin(path)
    assert not marker.exists()


def test_pickle_loads_would_run_the_hostile_files(tmp_path: Path) -> None:
    marker = tmp_path / MARKER
    content = hostile(f"touch {marker}")
    for kind in ("posix.system", "posix.system, protocol 5", "eval", "array of objects", "instance", "object"):
        pickle.loads(content[kind])
        assert marker.exists(), kind
        marker.unlink()


def test_VerificationBin_names_what_it_refuses(tmp_path: Path) -> None:
    for kind, message in {
        "posix.system": rf"it asks for '{os.system.__module__}\.system', which is not allowed",
        "eval": r"'(__builtin__|builtins)\.eval'",
        "instance": "the opcode INST is not allowed",
        "persistent id": "the opcode BINPERSID is not allowed",
        "extension": "the opcode EXT1 is not allowed",
        "numpy.load": r"'numpy\.load'",
    }.items():
        with pytest.raises(DataError, match=message):
            VerificationBin(written(tmp_path, hostile("true")[kind]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04]B\xff\xff\xff\xffxx", "ends 4,294,967,293 bytes too early: it is cut short"),
        (b"\x80\x04]\x8e" + b"\xff" * 8, "bytes too early"),
        (b"\x80\x04]T\xff\xff\xff\xff", "negative length"),
        (b"\x80\x04\x95" + b"\xff" * 7, "bytes too early"),
        (b"I" + b"9" * 10_000_000 + b"\n.", "no line break within 20 bytes"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f", "the opcode LONG4 is not allowed"),
        (b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".", "a number of 255 bytes"),
        (b"(" * 300_000 + b"t" * 300_000 + b".", "it does not hold a list of pictures"),
        (b"]" + b"r\xff\xff\xff\xff" + b"j\xff\xff\xff\xff" + b"\x86.", "0 pictures and 0 pairs"),
        (b"\x80\x02N0.", "a value is missing"),
        (b"e", "a mark is missing"),
        (b"h\x07.", "value 7 is used, but was not stored"),
        (b"(C\x01xe.", "of the wrong type"),
        (b"\x80\x02]](C\x01xC\x01ye]\x88aa.", "it does not hold a list of pictures"),
        (b"\x80\x02](K\x05K\x06e]\x88a\x86.", "picture 0 is not a string of bytes"),
        (b"\x80\x02](X\x01\x00\x00\x00xX\x01\x00\x00\x00ye]\x88a\x86.", "picture 0 is not a string of bytes"),
        (b"\x80\x02](U\x01xU\x01ye]K\x02a\x86.", "boolean 0 is neither"),
        (b"\x80\x02](U\x01xU\x01ye]Na\x86.", "boolean 0 is neither"),
        (b"\x80\x02](U\x01xe]\x88a\x86.", "1 pictures and 1 pairs"),
        (b"\x80\x02]]\x86.", "0 pictures and 0 pairs"),
        (b"\xfa", "is not an opcode"),
        (b"", "the file is empty"),
    ],
)
def test_VerificationBin_names_damage_in_the_pickle(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        VerificationBin(written(tmp_path, content))


def test_VerificationBin_refuses_decoded_pictures(tmp_path: Path) -> None:
    content = pickle.dumps(([np.zeros((4, 4, 3), np.uint8)] * 2, [True]), 2)
    with pytest.raises(DataError, match="decoded pictures cannot be read"):
        VerificationBin(written(tmp_path, content))


def test_VerificationBin_refuses_files_with_too_many_opcodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_opcodes, "MOST_OPCODES", 100)
    with pytest.raises(DataError, match="more than 100 opcodes"):
        VerificationBin(written(tmp_path, b"]" + b"N0" * 100 + b"."))


@one_file
@given(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
def test_VerificationBin_reads_or_refuses_mutated_files(tmp_path: Path, protocol: int, changes: list) -> None:
    content = bytearray(pickle.dumps(([FOUR[1], array(FOUR[3])], np.array([True])), protocol=protocol))
    for place, value in changes:
        content[place % len(content)] = value
    try:
        pictures = VerificationBin(written(tmp_path, bytes(content)))
    except DataError:
        return
    assert len(pictures.pairs) > 0
    assert all(isinstance(pictures.encoded(k), bytes) for k in range(len(pictures)))


def test_VerificationBin_refuses_every_truncated_file(tmp_path: Path) -> None:
    content = pickle.dumps(([FOUR[1], array(FOUR[3])], [True]), 2)
    for length in range(len(content)):
        with pytest.raises(DataError):
            VerificationBin(written(tmp_path, content[:length]))


def test_open_pictures_names_a_missing_bin_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.bin': cannot be read: No such file"):
        open_pictures(tmp_path / "no.bin")


def test_write_verification_bin_writes_what_pickle_reads(tmp_path: Path) -> None:
    folder = ImageFolder(fill(tmp_path / "faces", "a/1.png", "a/2.png", "b/1.png"))
    pairs = Pairs(["a/1", "a/1"], ["a/2", "b/1"], np.array([True, False]), np.array([0, 0]))
    write_verification_bin(tmp_path / "out.bin", folder, pairs)
    shown = [folder.encoded(k) for k in (0, 1, 0, 2)]
    assert pickle.loads((tmp_path / "out.bin").read_bytes()) == (shown, [True, False])
    pictures = VerificationBin(tmp_path / "out.bin")
    assert len(pictures) == 3
    assert pictures.picture(2).shape == (112, 112, 3)


def test_write_verification_bin_writes_more_pictures_than_a_pickle_batch(tmp_path: Path) -> None:
    folder = ImageFolder(fill(tmp_path / "faces", *(f"a/{k}.bmp" for k in range(40))))
    one, two = np.random.default_rng(0).integers(0, 40, (2, 1100))
    pairs = Pairs([f"a/{k}" for k in one], [f"a/{k}" for k in two], one == two, np.zeros(1100, np.int64))
    write_verification_bin(tmp_path / "out.bin", folder, pairs)
    shown, same = pickle.loads((tmp_path / "out.bin").read_bytes())
    assert shown == [folder.encoded(int(k)) for pair in zip(one, two, strict=True) for k in pair]
    assert same == (one == two).tolist()


def test_write_verification_bin_is_unchanged_after_conversion_to_a_folder_and_pairs(tmp_path: Path) -> None:
    folder = ImageFolder(fill(tmp_path / "faces", *(f"p{k}/{j}.png" for k in range(6) for j in range(2))))
    left = [f"p{k}/0" for k in range(6)] * 2
    right = [f"p{k}/1" for k in range(6)] + [f"p{(k + 1) % 6}/1" for k in range(6)]
    pairs = Pairs(left, right, np.arange(12) < 6, np.zeros(12, np.int64))
    write_verification_bin(tmp_path / "one.bin", folder, pairs)
    first = VerificationBin(tmp_path / "one.bin")
    for k in range(len(first)):
        path = tmp_path / "copy" / first.name(k)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(first.encoded(k))
    write_pairs(tmp_path / "pairs.txt", first.pairs)
    copied = ImageFolder(tmp_path / "copy")
    assert list(copied.identities) == list(first.identities)
    write_verification_bin(tmp_path / "two.bin", copied, read_pairs(tmp_path / "pairs.txt"))
    assert (tmp_path / "two.bin").read_bytes() == (tmp_path / "one.bin").read_bytes()
    indices = resolve(first.pairs, first)
    assert (first.labels[indices[0]] == first.labels[indices[1]]).tolist() == pairs.same.tolist()


def test_write_verification_bin_refuses_folds_that_the_file_cannot_hold(tmp_path: Path) -> None:
    folder = ImageFolder(fill(tmp_path / "faces", "a/1.png", "a/2.png"))
    pairs = Pairs(["a/1"] * 4, ["a/2"] * 4, np.ones(4, bool), np.array([0, 0, 1, 1]))
    with pytest.raises(DataError, match="has no folds"):
        write_verification_bin(tmp_path / "out.bin", folder, pairs)
    with pytest.raises(DataError, match="no pairs to write"):
        write_verification_bin(tmp_path / "out.bin", folder, Pairs([], [], np.zeros(0, bool), np.zeros(0, int)))
    assert not (tmp_path / "out.bin").exists()


def test_VerificationBin_with_a_damaged_picture_reads_the_others(tmp_path: Path) -> None:
    folder = ImageFolder(fill(tmp_path / "faces", "a/1.png", "a/2.png"))
    good = folder.encoded(0)
    content = b"\x80\x03](B" + struct.pack("<I", len(good)) + good + b"C\x04cut!e]\x88a\x86."
    pictures = VerificationBin(written(tmp_path, content))
    assert pictures.picture(0).shape == (112, 112, 3)
    with pytest.raises(UnreadablePictureError, match=r"set\.bin, 00000/00001 at byte \d+: not a jpg"):
        pictures.picture(1)
