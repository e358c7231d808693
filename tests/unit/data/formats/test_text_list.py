"""Lists of other tools: each form, faults with their line, and lists in the wrong folder."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vplface.data.formats import open_pictures
from vplface.data.pictures import UnreadablePictureError
from vplface.errors import DataError

from .test_image_folder import fill, names

PICTURES = ("ada/1.png", "ada/2.png", "bob/3.png")


def listed(folder: Path, text: str, name: str = "train.lst") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    "lines",
    [
        ["0\t7\tada/1.png", "1\t7\tada/2.png", "2\t12\tbob/3.png"],
        ["0\t7.000000\t0.5\tada/1.png", "1\t7.000000\t0.5\tada/2.png", "2\t12.000000\t-1.5\tbob/3.png"],
        ["1\tada/1.png\t7", "1\tada/2.png\t7", "0\tbob/3.png\t12"],
        ["1\tada/1.png\t7\t1\t2\t90\t99", "1\tada/2.png\t7\t1\t2\t90\t99", "1\tbob/3.png\t12\t1\t2\t90\t99"],
        ["ada/1.png 7", "ada/2.png 7", "bob/3.png 12"],
        ["ada/1.png\t7", "ada/2.png\t7", "bob/3.png\t12"],
        ["7 ada/1.png", "7 ada/2.png", "12 bob/3.png"],
        ["ada\\1.png 7", "ada\\2.png 7", "bob\\3.png 12"],
    ],
)
@pytest.mark.parametrize("name", ["train.lst", "train.TXT"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_form_gives_the_same_set(lines, name, end, tmp_path):
    fill(tmp_path, *PICTURES)
    pictures = open_pictures(listed(tmp_path, "\ufeff" + end.join(["", *lines, ""]), name))
    assert names(pictures) == list(PICTURES)
    assert list(pictures.identities) == ["7", "12"]
    assert pictures.labels.tolist() == [0, 0, 1]
    assert pictures.encoded(2) == (tmp_path / "bob/3.png").read_bytes()


def test_labels_may_be_names_and_paths_hold_blanks_where_tabs_separate(tmp_path):
    fill(tmp_path, "ada l/1 b.png")
    pictures = open_pictures(listed(tmp_path, "ada l/1 b.png\tAda Lovelace\n"))
    assert names(pictures) == ["ada l/1 b.png"]
    assert list(pictures.identities) == ["Ada Lovelace"]


def test_absolute_paths_are_taken_as_they_are(tmp_path):
    fill(tmp_path / "else where", "x.png")
    (tmp_path / "lists").mkdir()
    pictures = open_pictures(listed(tmp_path / "lists", f"1\t{tmp_path}/else where/x.png\t0\n"))
    assert pictures.encoded(0) == (tmp_path / "else where/x.png").read_bytes()


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("10\t300\n", 1, "not a line of a list of pictures"),
        ("Aaron_Peirsol\t1\t2\n", 1, "not a line of a list of pictures"),
        ("\nada/1.png 7\nada/2.png\n", 3, "of another form than the first line"),
        ("0\t7\tada/1.png\n1\tada/2.png\t7\n", 2, "of another form than the first line"),
        ("ada/1.png ada/2.png\n", 1, "not a line of a list of pictures"),
    ],
)
def test_faults_name_the_line(text, line, reason, tmp_path):
    fill(tmp_path, *PICTURES)
    path = listed(tmp_path, text)
    with pytest.raises(DataError, match=reason) as caught:
        open_pictures(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")


def test_a_list_without_lines_is_an_error(tmp_path):
    with pytest.raises(DataError, match="lists no pictures"):
        open_pictures(listed(tmp_path, "\n\n"))


def test_a_list_in_another_folder_is_refused_with_the_path_that_was_looked_for(tmp_path):
    path = listed(tmp_path, "ada/1.png 7\nada/2.png 7\n")
    with pytest.raises(DataError, match="none of the first 2 pictures is there") as caught:
        open_pictures(path)
    assert str(tmp_path / "ada/1.png") in str(caught.value)
    fill(tmp_path, "ada/2.png")
    assert len(open_pictures(path)) == 2  # one that is missing cannot be read, by itself


def test_pictures_of_other_kinds_are_listed_and_cannot_be_read_by_themselves(tmp_path):
    fill(tmp_path, "a.png")
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    pictures = open_pictures(listed(tmp_path, "0\t7\ta.png\n1\t7\tb.heic\n"))
    assert len(pictures) == 2
    with pytest.raises(UnreadablePictureError, match="HEIC one; convert it to JPEG"):
        pictures.picture(1)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["train.lst", "train.csv"])
def test_accents_in_paths_match_in_either_form(form, name, tmp_path):
    fill(tmp_path, unicodedata.normalize("NFC" if form == "NFD" else "NFD", "Zoë/1.png"))
    line = {"train.lst": "Zoë/1.png\tZoë\n", "train.csv": "path,label\nZoë/1.png,Zoë\n"}[name]
    pictures = open_pictures(listed(tmp_path, unicodedata.normalize(form, line), name))
    assert pictures.encoded(0) == next(tmp_path.rglob("*.png")).read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=8))
def test_labels_come_back_whatever_they_are(tmp_path, labels):
    fill(tmp_path, "x.png")
    pictures = open_pictures(listed(tmp_path, "".join(f"{k}\t{label}\tx.png\n" for k, label in enumerate(labels))))
    assert [int(pictures.identities[label]) for label in pictures.labels] == labels
