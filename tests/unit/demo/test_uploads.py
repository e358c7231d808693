"""Uploads: read once, limited in size and number, and deleted; other files are left alone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from vplface.demo import uploads
from vplface.demo.uploads import delete_abandoned, periodic_cleanup, take_uploads
from vplface.errors import DataError


def put(folder: Path, hashed: str, name: str, data: bytes = b"x") -> str:
    path = folder / hashed / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_take_uploads_reads_each_file_and_deletes_it_with_its_folder(tmp_path):
    given = [put(tmp_path, "1", "a.png", b"one"), put(tmp_path, "2", "b.png", b"two")]
    assert take_uploads(given, tmp_path) == {Path("a.png"): b"one", Path("b.png"): b"two"}
    assert list(tmp_path.iterdir()) == []


def test_take_uploads_numbers_equal_file_names(tmp_path):
    given = [put(tmp_path, str(number), "a.png", bytes([number])) for number in range(3)]
    assert take_uploads(given, tmp_path) == {Path("a.png"): b"\0", Path("a (2).png"): b"\1", Path("a (3).png"): b"\2"}
    held = [Path("a.png"), Path("a (2).png")]
    assert take_uploads([put(tmp_path, "1", "a.png")], tmp_path, held) == {Path("a (3).png"): b"x"}


def test_take_uploads_refuses_and_deletes_uploads_that_are_too_large_or_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_PICTURE_BYTES", 3)
    assert take_uploads([put(tmp_path, "1", "a.png", b"123")], tmp_path) == {Path("a.png"): b"123"}
    with pytest.raises(DataError, match=r"b\.png: larger than"):
        take_uploads([put(tmp_path, "1", "b.png", b"1234"), put(tmp_path, "2", "c.png")], tmp_path)
    monkeypatch.setattr(uploads, "MAX_PICTURES", 2)
    with pytest.raises(DataError, match="3 pictures at once; upload at most 2"):
        take_uploads([put(tmp_path, str(number), "a.png") for number in range(3)], tmp_path)
    assert files(tmp_path) == []


def test_take_uploads_refuses_paths_outside_its_folder_and_deletes_nothing(tmp_path):
    folder, secret = tmp_path / "uploads", tmp_path / "secret.png"
    secret.write_bytes(b"s")
    inside = put(folder, "1", "a.png")
    (folder / "link.png").symlink_to(secret)
    (folder / "dir").symlink_to(tmp_path)
    for path in (
        secret, folder / ".." / "secret.png", folder / "link.png", folder / "dir" / "secret.png", folder, folder / "1",
        folder / "absent.png", "", "/etc/passwd",
    ):  # fmt: skip
        with pytest.raises(DataError, match="not a file that was uploaded here"):
            take_uploads([inside, str(path)], folder)
    assert secret.read_bytes() == b"s"
    assert Path(inside).read_bytes() == b"x"


def test_delete_abandoned_and_periodic_cleanup_delete_old_uploads(tmp_path, monkeypatch):
    old, new = (Path(put(tmp_path, "1", name)) for name in ("old.png", "new.png"))
    os.utime(old, (time.time() - 200,) * 2)
    (tmp_path / "link").symlink_to(tmp_path.parent)
    assert delete_abandoned(tmp_path, 120) == 1
    assert (old.exists(), new.exists()) == (False, True)
    monkeypatch.setattr(uploads, "_CLEANUP_INTERVAL", 0.01)
    monkeypatch.setattr(uploads, "_ABANDONED_AFTER", -1.0)
    with periodic_cleanup(tmp_path):
        end = time.monotonic() + 10
        while new.exists() and time.monotonic() < end:
            time.sleep(0.01)
    assert not new.exists()
