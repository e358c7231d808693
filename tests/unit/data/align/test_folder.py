"""Aligning a folder of photographs: crops, the record of each picture, resuming, refused settings."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from helpers.painted import Dots, dots, landmarks, photograph, write
from helpers.paths import ROOT
from vplface.data.align import TEMPLATE, Face, align_folder, folder, read_landmarks
from vplface.data.align.folder import OPTIONS, RECORDS
from vplface.data.align.sheet import write_sheet
from vplface.data.formats.image_folder import ImageFolder
from vplface.errors import DataError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for name in ("ada/1.jpg", "ada/2.png", "grace/trip/1.webp", "grace/3.bmp"):
        write(root / name, photograph(landmarks(rng.uniform(1, 1.6), rng.uniform(-0.5, 0.5))))
    write(root / "ada" / "nobody.png", np.full((80, 90, 3), 90, np.uint8))
    (root / "grace" / "cut.jpg").write_bytes((root / "ada" / "1.jpg").read_bytes()[:900])
    (root / "grace" / "notes.txt").write_text("no picture")
    (root / "grace" / "1.HEIC").write_bytes(b"no known picture")
    write(root / ".thumbnails" / "1.png", photograph(landmarks()))
    return root


def table(target: Path) -> list[dict[str, str]]:
    with (target / RECORDS).open(newline="") as file:
        return list(csv.DictReader(file))


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_align_folder_aligns_every_picture_or_records_why_not(photos, tmp_path):
    done = align_folder(photos, tmp_path / "new" / "faces", Dots(), picture_format="png")
    assert done.outcomes == {"aligned": 4, "no face": 1, "unreadable": 1}
    assert (done.crops, done.kept, done.several) == (4, 0, 0)
    assert done.others == {".txt": 1, ".heic": 1}
    rows = {row["name"]: row for row in table(tmp_path / "new" / "faces")}
    assert list(rows) == [
        "ada/1.jpg",
        "ada/2.png",
        "ada/nobody.png",
        "grace/3.bmp",
        "grace/cut.jpg",
        "grace/trip/1.webp",
    ]
    assert rows["grace/cut.jpg"]["reason"] == "the file is cut short or damaged"
    assert {name: row["crop"] for name, row in rows.items() if row["crop"]} == {
        "ada/1.jpg": "ada/1.png", "ada/2.png": "ada/2.png", "grace/3.bmp": "grace/3.png",
        "grace/trip/1.webp": "grace/trip/1.png",
    }  # fmt: skip
    faces = ImageFolder(tmp_path / "new" / "faces")
    assert (list(faces.identities), len(faces)) == (["ada", "grace"], 4)
    for index in range(4):
        assert np.abs(dots(faces.picture(index)) - TEMPLATE).max() < 0.6


def test_align_folder_writes_the_same_files_with_worker_processes(photos, tmp_path):
    one = align_folder(photos, tmp_path / "one", Dots())
    two = align_folder(photos, tmp_path / "two", Dots(), workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert one.outcomes == two.outcomes


def test_align_folder_accepts_a_flat_folder(tmp_path):
    write(tmp_path / "photos" / "1.png", photograph(landmarks()))
    align_folder(tmp_path / "photos", tmp_path / "faces", Dots())
    assert set(files(tmp_path / "faces")) == {"1.jpg", RECORDS, OPTIONS}


def test_align_folder_reads_exif_orientation_grey_and_16_bit_pictures(tmp_path):
    """A rotated picture, a 16-bit one, and a grey one, whose landmarks come from a landmark file."""
    picture = photograph(landmarks())
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.rot90(picture)).save(tmp_path / "photos" / "turned.jpg", quality=95, exif=exif)
    deep = picture[..., ::-1].astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "photos" / "deep.png"), deep)
    align_folder(tmp_path / "photos", tmp_path / "colour", Dots(), picture_format="png")
    for name in ("turned", "deep"):
        crop = cv2.imread(str(tmp_path / "colour" / f"{name}.png"))[..., ::-1]
        assert np.abs(dots(crop) - TEMPLATE).max() < 0.6

    cv2.imwrite(str(tmp_path / "photos" / "grey.png"), picture[..., 1])
    align_folder(tmp_path / "photos", tmp_path / "grey", {"grey.png": [Face(landmarks())]}, picture_format="png")
    crop = cv2.imread(str(tmp_path / "grey" / "grey.png"))
    assert (crop == crop[..., :1]).all()
    nose, mouth = (crop[round(y), round(x), 0] for x, y in TEMPLATE[[2, 4]].tolist())
    assert (nose, mouth) == (255, 0)  # the green of a green and of a magenta dot


def test_align_folder_completes_a_stopped_run_and_keeps_existing_crops(photos, tmp_path):
    target = tmp_path / "faces"
    align_folder(photos, target, Dots())
    whole = files(target)
    (target / "ada" / "2.jpg").unlink()
    (target / "grace" / "3.jpg").write_bytes(b"kept as it is")
    (target / RECORDS).write_bytes(whole[RECORDS][:-30])  # cut in the row of grace/trip/1.webp
    write(photos / "ada" / "nobody.png", photograph(landmarks()))
    done = align_folder(photos, target, Dots())
    assert (done.kept, done.crops) == (2, 5)
    new = files(target)
    assert new["grace/3.jpg"] == b"kept as it is"
    assert {name: new[name] for name in whole if name not in ("grace/3.jpg", RECORDS)} == {
        name: data for name, data in whole.items() if name not in ("grace/3.jpg", RECORDS)
    }
    assert [row["outcome"] for row in table(target)].count("aligned") == 5


def test_align_folder_has_recorded_finished_pictures_when_a_run_dies(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_CHUNK", 1)

    class Dies(Dots):
        left = 3

        def __call__(self, picture):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().__call__(picture)

    with pytest.raises(KeyboardInterrupt):
        align_folder(photos, tmp_path / "faces", Dies())
    assert [row["name"] for row in table(tmp_path / "faces")] == ["ada/1.jpg", "ada/2.png", "ada/nobody.png"]
    assert align_folder(photos, tmp_path / "faces", Dots()).kept == 2


def test_align_folder_writes_a_record_that_gives_the_same_crops_as_a_landmark_file(photos, tmp_path):
    align_folder(photos, tmp_path / "found", Dots())
    again = align_folder(photos, tmp_path / "listed", read_landmarks(tmp_path / "found" / RECORDS))
    assert again.crops == 4
    found, listed = files(tmp_path / "found"), files(tmp_path / "listed")
    assert {name: data for name, data in found.items() if name.endswith(".jpg")} == {
        name: data for name, data in listed.items() if name.endswith(".jpg")
    }


def test_align_folder_aligns_again_after_landmarks_are_corrected(photos, tmp_path):
    listed = {"ada/1.jpg": [Face(landmarks())], "ada/2.png": [Face(landmarks())]}
    assert align_folder(photos, tmp_path / "faces", listed).crops == 2
    first = files(tmp_path / "faces")
    listed["ada/2.png"] = [Face(landmarks(angle=0.4))]
    assert align_folder(photos, tmp_path / "faces", listed).kept == 1
    second = files(tmp_path / "faces")
    assert first["ada/1.jpg"] == second["ada/1.jpg"]
    assert first["ada/2.jpg"] != second["ada/2.jpg"]


SEVERAL = {
    "a.png": [Face(landmarks(0.8, 0, (70, 120)), 0.7), Face(landmarks(1.2, 0, (220, 100)), 0.8)],
    "b.png": [Face(landmarks(0.1, 0, (150, 120)))],
    "c.png": [Face(landmarks(1, 0, (1500, 1200)))],
}


@pytest.mark.parametrize(
    ("choice", "crops"), [("largest", ["a.jpg"]), ("center", ["a.jpg"]), ("all", ["a.jpg", "a.face2.jpg"])]
)
def test_align_folder_records_several_faces_small_faces_and_faces_outside(tmp_path, choice, crops):
    for name in SEVERAL:
        write(tmp_path / "photos" / name, photograph(landmarks()))
    done = align_folder(tmp_path / "photos", tmp_path / "faces", SEVERAL, choice=choice)
    assert (done.several, done.crops) == (1, len(crops))
    rows = table(tmp_path / "faces")
    assert [row["crop"] for row in rows if row["crop"]] == crops
    assert [(row["faces"], row["score"]) for row in rows if row["name"] == "a.png"] == [("2", "0.8"), ("2", "0.7")]
    assert [(row["outcome"], row["reason"].split(";")[0]) for row in rows if row["name"] != "a.png"] == [
        ("too small", "11.2 pixels a side, needs 16"),
        ("outside", "the landmarks lie outside the picture of 300x240"),
    ]
    assert align_folder(tmp_path / "photos", tmp_path / "faces", SEVERAL, choice=choice).kept == 1


@pytest.mark.parametrize(("choice", "taken"), [("largest", {"a.png"}), ("all", {"a.png", "a.face2.png"})])
def test_align_folder_never_writes_two_pictures_to_one_crop(tmp_path, choice, taken):
    for name in ("a.jpg", "a.png", "a.face2.png", "b.face2.png"):
        write(tmp_path / "photos" / name, photograph(landmarks()))
    done = align_folder(tmp_path / "photos", tmp_path / "faces", Dots(), choice=choice)
    refused = {record.name: record.reason for record in done.records if record.outcome == "name taken"}
    assert set(refused) == taken
    assert all("the same name as one of a.jpg" in reason for reason in refused.values())
    assert done.crops == 4 - len(taken) == len(list((tmp_path / "faces").glob("*.jpg")))


def test_align_folder_refuses_to_resume_with_other_settings(photos, tmp_path):
    align_folder(photos, tmp_path / "faces", Dots(), found_by="dots")
    with pytest.raises(DataError, match=r"align.json.*other settings \(found_by 'dots', now 'lines'\)"):
        align_folder(photos, tmp_path / "faces", Dots(), found_by="lines")
    with pytest.raises(DataError, match="faces 'largest', now 'all', quality 95, now 90"):
        align_folder(photos, tmp_path / "faces", Dots(), found_by="dots", choice="all", quality=90)
    (tmp_path / "faces" / OPTIONS).write_text("[")
    with pytest.raises(DataError, match=r"align.json: not a record"):
        align_folder(photos, tmp_path / "faces", Dots())


def test_align_folder_refuses_a_target_with_other_files_or_overlapping_the_source(photos, tmp_path):
    before = files(photos)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match="holds other files"):
        align_folder(photos, tmp_path / "mine", Dots())
    with pytest.raises(DataError, match=r"holiday\.jpg: is a file, not a folder"):
        align_folder(photos, tmp_path / "mine" / "holiday.jpg", Dots())
    for target in (photos, photos / "faces", tmp_path):
        with pytest.raises(DataError, match="choose another folder for the crops"):
            align_folder(photos, target, Dots())
    assert files(photos) == before
    assert files(tmp_path / "mine") == {"holiday.jpg": b"mine"}


def test_align_folder_refuses_sources_without_pictures(tmp_path):
    with pytest.raises(DataError, match="absent: does not exist"):
        align_folder(tmp_path / "absent", tmp_path / "faces", Dots())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no pictures of type \.jpg"):
        align_folder(tmp_path / "empty", tmp_path / "faces", Dots())
    (tmp_path / "empty" / "1.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"but 1 file of an unsupported format was left out: 1 \.heic"):
        align_folder(tmp_path / "empty", tmp_path / "faces", Dots())
    with pytest.raises(DataError, match="is a file, not a folder"):
        align_folder(tmp_path / "empty" / "1.heic", tmp_path / "faces", Dots())
    assert not (tmp_path / "faces").exists()


def test_align_folder_refuses_landmarks_of_other_pictures(photos, tmp_path):
    with pytest.raises(DataError, match=r"none of the 6 pictures.*'photos/ada/1.jpg', that of the folder 'ada/1.jpg'"):
        align_folder(photos, tmp_path / "faces", {"photos/ada/1.jpg": [Face(TEMPLATE)]})


def test_align_folder_follows_links_once(photos, tmp_path):
    (photos / "ada" / "loop").symlink_to(photos, target_is_directory=True)
    write(tmp_path / "elsewhere" / "1.png", photograph(landmarks()))
    (photos / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert align_folder(photos, tmp_path / "faces", Dots()).crops == 5


def test_align_folder_names_the_file_when_the_disk_is_full(photos, tmp_path, monkeypatch):
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match=r"cannot write .*1\.jpg: No space left on device"):
        align_folder(photos, tmp_path / "faces", Dots())
    monkeypatch.undo()
    assert align_folder(photos, tmp_path / "faces", Dots()).crops == 4


def test_align_folder_writes_the_options_of_the_crops(photos, tmp_path):
    align_folder(photos, tmp_path / "faces", Dots(), found_by="dots", size=64, quality=80)
    assert json.loads((tmp_path / "faces" / OPTIONS).read_text()) == {
        "schema": 1, "found_by": "dots", "faces": "largest", "size": 64, "min_size": 16, "format": "jpg", "quality": 80,
    }  # fmt: skip
    assert cv2.imread(str(tmp_path / "faces" / "ada" / "1.jpg")).shape == (64, 64, 3)


def test_write_sheet_shows_each_crop_and_refuses_an_empty_record(photos, tmp_path):
    done = align_folder(photos, tmp_path / "faces", Dots())
    assert write_sheet(tmp_path / "sheet.png", photos, tmp_path / "faces", done.records) == 5  # all but the unreadable
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]
    assert sheet.shape == (2 * 256, 4 * 472, 3)
    crop = cv2.imread(str(tmp_path / "faces" / "ada" / "1.jpg"))[..., ::-1]
    shown = cv2.resize(sheet[20:244, 230:454], (112, 112), interpolation=cv2.INTER_AREA)
    assert np.abs(shown.astype(int) - crop).mean() < 3
    with pytest.raises(DataError, match="no pictures to show"):
        write_sheet(tmp_path / "none.png", photos, tmp_path / "faces", [])


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


SLOW = """
import signal, sys, time
from helpers.painted import Dots
from vplface.data.align import align_folder

class Slow(Dots):
    def __call__(self, picture):
        time.sleep(0.05)
        return super().__call__(picture)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us with it ignored
align_folder(sys.argv[1], sys.argv[2], Slow(), workers=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in a group of their own")
@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGKILL])
def test_align_folder_leaves_no_worker_after_SIGINT_or_SIGKILL(tmp_path, way):
    picture = photograph(landmarks())
    for number in range(300):
        write(tmp_path / "photos" / f"{number}.bmp", picture)
    path = os.pathsep.join([*filter(None, sys.path), str(ROOT / "tests")])
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, tmp_path / "photos", tmp_path / "faces"],
        env={**os.environ, "PYTHONPATH": path}, start_new_session=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "faces").is_dir() or not list((tmp_path / "faces").glob("*.jpg")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(way)
    assert process.wait(60) != 0
    while _lives(process.pid):
        assert time.monotonic() < deadline + 60
        time.sleep(0.02)
    assert 1 <= len(list((tmp_path / "faces").glob("*.jpg"))) < 300
