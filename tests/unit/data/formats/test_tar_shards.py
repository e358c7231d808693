from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset
from braceexpand import braceexpand
from hypothesis import given
from hypothesis import strategies as st

from vplface.data.formats import open_pictures, tar_shards
from vplface.data.formats.shard_names import _count_of
from vplface.data.formats.tar_shards import TarShards, TarShardsWriter
from vplface.data.pictures import UnreadablePictureError
from vplface.errors import DataError, MissingExtraError


def picture(number: int, suffix: str = ".png") -> bytes:
    """A small picture whose red is the number."""
    return cv2.imencode(suffix, np.full((20, 20, 3), (0, 0, number), np.uint8))[1].tobytes()


def write(path: Path, *files: tuple[str, bytes] | tarfile.TarInfo, form: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar file by the standard library: of names and contents, or of headers alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for file in files:
            if isinstance(file, tarfile.TarInfo):
                tar.addfile(file, io.BytesIO(bytes(file.size)) if file.isreg() else None)
                continue
            info = tarfile.TarInfo(file[0])
            info.size = len(file[1])
            tar.addfile(info, io.BytesIO(file[1]))
    return path


def sample(key: str, label: int, number: int = 0) -> list[tuple[str, bytes]]:
    return [(f"{key}.png", picture(number)), (f"{key}.cls", str(label).encode())]


def of_kind(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "a.png"
    return info


def contents(pictures: TarShards) -> list[tuple[str, str, bytes]]:
    labels = pictures.labels.tolist()
    return [(pictures.name(i), pictures.identities[labels[i]], pictures.encoded(i)) for i in range(len(pictures))]


def files_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def fill(path: Path, some: list[tuple[bytes, str, int]], identities: list[str], shard: int = 10_000) -> None:
    with TarShardsWriter(path, identities, shard) as writer:
        for each in some[writer.written :]:
            writer.add(*each)


STRANGE = ["Ada", "J. K. Rowling", "../Жанна", "\udcff\udcfe", "x" * 300, 'a"b\\c/d', "7"]
FACES = [
    (picture(i, suffix), f"{STRANGE[i % 7]}/{i // 2}.a.b{suffix}", i % 7)
    for i, suffix in enumerate([".png", ".jpg", ".webp", ".bmp"] * 7)
]


def test_TarShardsWriter_round_trips_bit_for_bit(tmp_path: Path) -> None:
    fill(tmp_path / "shards", FACES, STRANGE, shard=5)
    assert files_in(tmp_path / "shards") == [f"{number:06d}.tar" for number in range(6)]
    pictures = open_pictures(tmp_path / "shards")
    assert isinstance(pictures, TarShards)
    assert contents(pictures) == [(name, STRANGE[label], encoded) for encoded, name, label in FACES]
    assert pictures.labels.dtype == np.int64
    assert list(pictures.identities) == STRANGE
    assert not pictures.faults
    assert pictures.picture(9)[50, 50, 0] == pytest.approx(9, abs=2)
    place = pictures._offsets[6]
    assert pictures.where(6) == f"{tmp_path / 'shards' / '000001.tar'}: {FACES[6][1]!r} at byte {place}"
    assert (tmp_path / "shards/000001.tar").read_bytes()[place:].startswith(FACES[6][0])
    for outside in (-1, 28):
        for method in (pictures.name, pictures.encoded, pictures.picture):
            with pytest.raises(IndexError):
                method(outside)


def test_TarShardsWriter_writes_the_same_bytes_each_time(tmp_path: Path) -> None:
    fill(tmp_path / "a", FACES, STRANGE)
    fill(tmp_path / "b.tar", FACES, STRANGE)
    assert (tmp_path / "a/000000.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_TarShardsWriter_writes_shards_that_webdataset_reads(tmp_path: Path) -> None:
    fill(tmp_path / "shards", FACES, STRANGE, shard=10)
    urls = str(tmp_path / "shards" / "{000000..000002}.tar")
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [each["__key__"] for each in found] == [f"{number:08d}" for number in range(28)]
    for each, (encoded, name, label) in zip(found, FACES, strict=True):
        assert each[Path(name).suffix[1:]] == encoded
        assert int(each["cls"]) == label
        assert json.loads(each["json"]) == {"label": label, "identity": STRANGE[label], "name": name}


def test_TarShards_reads_what_webdataset_writes(tmp_path: Path) -> None:
    with webdataset.ShardWriter(str(tmp_path / "train-%03d.tar"), maxcount=4, verbose=0) as writer:
        for number in range(10):
            writer.write({"__key__": f"people/{number:04d}", "png": picture(number), "cls": [40, 7, 300][number % 3]})
    expected = [(f"people/{n:04d}.png", str([40, 7, 300][n % 3]), picture(n)) for n in range(10)]
    for path in ("", "train-{000..002}.tar", "train-*.tar", "train-00[0-2].tar"):
        pictures = open_pictures(tmp_path / path)
        assert contents(pictures) == expected
        assert list(pictures.identities) == ["7", "40", "300"]
        assert pictures.labels.tolist()[:3] == [1, 0, 2]
    assert contents(open_pictures(tmp_path / "train-{001,002}.tar")) == expected[4:]
    assert contents(open_pictures(tmp_path / "train-002.tar")) == expected[8:]


@pytest.mark.parametrize(
    ("labels", "who"),
    [
        ([{"cls": b"3\n"}, {"cls": b"12"}], ["3", "12"]),
        ([{"json": b'{"label": 12, "identity": "Zoe"}'}, {"json": b'{"label": 3}'}], ["Zoe", "3"]),
        ([{"cls": b"1", "json": b'{"identity": "Zoe"}', "txt": b"a caption"}, {"cls": b"0"}], ["Zoe", "0"]),
        ([{"txt": b" 5 "}, {"txt": b"5"}], ["5", "5"]),
        ([{"txt": b"Zoe"}, {"txt": "Åsa\n".encode()}], ["Zoe", "Åsa"]),
        ([{"json": b'{"identity": "Zoe"}'}, {"json": b'{"identity": "Zoe"}'}], ["Zoe", "Zoe"]),
        ([{"cls": b"4", "json": b'{"label": 4, "identity": "Z"}'}, {"cls": b"4"}], ["Z", "Z"]),
        ([{"json": b'{"label": 4, "identity": "Z"}'}, {"json": b'{"label": 9, "identity": "Z"}'}], ["Z (4)", "Z (9)"]),
    ],
)
def test_TarShards_reads_labels_in_every_form(tmp_path: Path, labels: list[dict[str, bytes]], who: list[str]) -> None:
    files = [
        (f"{key}.{suffix}", data)
        for key, each in zip("ab", labels, strict=True)
        for suffix, data in {"JPG": picture(0, ".jpg"), **each}.items()
    ]
    pictures = TarShards(write(tmp_path / "x.tar", *files))
    assert [pictures.identities[label] for label in pictures.labels] == who
    assert [pictures.name(0), pictures.name(1)] == ["a.JPG", "b.JPG"]
    assert not pictures.faults


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ([("b.png", b"")], "has no label"),
        ([("b.cls", b"1")], "has no picture"),
        ([("b.c.png", b""), ("b.cls", b"1")], "has no picture but 'b.c.png'; a key ends at the first dot"),
        ([("b.png", b""), ("b.jpg", b""), ("b.cls", b"1")], "has 2 pictures"),
        ([("b.png", b""), ("b.PNG", b""), ("b.cls", b"1")], "has two files .png"),
        ([("b.png", b""), ("b.cls", b"one")], ".cls is not a whole number: 'one'"),
        ([("b.png", b""), ("b.cls", b"1_0")], ".cls is not a whole number: '1_0'"),
        ([("b.png", b""), ("b.cls", b"-1")], ".cls is not a whole number: '-1'"),
        ([("b.png", b""), ("b.cls", b"9" * 19)], f"the label {'9' * 19} is out of range"),
        ([("b.png", b""), ("b.cls", b"9" * 5000)], f".cls is not a whole number: '{'9' * 40}'"),
        ([("b.png", b""), ("b.cls", b"1" * (2**20 + 1))], "'b.cls' has 1,048,577 bytes, too many for a label"),
        ([("b.png", b""), ("b.cls", b"1"), ("b.json", b'{"label": 2}')], ".cls says 1, .json says 2"),
        ([("b.png", b""), ("b.json", b'{"label": 2.0}')], "\"label\" in .json is not a whole number: '2.0'"),
        ([("b.png", b""), ("b.json", b'{"label": true}')], "\"label\" in .json is not a whole number: 'True'"),
        ([("b.png", b""), ("b.json", b'{"label": -2}')], "the label -2 is out of range"),
        ([("b.png", b""), ("b.json", b'{"label": 2, "identity": 5}')], "invalid identity name: '5'"),
        ([("b.png", b""), ("b.json", b'{"label": 2, "name": 5}')], "\"name\" in .json is not a string: '5'"),
        ([("b.png", b""), ("b.json", b"[1]")], ".json is not an object"),
        ([("b.png", b""), ("b.json", b"{")], ".json is not valid: "),
        ([("b.png", b""), ("b.json", b"\xff")], ".json is not valid: "),
        ([("b.png", b""), ("b.json", b"[" * 100_000)], ".json is not valid: "),
        ([of_kind("b.png", tarfile.SYMTYPE), ("b.cls", b"1")], "'b.png' is a link"),
        ([of_kind("b.png", tarfile.LNKTYPE), ("b.cls", b"1")], "'b.png' is a hard link"),
        ([of_kind("b.png", tarfile.CHRTYPE), ("b.cls", b"1")], "'b.png' is a device"),
        ([of_kind("b.png", tarfile.FIFOTYPE), ("b.cls", b"1")], "'b.png' is a pipe"),
        ([of_kind("b.png", tarfile.GNUTYPE_SPARSE), ("b.cls", b"1")], "'b.png' is sparse"),
        ([of_kind("b.png", b"V"), ("b.cls", b"1")], "'b.png' is of the unknown kind 'V'"),
        ([("/b.png", b""), ("b.cls", b"1")], "'/b.png' leads out of the shard"),
        ([("x/../../b.png", b""), ("b.cls", b"1")], "'x/../../b.png' leads out of the shard"),
        ([("../b.png", b""), ("../b.cls", b"1")], "'../b.png' leads out of the shard"),
    ],
)
def test_TarShards_with_a_bad_sample_reads_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: list[object], fault: str
) -> None:
    path = write(tmp_path / "x.tar", *sample("a", 7, 1), *files, *sample("c", 9, 2))
    pictures = TarShards(path)
    assert [(name, encoded) for name, _, encoded in contents(pictures)] == [
        ("a.png", picture(1)),
        ("c.png", picture(2)),
    ]
    assert list(pictures.identities) == ["7", "9"]
    key = (files[0].name if isinstance(files[0], tarfile.TarInfo) else files[0][0]).partition(".png")[0]
    key = {"b.cls": "b", "b.c": "b"}.get(key, key)
    # Behind the first sample: headers, a picture in one block, a number in another.
    assert pictures.faults[0].startswith(f"{path}: sample {key!r} at byte {4 * 512}: {fault}")
    assert f"samples left out: {len(pictures.faults)}; the first: {pictures.faults[0]}" in capsys.readouterr().err
    with pytest.raises(DataError, match="holds no labelled pictures; the first fault: "):
        TarShards(write(tmp_path / "bad.tar", *files))


