from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest

from vplface.data.batches import load_all
from vplface.data.formats import open_pictures
from vplface.data.formats.zip_archive import MOST_BYTES, ZipArchive
from vplface.data.pictures import UnreadablePictureError
from vplface.errors import DataError

from .test_image_folder import fill, names


def packed(folder: Path, *members: str, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive with a picture for each name; its red is the number of the name."""
    fill(folder / "in", *members)
    path = folder / "x.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for member in members:
            archive.write(folder / "in" / member, member)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_identity_is_the_folder_that_holds_its_pictures(tmp_path: Path, method: int) -> None:
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


def test_one_identity_keeps_its_name(tmp_path: Path) -> None:
    assert names(ZipArchive(packed(tmp_path, "set/ada/1.png", "set/ada/2.png"))) == ["ada/1.png", "ada/2.png"]


def test_a_split_is_a_folder_at_the_top(tmp_path: Path) -> None:
    path = packed(tmp_path, "train/x/1.png", "train/y/1.png", "test/x/1.png", "test/z/1.png")
    assert list(open_pictures(path).identities) == ["test/x", "test/z", "train/x", "train/y"]
    chosen = open_pictures(path, "train")
    assert names(chosen) == ["x/1.png", "y/1.png"]
    assert [int(chosen.picture(k)[50, 50, 0]) for k in range(2)] == [0, 1]
    with pytest.raises(DataError, match=r"x\.zip: no split 'tain'; the folders at the top are test, train"):
        open_pictures(path, "tain")


def test_workers_and_copies_read_at_places_of_their_own(tmp_path: Path) -> None:
    pictures = ZipArchive(packed(tmp_path, *(f"{label}/{k}.png" for label in "ab" for k in range(40))))
    pictures.encoded(0)  # opens the archive before the workers are forked
    for workers in (0, 2):
        reds = [int(red) for batch in load_all(pictures, range(80), 4, workers) for red in batch.pictures[:, 5, 5, 0]]
        assert reds == list(range(80))
    assert pickle.loads(pickle.dumps(pictures)).encoded(7) == pictures.encoded(7)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.zip: does not exist"):
        open_pictures(tmp_path / "none.zip")
    (tmp_path / "bad.zip").write_bytes(b"PK\3\4 and so on")
    with pytest.raises(DataError, match=r"bad\.zip: no whole \.zip file"):
        open_pictures(tmp_path / "bad.zip")
    for member, fault in (("a.txt/x", "holds no pictures"), ("../a/x.png", "leads out"), ("/a/x.png", "leads out")):
        with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
            archive.writestr(member, b"x")
        with pytest.raises(DataError, match=fault):
            open_pictures(tmp_path / "y.zip")
    with pytest.raises(
        DataError, match=r"'stray\.png' lies in no identity's folder; expected FOLDERS/IDENTITY/PICTURE"
    ):
        open_pictures(packed(tmp_path, "stray.png", "a/1.png"))


def test_a_picture_that_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
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


def test_an_archive_that_goes_away_is_named(tmp_path: Path) -> None:
    path = packed(tmp_path, "a/1.png", "b/1.png")
    pictures = pickle.loads(pickle.dumps(ZipArchive(path)))
    os.truncate(path, 30)
    with pytest.raises(DataError, match=r"x\.zip: no whole \.zip file"):
        pictures.encoded(0)
