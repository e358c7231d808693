"""Generated faces on disk: resuming, refused settings, errors that say what to do; and balanced pairs."""

from __future__ import annotations

import errno
import json
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vplface.data.balanced import balanced_pairs
from vplface.data.synthetic_folder import write_synthetic
from vplface.errors import DataError
from vplface.files import claimed
from vplface_synthetic import SyntheticFaces


def _files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_write_synthetic_writes_the_rendered_pictures(tmp_path):
    faces = SyntheticFaces(2, 3, label_noise=0.5)
    assert write_synthetic(tmp_path / "new" / "faces", faces) == 6
    for k in range(6):
        stored = cv2.imread(str(tmp_path / "new" / "faces" / faces.name(k)))[:, :, ::-1]
        np.testing.assert_array_equal(stored, faces.picture(k))
    record = json.loads((tmp_path / "new" / "faces" / "synth.json").read_text())
    assert record["options"]["label_noise"] == 0.5
    assert set(record["mislabelled"]) == {faces.name(int(k)) for k in np.flatnonzero(faces.mislabelled)}


def test_write_synthetic_writes_the_same_files_with_worker_processes(tmp_path):
    faces = SyntheticFaces(3, 30)
    write_synthetic(tmp_path / "one", faces, workers=0)
    write_synthetic(tmp_path / "two", faces, workers=2)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


def test_write_synthetic_waits_while_another_command_writes_the_folder(tmp_path):
    faces = SyntheticFaces(2, 3)
    written = []
    other = threading.Thread(target=lambda: written.append(write_synthetic(tmp_path / "faces", faces)))
    with claimed(tmp_path / "faces"):
        other.start()
        time.sleep(0.3)
        assert other.is_alive()
        assert not (tmp_path / "faces").exists()
    other.join(30)
    assert written == [6]


def test_write_synthetic_completes_a_stopped_run_and_keeps_existing_files(tmp_path):
    faces = SyntheticFaces(3, 3)
    write_synthetic(tmp_path, faces)
    whole = _files(tmp_path)
    (tmp_path / faces.name(4)).unlink()
    (tmp_path / "id_00001" / ".0001.png.part").write_bytes(b"half a pict")
    (tmp_path / faces.name(5)).write_bytes(b"kept as it is")
    assert write_synthetic(tmp_path, faces) == 1
    assert _files(tmp_path) == {**whole, faces.name(5): b"kept as it is"}


def test_write_synthetic_refuses_to_resume_with_other_settings(tmp_path):
    write_synthetic(tmp_path, SyntheticFaces(2, 2))
    with pytest.raises(DataError, match=r"synth.json.*other settings.*seed 0, now 1"):
        write_synthetic(tmp_path, SyntheticFaces(2, 2, seed=1))
    with pytest.raises(DataError, match=r"format 'png', now 'jpg'"):
        write_synthetic(tmp_path, SyntheticFaces(2, 2), "jpg")
    (tmp_path / "synth.json").write_text("{")
    with pytest.raises(DataError, match="not a record"):
        write_synthetic(tmp_path, SyntheticFaces(2, 2))


def test_write_synthetic_refuses_a_folder_with_other_files(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match="holds other files"):
        write_synthetic(tmp_path, SyntheticFaces(1, 1))
    assert _files(tmp_path) == {"holiday.jpg": b"mine"}


def test_write_synthetic_names_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"file.*cannot be written"):
        write_synthetic(tmp_path / "file" / "faces", SyntheticFaces(1, 1))


def test_write_synthetic_reports_a_full_disk_and_how_to_resume(tmp_path, monkeypatch):
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    write_synthetic(tmp_path, SyntheticFaces(1, 1))
    (tmp_path / "id_00000" / "0000.png").unlink()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match=r"No space left on device.*repeat the command"):
        write_synthetic(tmp_path, SyntheticFaces(1, 1))


def test_write_synthetic_writes_jpeg_files_close_to_the_rendered_pictures(tmp_path):
    faces = SyntheticFaces(1, 2)
    write_synthetic(tmp_path, faces, "jpg")
    stored = cv2.imread(str(tmp_path / "id_00000" / "0001.jpg"))[:, :, ::-1]
    assert np.abs(stored.astype(float) - faces.picture(1)).mean() < 6


class _Labels:
    """A picture set without pictures."""

    def __init__(self, sizes: list[int]) -> None:
        self.identities = [f"p{k}" for k in range(len(sizes))]
        self.labels = np.repeat(np.arange(len(sizes)), sizes)

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, index: int):
        raise NotImplementedError

    def name(self, index: int) -> str:
        return f"p{self.labels[index]}/{index}.png"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 6), min_size=20, max_size=40), st.integers(0, 2**31), st.integers(1, 3))
def test_balanced_pairs_are_balanced_distinct_and_share_no_person_between_folds(sizes, seed, half):
    try:
        pairs = balanced_pairs(_Labels(sizes), 20 * half, seed)
    except DataError:
        assert half > 2  # ten folds of at least two people with two pictures each hold two pairs of either kind
        return
    assert len(pairs) == 20 * half
    assert (np.bincount(pairs.fold, weights=pairs.same, minlength=10) == half).all()
    assert (np.bincount(pairs.fold, minlength=10) == 2 * half).all()
    folds: dict[str, set[int]] = {}
    for left, right, same, fold in zip(pairs.left, pairs.right, pairs.same, pairs.fold, strict=True):
        assert left != right
        assert (left.split("/")[0] == right.split("/")[0]) == same
        for name in (left, right):
            folds.setdefault(name.split("/")[0], set()).add(int(fold))
    assert all(len(where) == 1 for where in folds.values())
    assert len({frozenset(pair) for pair in zip(pairs.left, pairs.right, strict=True)}) == len(pairs)


def test_balanced_pairs_depend_on_the_seed_alone():
    faces = _Labels([5] * 30)
    one, again, other = (balanced_pairs(faces, 200, seed) for seed in (1, 1, 2))
    assert (one.left, one.right) == (again.left, again.right)
    assert one.left != other.left


def test_balanced_pairs_refuses_too_few_pictures_and_counts_them():
    with pytest.raises(DataError, match="20 identities with 40 pictures are too few for 2000"):
        balanced_pairs(_Labels([2] * 20), 2000)
    with pytest.raises(ValueError, match="multiple"):
        balanced_pairs(_Labels([2] * 20), 30)
