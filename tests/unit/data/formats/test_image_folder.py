from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.data.folder_scan import natural_key
from vplface.data.formats.image_folder import ImageFolder, ImageFolderWriter
from vplface.data.pictures import UnreadablePictureError
from vplface.errors import DataError


def fill(root: Path, *names: str) -> Path:
    """Write a picture for each name; its red is the number of the name."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = np.full((20, 20, 3), (0, 0, number), np.uint8)  # OpenCV writes BGR
        path.write_bytes(cv2.imencode(path.suffix.lower(), colour)[1].tobytes())
    return root


def names(pictures: ImageFolder) -> list[str]:
    return [pictures.name(index) for index in range(len(pictures))]


def test_ImageFolder_lists_identities_and_pictures_in_natural_order(tmp_path: Path) -> None:
    fill(tmp_path, "p10/a.png", "p9/10.png", "p9/9.png", "p9/1/x.bmp", "P1/z.WEBP", "p9/09.png")
    pictures = ImageFolder(tmp_path)
    assert list(pictures.identities) == ["P1", "p9", "p10"]
    assert names(pictures) == ["P1/z.WEBP", "p9/1/x.bmp", "p9/09.png", "p9/9.png", "p9/10.png", "p10/a.png"]
    assert pictures.labels.tolist() == [0, 1, 1, 1, 1, 2]
    assert pictures.labels.dtype == np.int64
    assert [int(pictures.picture(i)[50, 50, 0]) for i in (1, 2, 3, 4, 5)] == [3, 5, 2, 1, 0]
    assert pictures.picture(1).shape == (112, 112, 3)
    assert pictures.path(1) == tmp_path / "p9/1/x.bmp"
    for outside in (-1, 6):
        with pytest.raises(IndexError):
            pictures.name(outside)


def test_ImageFolder_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, *(f"p{i}/{j}.png" for i in range(5) for j in range(5)))
    expected = names(ImageFolder(tmp_path))
    scandir = os.scandir

    class Reversed:
        def __init__(self, path: Path) -> None:
            self.entries = sorted(scandir(path), key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Reversed)
    assert names(ImageFolder(tmp_path)) == expected


@given(st.permutations(["", "1", "01", "9", "10", "010", "a", "a1", "a1b", "a01b", "a10", "a9", "b2c3", "b2c10"]))
def test_natural_key_orders_every_permutation_the_same(words: list[str]) -> None:
    expected = ["", "01", "1", "9", "010", "10", "a", "a1", "a01b", "a1b", "a9", "a10", "b2c3", "b2c10"]
    assert sorted(words, key=natural_key) == expected


def test_ImageFolder_ignores_hidden_and_other_files(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", ".cache/1.png", "a/.2.png", "a/.thumbs/3.png")
    (tmp_path / "a/notes.txt").write_text("x")
    (tmp_path / "README").write_text("x")
    (tmp_path / "a/folder.jpg").mkdir()
    (tmp_path / "nobody").mkdir()
    pictures = ImageFolder(tmp_path)
    assert names(pictures) == ["a/1.png"]
    assert list(pictures.identities) == ["a"]


def test_ImageFolder_refuses_a_wrong_root_and_shows_the_expected_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: does not exist; expected ROOT/IDENTITY/PICTURE"):
        ImageFolder(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file: is not a folder; expected"):
        ImageFolder(tmp_path / "file")
    (tmp_path / "root/.hidden").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no identity folders; expected"):
        ImageFolder(tmp_path / "root")
    (tmp_path / "root/a").mkdir()
    with pytest.raises(DataError, match="holds no pictures; expected"):
        ImageFolder(tmp_path / "root")
    fill(tmp_path / "root", "2.jpg", "1.jpg")
    with pytest.raises(DataError, match=r"2 pictures lie directly in the root, such as '1\.jpg'; expected"):
        ImageFolder(tmp_path / "root")


def test_ImageFolder_follows_linked_folders_but_no_cycles(tmp_path: Path) -> None:
    fill(tmp_path, "elsewhere/x/1.png", "root/a/1.png")
    try:
        (tmp_path / "root/b").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere/x/up").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "root/a/self").symlink_to(tmp_path / "root/a")
        (tmp_path / "root/a/everybody").symlink_to(tmp_path / "root")
        (tmp_path / "root/a/itself").symlink_to("itself")
        (tmp_path / "root/itself").symlink_to("itself")
        (tmp_path / "root/a/itself.png").symlink_to("itself.png")
    except OSError:
        pytest.skip("this file system has no links")
    assert names(ImageFolder(tmp_path / "root")) == ["a/1.png", "b/x/1.png"]


def test_ImageFolder_reads_names_beyond_ascii_and_unicode(tmp_path: Path) -> None:
    fill(tmp_path, "Жанна/№ 1.png", "Åsa/1.png")
    undecodable = os.fsdecode(b"\xff.png")
    try:
        (tmp_path / "Åsa" / undecodable).write_bytes((tmp_path / "Åsa/1.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    pictures = ImageFolder(tmp_path)
    assert set(names(pictures)) == {"Жанна/№ 1.png", "Åsa/1.png", f"Åsa/{undecodable}"}
    for index in range(3):
        assert pictures.picture(index).shape == (112, 112, 3)


def test_ImageFolder_picture_names_the_path_of_an_unreadable_file(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "a/2.png")
    (tmp_path / "a/2.png").write_bytes(b"")
    pictures = ImageFolder(tmp_path)
    (tmp_path / "a/1.png").unlink()
    with pytest.raises(UnreadablePictureError, match=r"a/1\.png: No such file"):
        pictures.picture(0)
    with pytest.raises(UnreadablePictureError, match=r"a/2\.png: the file is empty"):
        pictures.picture(1)


def png(number: int = 0) -> bytes:
    return cv2.imencode(".png", np.full((20, 20, 3), number, np.uint8))[1].tobytes()


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_ImageFolderWriter_round_trips_bit_for_bit(tmp_path: Path) -> None:
    contents = [b"\xff\xd8\xff one", png(1), b"RIFF1234WEBPVP8 ", b"BM damaged", b"", b"no picture at all"]
    names = ["ada/1.JPG", "ada/session 1/2.png", "ada/3", "grace/4.dat", "5", "elsewhere/6.tar"]
    with ImageFolderWriter(tmp_path / "new" / "set", ["ada", "grace"]) as writer:
        for number, (encoded, name) in enumerate(zip(contents, names, strict=True)):
            assert writer.written == number
            writer.add(encoded, name, int(number > 2))
    assert files(tmp_path / "new" / "set") == {
        "ada/1.JPG": contents[0],
        "ada/session 1/2.png": contents[1],
        "ada/3.webp": contents[2],
        "grace/4.dat.bmp": contents[3],
        "grace/5.jpg": contents[4],
        "grace/elsewhere/6.tar.jpg": contents[5],
    }
    pictures = ImageFolder(tmp_path / "new" / "set")
    assert pictures.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert sorted(pictures.encoded(index) for index in range(6)) == sorted(contents)


@pytest.mark.parametrize(
    "name",
    [
        "../../out.png", "/etc/out.png", "..", "", ".", ".hidden.png", "a/../../b.png", "a//b.png", "\0.png",
        "a\nb.png", "..\\..\\out.png", "C:\\out.png", "NUL.png", "con", "x.png/y.png", "é" * 300 + ".png",
        "a/" * 50 + "b.png", "\udcff\udcfe.png", "x" * 300,
    ],
)  # fmt: skip
def test_ImageFolderWriter_keeps_hostile_names_inside_the_folder_and_visible(tmp_path: Path, name: str) -> None:
    for identity in ("ada", name):
        root = tmp_path / f"{identity == name}" / "set"
        with ImageFolderWriter(root, ["ada", identity]) as writer:
            writer.add(png(), name, 1)
            writer.add(png(1), name, 1)
        everything = [path for path in (tmp_path / f"{identity == name}").rglob("*") if path.is_file()]
        assert len(everything) == 2
        assert all(root in path.parents for path in everything)
        pictures = ImageFolder(root)
        assert len(pictures) == 2
        assert len(pictures.identities) == 1
        assert {pictures.encoded(0), pictures.encoded(1)} == {png(), png(1)}


def test_ImageFolderWriter_keeps_identities_and_pictures_of_one_name_apart(tmp_path: Path) -> None:
    identities = ["a/b", "a_b", "a\\b", "a_b (2)"]
    with ImageFolderWriter(tmp_path, identities) as writer:
        for label, identity in enumerate(identities):
            for copy in range(3):
                writer.add(png(10 * label + copy), f"{identity}/x.png", label)
    pictures = ImageFolder(tmp_path)
    assert len(pictures.identities) == 4
    colours = [[int(pictures.picture(i)[0, 0, 0]) for i in np.flatnonzero(pictures.labels == k)] for k in range(4)]
    assert sorted(map(sorted, colours)) == [[0, 1, 2], [10, 11, 12], [20, 21, 22], [30, 31, 32]]


@given(st.lists(st.tuples(st.text(max_size=12), st.text(alphabet="ab./\\ \0é(2)", max_size=8)), max_size=8))
def test_ImageFolderWriter_loses_no_picture_whatever_the_names(
    tmp_path_factory: pytest.TempPathFactory, entries
) -> None:
    root = tmp_path_factory.mktemp("set")
    identities = list(dict.fromkeys(identity for identity, _ in entries))
    with ImageFolderWriter(root, identities) as writer:
        for number, (identity, name) in enumerate(entries):
            writer.add(b"%d" % number, name, identities.index(identity))
    if entries:
        pictures = ImageFolder(root)
        own = [{int(pictures.encoded(i)) for i in np.flatnonzero(pictures.labels == k)}
               for k in range(len(pictures.identities))]  # fmt: skip
        expected = [{n for n, (identity, _) in enumerate(entries) if identity == each} for each in identities]
        assert sorted(own, key=min) == sorted(expected, key=min)


def test_ImageFolderWriter_continues_after_existing_pictures_and_leaves_no_part(tmp_path: Path) -> None:
    with ImageFolderWriter(tmp_path, ["ada"]) as writer:
        writer.add(png(0), "ada/x.png", 0)
        writer.add(png(1), "ada/x.png", 0)
    (tmp_path / ".part").write_bytes(b"torn")
    with ImageFolderWriter(tmp_path, ["ada"]) as writer:
        assert writer.written == 2
        writer.add(png(2), "ada/x.png", 0)
    assert files(tmp_path) == {"ada/x.png": png(0), "ada/x (2).png": png(1), "ada/x (3).png": png(2)}


def test_ImageFolderWriter_names_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"file/set.*cannot be written.*Not a directory"):
        ImageFolderWriter(tmp_path / "file" / "set", ["ada"])