def test_TarShards_ignores_files_that_belong_to_no_sample(tmp_path: Path) -> None:
    others = [("README", b"x"), ("a.md", b"x"), (".hidden.png", b"x"), ("__notes__/x.json", b"x"), ("x/.y.png", b"")]
    folder = of_kind("folder.png", tarfile.DIRTYPE)
    path = write(tmp_path / "x.tar", *others, folder, *sample("./p/q", 3, 5), *others, *sample("p.d/r", 4, 6))
    pictures = TarShards(path)
    assert [name for name, _, _ in contents(pictures)] == ["p/q.png", "p.d/r.png"]
    assert pictures.picture(0)[5, 5, 0] == 5
    assert not pictures.faults


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_TarShards_reads_long_and_foreign_names_in_every_tar_format(tmp_path: Path, form: int) -> None:
    long = ["d" * 90 + "/" + "e" * 90] + ([] if form == tarfile.USTAR_FORMAT else ["f/" * 200 + "g", "Жанна/№"])
    files = [file for number, key in enumerate(long) for file in sample(key, number, number)]
    found = contents(TarShards(write(tmp_path / "x.tar", *files, form=form)))
    assert [name for name, _, _ in found] == [f"{key}.png" for key in long]
    assert [encoded for _, _, encoded in found] == [picture(number) for number in range(len(long))]


