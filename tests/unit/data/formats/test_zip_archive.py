from __future__ import annotations

import bz2
import os
import pickle
import stat
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest

from vplface.data.batches import load_all
from vplface.data.formats import open_pictures
from vplface.data.formats.zip_archive import MOST_BYTES, ZipArchive
from vplface.data.pictures import UnreadablePictureError
from vplface.errors import DataError

from .test_image_folder import fill, names
from .test_parquet import in_little_memory


def packed(folder: Path, *members: str, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive with a picture for each name; its red is the number of the name."""
    fill(folder / "in", *members)
    path = folder / "x.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for member in members:
            archive.write(folder / "in" / member, member)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_ZipArchive_takes_the_folder_of_a_picture_as_its_identity(tmp_path: Path, method: int) -> None:
    members = (
        "set/p10/a.png",
        "set/p9/10.png",
        "set/p9/9.png",
        "set/p9/deep/x.bmp",
        "set/.h/x.png",
        "__MACOSX/y/z.png",
    )
    pictures = open_pictures(packed(tmp_path, *members, method=method))
    assert names(pictures) == ["p9/9.png", "p9/10.png", "p9/deep/x.bmp", "p10/a.png"]
    assert list(pictures.identities) == ["p9", "p9/deep", "p10"]
    assert pictures.labels.tolist() == [0, 0, 1, 2]
    assert [int(pictures.picture(k)[50, 50, 0]) for k in range(4)] == [2, 1, 3, 0]
    assert pictures.encoded(3) == (tmp_path / "in/set/p10/a.png").read_bytes()
    assert pictures.where(3) == f"{tmp_path}/x.zip: set/p10/a.png"
    with pytest.raises(IndexError):
        pictures.name(4)


def test_ZipArchive_keeps_the_name_of_a_single_identity(tmp_path: Path) -> None:
    assert names(ZipArchive(packed(tmp_path, "set/ada/1.png", "set/ada/2.png"))) == ["ada/1.png", "ada/2.png"]


def test_ZipArchive_selects_a_split_by_its_top_folder(tmp_path: Path) -> None:
    path = packed(tmp_path, "train/x/1.png", "train/y/1.png", "test/x/1.png", "test/z/1.png")
    assert list(open_pictures(path).identities) == ["test/x", "test/z", "train/x", "train/y"]
    chosen = open_pictures(path, "train")
    assert names(chosen) == ["x/1.png", "y/1.png"]
    assert [int(chosen.picture(k)[50, 50, 0]) for k in range(2)] == [0, 1]
    with pytest.raises(DataError, match=r"x\.zip: no split 'tain'; the folders at the top are test, train"):
        open_pictures(path, "tain")


def test_ZipArchive_reads_the_same_in_workers_and_pickled_copies(tmp_path: Path) -> None:
    pictures = ZipArchive(packed(tmp_path, *(f"{label}/{k}.png" for label in "ab" for k in range(40))))
    pictures.encoded(0)  # opens the archive before the workers are forked
    for workers in (0, 2):
        reds = [int(red) for batch in load_all(pictures, range(80), 4, workers) for red in batch.pictures[:, 5, 5, 0]]
        assert reds == list(range(80))
    assert pickle.loads(pickle.dumps(pictures)).encoded(7) == pictures.encoded(7)


def test_ZipArchive_refuses_absent_damaged_and_wrongly_laid_out_archives(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.zip: does not exist"):
        open_pictures(tmp_path / "none.zip")
    (tmp_path / "bad.zip").write_bytes(b"PK\3\4 and so on")
    with pytest.raises(DataError, match=r"bad\.zip: not a complete \.zip file"):
        open_pictures(tmp_path / "bad.zip")
    for member, fault in (("a.txt/x", "holds no pictures"), ("../a/x.png", "leads out"), ("/a/x.png", "leads out")):
        with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
            archive.writestr(member, b"x")
        with pytest.raises(DataError, match=fault):
            open_pictures(tmp_path / "y.zip")
    with pytest.raises(
        DataError, match=r"'stray\.png' is not in an identity's folder; expected FOLDERS/IDENTITY/PICTURE"
    ):
        open_pictures(packed(tmp_path, "stray.png", "a/1.png"))


def test_ZipArchive_with_unreadable_pictures_reads_the_others(tmp_path: Path) -> None:
    path = packed(tmp_path, *(f"a/{k}.png" for k in range(4)), method=zipfile.ZIP_STORED)
    with zipfile.ZipFile(path) as archive:
        at = {info.filename: info.header_offset for info in archive.infolist()}
    data = bytearray(path.read_bytes())
    data[at["a/1.png"] + 60] ^= 0xFF  # in the picture: the checksum is wrong
    directory = data.index(b"PK\1\2")
    entries = [directory := data.index(b"PK\1\2", directory + bool(k)) for k in range(4)]
    data[entries[2] + 8] |= 1  # encrypted
    data[entries[3] + 24 : entries[3] + 28] = (MOST_BYTES + 1).to_bytes(4, "little")
    path.write_bytes(data)
    pictures = ZipArchive(path)
    assert pictures.picture(0).shape == (112, 112, 3)
    for index, fault in ((1, "Bad CRC-32"), (2, "is encrypted"), (3, "claims to unpack to 268,435,457 bytes")):
        with pytest.raises(UnreadablePictureError, match=fault) as caught:
            pictures.picture(index)
        assert caught.value.where == f"{path}: a/{index}.png"


def test_ZipArchive_names_an_archive_truncated_after_pickling(tmp_path: Path) -> None:
    path = packed(tmp_path, "a/1.png", "b/1.png")
    pictures = pickle.loads(pickle.dumps(ZipArchive(path)))
    os.truncate(path, 30)
    with pytest.raises(DataError, match=r"x\.zip: not a complete \.zip file"):
        pictures.encoded(0)


def written(path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # that a name is there twice
        for name, content in entries:
            archive.writestr(name, content)
    return path


def stored(path: Path, name: bytes, content: bytes, method: int, size: int, flags: int = 0) -> Path:
    """An archive of one file, built by hand."""
    common = struct.pack("<HHHHHIIIHH", 20, flags, method, 0, 33, zlib.crc32(content), len(content), size, len(name), 0)
    local = b"PK\3\4" + common + name + content
    directory = b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(directory), len(local), 0)
    path.write_bytes(local + directory + end)
    return path


def test_ZipArchive_reads_archives_made_on_windows(tmp_path: Path) -> None:
    path = written(
        tmp_path / "x.zip",
        (r"set\p10\1.png", b"10"),
        (r"set\p9\1.png", b"9"),
        (r"set\p9\Thumbs.db", b""),
        ("set/p9/2.png", b"9b"),
    )
    pictures = open_pictures(path)
    assert names(pictures) == ["p9/1.png", "p9/2.png", "p10/1.png"]
    assert [pictures.encoded(k) for k in range(3)] == [b"9", b"9b", b"10"]


@pytest.mark.parametrize(
    "name", ["/a/x.png", "../a/x.png", "a/../../x.png", r"..\a\x.png", r"C:\a\x.png", r"\\h\a\x.png"]
)
def test_ZipArchive_refuses_names_that_lead_out_of_the_archive(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"x\.zip: .* leads out of the archive"):
        open_pictures(written(tmp_path / "x.zip", (name, b"1"), ("a/b.png", b"2")))


def test_ZipArchive_refuses_pictures_at_the_top(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'1\.png' is not in an identity's folder; .* at the top of the archive: 12"):
        open_pictures(
            written(tmp_path / "x.zip", *((f"{k}.png", b"1") for k in range(1, 13)), ("__MACOSX/._1.png", b""))
        )
    apart = written(
        tmp_path / "y.zip", ("a/1.png", b"1"), (".DS_Store", b""), ("__MACOSX/a/._1.png", b""), ("b/1.png", b"2")
    )
    assert names(open_pictures(apart)) == ["a/1.png", "b/1.png"]


def test_ZipArchive_counts_files_that_are_left_out(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/link.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    device = zipfile.ZipInfo("a/device.png")
    device.create_system, device.external_attr = 3, (stat.S_IFCHR | 0o777) << 16
    heic = [("a/2.heic", b"h"), ("b/1.HEIC", b"h"), ("b/readme.txt", b"t")]
    path = written(tmp_path / "x.zip", ("a/1.png", b"1"), *heic, (link, b"/dev/zero"), (device, b""))
    pictures = open_pictures(path)
    assert names(pictures) == ["a/1.png"]
    assert pictures.left_out.kinds == {".heic": 2}
    assert list(pictures.left_out.irregular) == ["a/link.png", "a/device.png"]
    assert list(pictures.left_out.people) == ["b"]
    with pytest.raises(DataError, match=r"holds no pictures, but 2 files of unsupported formats"):
        open_pictures(written(tmp_path / "y.zip", ("a/2.heic", b"h"), ("b/1.HEIC", b"h")))


def test_ZipArchive_merges_equal_duplicates_and_refuses_different_ones(tmp_path: Path) -> None:
    assert names(open_pictures(written(tmp_path / "x.zip", ("a/1.png", b"1"), ("a/1.png", b"1")))) == ["a/1.png"]
    for other in ("a/1.png", r"a\1.png"):
        with pytest.raises(DataError, match=r"holds two different files 'a/1\.png'"):
            open_pictures(written(tmp_path / "x.zip", ("a/1.png", b"1"), (other, b"2")))


@pytest.mark.parametrize(
    ("method", "flags", "reason"),
    [
        (9, 0, "packed by deflate64, which is not supported"),
        (93, 0, "packed by zstd"),
        (95, 0, "packed by xz"),
        (98, 0, "packed by ppmd"),
        (99, 1, "encrypted"),
        (8, 1, "encrypted"),
        (200, 0, "packed by the method 200"),
    ],
)
def test_ZipArchive_names_unsupported_compression_and_encryption(
    tmp_path: Path, method: int, flags: int, reason: str
) -> None:
    with pytest.raises(DataError, match=rf"x\.zip: every picture is {reason}"):
        open_pictures(stored(tmp_path / "x.zip", b"a/1.png", b"1", method, 1, flags))


@pytest.mark.parametrize("method", [0, 8, 12, 14])
def test_ZipArchive_encoded_raises_UnreadablePictureError_for_a_damaged_stream(tmp_path: Path, method: int) -> None:
    for content in (b"no such stream" * 9, b"", b"\x09\x04\x05\x00]\0\0\0\4" + b"\xff" * 40, b"BZh9" + bytes(40)):
        pictures = open_pictures(stored(tmp_path / "x.zip", b"a/1.png", content, method, len(content) + 7))
        with pytest.raises(UnreadablePictureError, match=r"x\.zip: a/1\.png: "):
            pictures.encoded(0)


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize("claimed", [10, 2**26])
@pytest.mark.parametrize("method", [8, 12])
def test_ZipArchive_encoded_of_a_zip_bomb_needs_little_memory(tmp_path: Path, method: int, claimed: int) -> None:
    bomb = bz2.compress(bytes(2**24)) * 64 if method == 12 else deflated(bytes(2**27)) + b"more"
    pictures = open_pictures(stored(tmp_path / "x.zip", b"a/1.png", bomb, method, claimed))

    def read() -> None:
        with pytest.raises(UnreadablePictureError, match="Bad CRC-32"):
            pictures.encoded(0)

    in_little_memory(read)


def test_ZipArchive_refuses_overlapping_files(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zip", *((f"a/{k}.png", b"%d" % k * 99) for k in range(3)))
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    for patch in (0, 10, len(data)):
        data[entry + 42 : entry + 46] = patch.to_bytes(4, "little")
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"x\.zip: 'a/\d\.png' overlaps the entry after it"):
            open_pictures(path)


def test_ZipArchive_refuses_false_zip64_sizes_and_names_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    for huge in (2**40, 2**63, 2**64 - 1):
        end64 = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, huge, huge)
        locator = b"PK\6\7" + struct.pack("<IQI", 0, 0, 1)
        end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
        path.write_bytes(end64 + locator + end)
        with pytest.raises(DataError, match=r"x\.zip: not a complete \.zip file"):
            open_pictures(path)
    with pytest.raises(DataError, match=r"x\.zip: not a complete \.zip file .*utf-8"):
        open_pictures(stored(path, b"a/\xff.png", b"1", 0, 1, 0x800))
    assert names(open_pictures(stored(path, b"a/\xff.png", b"1", 0, 1))) == ["a/\u00a0.png"]  # the old code page


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_ZipArchive_refuses_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.zip")
    with pytest.raises(DataError, match="not a regular file"):
        open_pictures(tmp_path / "x.zip")


def test_ZipArchive_encoded_names_an_archive_truncated_while_open(tmp_path: Path) -> None:
    pictures = open_pictures(path := packed(tmp_path, *(f"a/{k}.png" for k in range(9)), method=zipfile.ZIP_STORED))
    os.truncate(path, 100)
    with pytest.raises(UnreadablePictureError, match=r"x\.zip: a/8\.png: .*has changed since it was opened"):
        pictures.encoded(8)


def test_ZipArchive_refuses_an_archive_without_entries(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    with pytest.raises(DataError, match="holds no pictures"):
        open_pictures(tmp_path / "a.zip")
