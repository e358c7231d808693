"""The folder scan of all commands: which pictures it finds, what it leaves out and reports, what it refuses."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vplface.cli import app as cli
from vplface.cli.picture_files import picture_files
from vplface.config import Source
from vplface.data.align.folder import _scan
from vplface.data.folder_scan import LeftOut, find_pictures, identity_key, natural_key
from vplface.data.formats.image_folder import ImageFolder
from vplface.errors import DataError
from vplface.training.sources import open_source

from .formats.test_image_folder import fill, names


def vplface(*words: object):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A folder with everything that commands might treat differently."""
    root = fill(
        tmp_path / "people", "b/10.png", "b/2.PNG", "b/.hidden.png", "b/.thumbs/1.png", "b b/1.png", ".cache/x/1.png",
        "a/deep/er/1.webp", "a/folder.jpg/1.png",
    )  # fmt: skip
    fill(tmp_path, "elsewhere/1.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "a/linked.png").symlink_to(tmp_path / "elsewhere/1.png")
    (root / "a/round").symlink_to(root)
    (root / "b/again").symlink_to(root / "b")
    return root


def test_ImageFolder_picture_files_and_the_scan_of_align_folder_find_the_same_pictures(people: Path) -> None:
    expected = [
        "a/deep/er/1.webp", "a/folder.jpg/1.png", "a/linked.png", "b/2.PNG", "b/10.png", "b b/1.png", "linked/1.png",
    ]  # fmt: skip
    assert names(ImageFolder(people)) == expected
    assert picture_files([people])[0] == [people / name for name in expected]
    assert _scan(people)[0] == expected


def test_ImageFolder_counts_unsupported_files_and_people_without_supported_pictures(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", "ada/1.jpg")
    for name in ("ada/2.HEIC", "grace/1.heic", "joan/1.tif", "ada/notes.txt", "nobody/notes.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    pictures = ImageFolder(root)
    assert pictures.left_out == LeftOut({".heic": 2, ".tif": 1}, [], ["grace", "joan"])
    told = (
        "3 files of unsupported formats were left out: 2 .heic, 1 .tif; convert them to JPEG. 2 people have no "
        "other pictures: 'grace', 'joan'"
    )
    assert str(pictures.left_out) == told
    assert list(pictures.identities) == ["ada"]
    assert f"note: {told}" in vplface("data", "info", root).stdout
    assert f"note: {told}" in vplface("data", "check", root, "--workers", 0).stdout
    assert f"note: {told}" in vplface("data", "convert", root, tmp_path / "set.rec").stderr


def test_open_source_reports_files_that_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill(tmp_path / "root", "ada/1.jpg", "grace/1.jpg")
    (root / "grace/2.avif").write_bytes(b"x")
    open_source(Source(path=root), write=False)
    assert "root: 1 file of an unsupported format was left out: 1 .avif; convert it to JPEG" in capsys.readouterr().err


def test_ImageFolder_and_the_scan_of_align_folder_refuse_folders_without_supported_pictures(tmp_path: Path) -> None:
    (tmp_path / "root/ada").mkdir(parents=True)
    (tmp_path / "root/ada/1.heic").write_bytes(b"x")
    for reader in (ImageFolder, _scan):
        with pytest.raises(DataError, match=r"holds no pictures.*, but 1 file of an unsupported format.*1 \.heic"):
            reader(tmp_path / "root")
    (tmp_path / "root/ada/1.heic").rename(tmp_path / "root/ada/notes.txt")
    with pytest.raises(DataError, match=r"holds no pictures, but 1 \.txt"):
        ImageFolder(tmp_path / "root")


def test_ImageFolder_omits_and_counts_pipes_devices_and_broken_links(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", "ada/1.jpg")
    (root / "joan").mkdir()
    os.mkfifo(root / "ada/pipe.jpg")
    (root / "ada/random.jpg").symlink_to("/dev/urandom")
    (root / "joan/1.jpg").symlink_to("nowhere.jpg")
    (root / "away").symlink_to("nowhere")
    left_out = ImageFolder(root).left_out
    assert sorted(left_out.irregular) == ["ada/pipe.jpg", "ada/random.jpg", "away", "joan/1.jpg"]
    assert left_out.people == ["joan"]
    assert str(left_out).startswith("4 entries that are not regular files were left out (broken link, pipe ")


def test_ImageFolder_refuses_folders_that_link_to_one_another_in_too_many_ways(tmp_path: Path) -> None:
    for k in range(7):
        fill(tmp_path, f"root/{k}/1.png")
    for k in range(7):
        for other in range(7):
            if other != k:
                (tmp_path / f"root/{k}/{other}").symlink_to(tmp_path / f"root/{other}")
    with pytest.raises(DataError, match="links lead to this folder in more than 100 ways"):
        ImageFolder(tmp_path / "root")


def test_find_pictures_follows_a_link_to_a_parent_and_does_not_enter_the_folder_again(tmp_path: Path) -> None:
    root = fill(tmp_path / "outer/people", "a/1.png")
    fill(tmp_path, "outer/beside/2.png")
    (root / "a/up").symlink_to(tmp_path / "outer")
    (tmp_path / "alias").symlink_to(root)
    for folder in (root, tmp_path / "alias"):
        assert sorted(find_pictures(folder).pictures) == ["a/1.png", "a/up/beside/2.png"]


def test_find_pictures_descends_a_thousand_levels(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    made = [here]
    for _ in range(1100):
        os.mkdir("d", dir_fd=made[-1])
        made.append(os.open("d", os.O_RDONLY, dir_fd=made[-1]))
        if len(made) > 50:
            os.close(made.pop(0))
    os.close(os.open("1.png", os.O_CREAT | os.O_WRONLY, dir_fd=made[-1]))
    for handle in made:
        os.close(handle)
    try:
        assert find_pictures(tmp_path).pictures == ["d/" * 1100 + "1.png"]
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # shutil.rmtree is recursive


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_ImageFolder_picture_files_and_the_scan_of_align_folder_name_unreadable_folders(people: Path) -> None:
    (people / "b").chmod(0)
    try:
        for reader in (ImageFolder, _scan, lambda root: picture_files([root])):
            with pytest.raises(DataError, match="people/b: cannot be read: Permission denied"):
                reader(people)
    finally:
        (people / "b").chmod(0o755)


def test_natural_key_and_identity_key_order_numbers_of_any_length() -> None:
    long = "9" * 5000
    words = [f"1{long}.jpg", f"{long}.jpg", f"0{long}.jpg", "10.jpg", "2.jpg", "x" * 5000]
    assert sorted(words, key=natural_key) == [
        "2.jpg",
        "10.jpg",
        f"0{long}.jpg",
        f"{long}.jpg",
        f"1{long}.jpg",
        "x" * 5000,
    ]
    assert sorted(["b b/1", "b/2", "b/10", "1"], key=identity_key) == ["1", "b/2", "b/10", "b b/1"]