def pax(path: Path, global_records: dict[str, str], **records: str) -> Path:
    """A sample between two others, its picture with extended header records."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=global_records) as tar:
        for key in "abc":
            for name, data in sample(key, 1):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                if name == "b.png":
                    info.pax_headers = records
                tar.addfile(info, io.BytesIO(data))
    return path


def test_TarShards_reads_or_refuses_extended_headers(tmp_path: Path) -> None:
    harmless = TarShards(pax(tmp_path / "a.tar", {"comment": "x"}, mtime="1.5", LIBARCHIVE="y"))
    assert len(harmless) == 3
    with_size = TarShards(pax(tmp_path / "b.tar", {}, size=str(len(picture(0)))))
    assert len(with_size) == 3
    sparse = TarShards(pax(tmp_path / "c.tar", {}, **{"GNU.sparse.major": "1"}))
    assert [name for name, _, _ in contents(sparse)] == ["a.png", "c.png"]
    assert "sample 'b' at byte" in sparse.faults[0]
    assert sparse.faults[0].endswith("is sparse")
    bomb = TarShards(pax(tmp_path / "d.tar", {}, comment="x" * 2**21))
    assert [name for name, _, _ in contents(bomb)] == ["a.png", "c.png"]
    assert "its header has an extension of 2,097," in bomb.faults[0]
    with pytest.raises(DataError, match="gives all of its files one name or size"):
        TarShards(pax(tmp_path / "e.tar", {"path": "x.png"}))
    with pytest.raises(DataError, match="an extended header cannot be read"):
        TarShards(pax(tmp_path / "f.tar", {}, size="-5"))
    with pytest.raises(DataError, match=r"is cut short: 'b.png' has 99,999 bytes"):
        TarShards(pax(tmp_path / "g.tar", {}, size="99999"))


def test_TarShards_reads_a_size_written_as_a_binary_number(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", *sample("a", 1, 3))
    data = bytearray(path.read_bytes())
    size = len(picture(3))
    data[124:136] = b"\x80" + size.to_bytes(11, "big")
    repair(data)
    path.write_bytes(data)
    assert contents(TarShards(path)) == [("a.png", "1", picture(3))]


def repair(data: bytearray) -> None:
    """Make the checksum of the first header right."""
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: 4 * 512], r"at byte 2048: ends without the mark of its end, so it is cut short"),
        (lambda data: data[: 4 * 512 + 100], r"at byte 2048: ends without the mark"),
        (lambda data: data[: 5 * 512 + 9], r"at byte 2048: is cut short: 'b.png' has [0-9]+ bytes, 9 are there"),
        (lambda data: data[:2100] + b"#" + data[2101:], r"at byte 2048: is damaged: no header is where one should be"),
        (lambda data: data[:2172] + b"\xff" * 12 + data[2184:], r"at byte 2048: is damaged: no header"),
        (lambda data: data + data, r"has data after its end mark; split tars"),
        (lambda data: data + b"x", r"has data after its end mark"),
        (lambda data: gzip.compress(data), r"is compressed by gzip, which allows no random access; unpack it"),
        (lambda data: b"", r"x.tar: is not a tar file"),
        (lambda data: b"hello", r"x.tar: is not a tar file"),
        (lambda data: b"hello" * 1000, r"x.tar: is not a tar file"),
    ],
)
def test_TarShards_refuses_a_damaged_shard(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = write(tmp_path / "x.tar", *sample("a", 1), *sample("b", 2))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message) as raised:
        TarShards(path)
    assert str(path) in str(raised.value)


@given(st.data())
def test_TarShards_reads_or_refuses_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("any")
    form = data.draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    long = "" if form == tarfile.USTAR_FORMAT else "ß" * 120
    files = [*sample(f"{long}a", 1), ("b.png", picture(2)), ("b.json", b'{"label": 2}'), *sample("c", 3)]
    path = write(folder / "x.tar", *files, form=form)
    changed = bytearray(path.read_bytes()[:-4096])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    header = 512 * data.draw(st.integers(0, 8))
    block = changed[header : header + 512]
    if len(block) == 512 and data.draw(st.booleans()):  # a change that the checksum does not tell
        repair(block)
        changed[header : header + 512] = block
    path.write_bytes(changed[: data.draw(st.integers(0, len(changed)))] if data.draw(st.booleans()) else changed)
    try:
        pictures = TarShards(path)
    except DataError as error:
        if str(path) not in str(error):
            raise
        return
    for index in range(len(pictures)):
        assert 0 <= pictures.labels[index] < len(pictures.identities)
        pictures.encoded(index)
        pictures.where(index)


def test_TarShards_refuses_labels_and_names_that_disagree(tmp_path: Path) -> None:
    one = [("a.png", b""), ("a.json", b'{"label": 1, "identity": "Ada"}')]
    other = [("b.png", b""), ("b.json", b'{"label": 1, "identity": "Bob"}')]
    with pytest.raises(DataError, match=r"x.tar: the label 1 is called 'Bob', but earlier 'Ada'"):
        TarShards(write(tmp_path / "x.tar", *one, *other))
    named = [("b.png", b""), ("b.txt", b"Bob")]
    with pytest.raises(DataError, match=r"some samples have numbers for labels, others only names such as 'Bob'"):
        TarShards(write(tmp_path / "x.tar", *one, *named))


def test_TarShards_refuses_paths_without_readable_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train-000.tar", *sample("a", 1))
    for pattern, message in (
        ("train-{000..003}.tar", r"train-001.tar and 2 more of 4: no such file"),
        ("train-001.tar", "no tar files found"),
        ("train-1*.tar", "no tar files found"),
        ("train-{0.tar", "not a valid brace pattern"),
    ):
        with pytest.raises(DataError, match=message):
            open_pictures(tmp_path / pattern)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/x.tar.gz").write_bytes(gzip.compress((tmp_path / "train-000.tar").read_bytes()))
    with pytest.raises(DataError, match="is compressed by gzip, which allows no random access; unpack it"):
        open_pictures(tmp_path / "packed/x.tar.gz")
    with pytest.raises(DataError, match="the shards are compressed"):
        TarShards(tmp_path / "packed")
    monkeypatch.setitem(sys.modules, "braceexpand", None)
    with pytest.raises(MissingExtraError, match=r"vplface\[webdataset\]"):
        TarShards(tmp_path / "train-{000..000}.tar")
    assert len(TarShards(tmp_path / "train-000.tar")) == 1  # reading without a pattern needs nothing


def test_TarShards_detects_a_shard_changed_or_deleted_while_open(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", *sample("a", 1))
    pictures = TarShards(path)
    write(path, *sample("b", 2), *sample("c", 2))
    with pytest.raises(UnreadablePictureError, match=r"x.tar: 'a.png' at byte 512: the shard has changed since"):
        pictures.encoded(0)
    path.unlink()
    with pytest.raises(UnreadablePictureError, match=r"x.tar: 'a.png' at byte 512: No such file"):
        pictures.picture(0)


@pytest.mark.slow
@pytest.mark.parametrize("way", multiprocessing.get_all_start_methods())
def test_TarShards_reads_the_same_in_workers(tmp_path: Path, way: str) -> None:
    fill(tmp_path / "x", [(picture(number), f"{number}.png", 0) for number in range(6)], ["Ada"], shard=2)
    pictures = TarShards(tmp_path / "x")
    assert contents(pickle.loads(pickle.dumps(pictures))) == contents(pictures)
    if way == "forkserver":
        return  # as a spawned one, and slow to start
    pictures.encoded(0)
    with multiprocessing.get_context(way).Pool(1) as pool:
        assert pool.map(pictures.encoded, [1, 3, 5]) == [pictures.encoded(index) for index in (1, 3, 5)]


KILLED = """
import os, signal, sys
from pathlib import Path
from vplface.data.formats.tar_shards import TarShardsWriter
with TarShardsWriter(Path(sys.argv[1]), ["Ada"], 3) as writer:
    for number in range(8):
        writer.add(b"picture %d" % number, f"{number}.jpg", 0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_TarShardsWriter_resumes_after_the_last_whole_shard(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert subprocess.run([sys.executable, "-c", KILLED, path]).returncode == -signal.SIGKILL
    assert len(list(path.iterdir())) == 3  # the third has no name yet
    assert len(TarShards(path)) == 6
    faces = [(b"picture %d" % number, f"{number}.jpg", 0) for number in range(10)]
    with TarShardsWriter(path, ["Ada"], 3) as writer:
        assert writer.written == 6
        for face in faces[6:]:
            writer.add(*face)
        assert writer.written == 9
    fill(tmp_path / "whole", faces, ["Ada"], 3)
    assert [file.read_bytes() for file in sorted(path.iterdir())] == [
        file.read_bytes() for file in sorted((tmp_path / "whole").iterdir())
    ]


def test_TarShardsWriter_leaves_only_whole_shards_after_an_error(tmp_path: Path) -> None:
    some = [(b"", f"{number}.jpg", number // 3) for number in range(4)]
    with pytest.raises(DataError, match=r"'3.jpg' has the label 1, the identities are 0..0"):
        fill(tmp_path / "x", some, ["Ada"], shard=2)
    assert files_in(tmp_path / "x") == ["000000.tar"]


def test_TarShardsWriter_refuses_targets_that_hold_anything_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_bytes(b"")
    fill(tmp_path / "ada", FACES[:1], ["Ada"])
    fill(tmp_path / "one.tar", FACES[:1], ["Ada"])
    for name, identities, message in (
        ("file", ["Ada"], "is a file; give a folder, or a path that ends in .tar"),
        ("folder.tar", ["Ada"], "is a folder; a path that ends in .tar must be a file"),
        ("other", ["Ada"], "holds other files than the shards of an interrupted run"),
        ("ada", ["Bob"], "holds pictures of other identities"),
        ("ada", [], "holds pictures of other identities"),
    ):
        with pytest.raises(DataError, match=message):
            TarShardsWriter(tmp_path / name, identities)
    with TarShardsWriter(tmp_path / "one.tar", ["Ada"]) as writer:
        assert writer.written == 1
    with pytest.raises(DataError, match="is already complete"), writer:
        writer.add(*FACES[0])
    with TarShardsWriter(tmp_path / "new", ["Ada"]) as writer:
        assert writer.written == 0


def test_TarShardsWriter_closes_a_shard_at_SHARD_BYTES(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_shards, "SHARD_BYTES", 5000)
    fill(tmp_path / "x", [(bytes(2000), f"{number}", 0) for number in range(7)], ["Ada"])
    assert len(files_in(tmp_path / "x")) == 3


def test_TarShards_gives_load_batches_the_same_pictures_as_ImageFolder(tmp_path: Path, faces: Path) -> None:
    from vplface.data.batches import load_batches
    from vplface.data.formats.image_folder import ImageFolder
    from vplface.data.samplers import ShuffledBatches

    folder = ImageFolder(faces)
    some = [(folder.encoded(i), folder.name(i), int(folder.labels[i])) for i in range(len(folder))]
    fill(tmp_path / "x", some, list(folder.identities), shard=20)
    order = ShuffledBatches(48, 16, 0)
    for one, other in zip(
        load_batches(folder, order, None, 0, 0, 3, 2),
        load_batches(TarShards(tmp_path / "x"), order, None, 0, 0, 3, 2),
        strict=True,
    ):
        assert np.array_equal(one.pictures, other.pictures)
        assert np.array_equal(one.labels, other.labels)


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..999999999}.tar",
        "{000..999999999}.tar",
        "a-{0..99999}-{0..9}.tar",
        "{{0..99999},{0..99999}}.tar",
        "{1..9}" * 9,
        "{a..z}" * 9,
        "{a,b}" * 30,
        "{a,{b,{c..z}}}" * 12,
        f"{{{10**20}..{10**40}}}.tar",
    ],
)
def test_TarShards_refuses_patterns_for_more_than_100000_shards(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(DataError, match=r"expands to more than 100,000 shards"):
        TarShards(tmp_path / pattern)


def in_a_row_or_in_braces(inner):
    parts = st.lists(inner, min_size=2, max_size=3)
    return st.one_of(parts.map("".join), parts.map(lambda some: "{" + ",".join(some) + "}"))


patterns = st.recursive(
    st.sampled_from(["a", "{1..3}", "{03..1}", "{a..d}", "{5..9..2}"]), in_a_row_or_in_braces, max_leaves=6
)


@given(patterns)
def test_count_of_equals_the_number_of_expanded_names(pattern: str) -> None:
    assert _count_of(pattern) == len(list(braceexpand(pattern)))


def test_TarShards_omits_samples_with_deep_or_overlong_json_values(tmp_path: Path) -> None:
    values = [b"[" * 400 + b"]" * 400, b"9" * 5000, b'"\xff"', b"[" * 100_000]
    samples = [
        [(f"{k}.png", picture(k)), (f"{k}.json", b'{"label": ' + value + b"}")] for k, value in enumerate(values)
    ]
    pictures = TarShards(write(tmp_path / "x.tar", *sample("a", 3), *[file for each in samples for file in each]))
    assert len(pictures) == 1
    assert len(pictures.faults) == 4
    assert all("json" in fault for fault in pictures.faults)
    for key in ("identity", "name"):
        deep = b'{"label": 1, "' + key.encode() + b'": ' + b"[" * 400 + b"]" * 400 + b"}"
        files = [("b.png", picture(1)), ("b.json", deep)]
        assert "list" in TarShards(write(tmp_path / f"{key}.tar", *sample("a", 3), *files)).faults[0]


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_TarShards_refuses_pipes_and_devices(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", *sample("a", 3))
    pictures = TarShards(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UnreadablePictureError, match="not a regular file"):
        pictures.encoded(0)
    with pytest.raises(DataError, match="not a regular file"):
        TarShards(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match="not a regular file"):
        TarShards(path)
