"""studies/characters.py: the rules for drawings, on a font made here, and whole sets in the fonts of matplotlib."""

from __future__ import annotations

import json
from pathlib import Path

import characters
import matplotlib
import numpy as np
import pytest
from characters import Face, Pen, app, draw_sets, font_files, read_faces
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from typer.testing import CliRunner

from vplface.data.formats import open_pictures
from vplface.data.pictures import decode_whole
from vplface.errors import DataError, UsageError

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
FILES = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf")
FONTS = [f"--fonts={DEJAVU / name}" for name in FILES]
LATIN = ["--characters=41-5A,61-7A,410-44F", "--train=40", "--test=10", "--fewest-in-test=3", "--side=24"]


def box(left: int, top: int):
    pen = TTGlyphPen(None)
    pen.moveTo((left, 0))
    for point in ((left, top), (900, top), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    return pen.glyph()


def font(path: Path, family: str, letter_top: int = 700) -> Path:
    """A font of boxes: C and D share a glyph, E looks like A, F is blank, G looks like a missing character."""
    tops = {"A": letter_top, "B": 300, "CD": 500, "E": letter_top, "G": 950}
    glyphs = {".notdef": box(100, 950), "F": TTGlyphPen(None).glyph(), **{name: box(100, tops[name]) for name in tops}}
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(list(glyphs))
    names = {"A": "A", "B": "B", "C": "CD", "D": "CD", "E": "E", "F": "F", "G": "G"}
    builder.setupCharacterMap({ord(letter): name for letter, name in names.items()})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": family, "styleName": "Regular", "version": "Version 1/2"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def faces(tmp_path: Path) -> list[Face]:
    files = [font(tmp_path / "one.ttf", "One"), font(tmp_path / "two.ttf", "Two", letter_top=200)]
    return read_faces(files, set(range(0x41, 0x5B)))


def test_read_faces_names_faces_and_leaves_out_characters_that_share_a_glyph(faces: list[Face]) -> None:
    assert [face.name for face in faces] == ["One Regular Version 1-2", "Two Regular Version 1-2"]
    assert {chr(code) for code in faces[0].characters} == set("ABEFG")


def test_read_faces_keeps_one_of_two_files_with_one_name(tmp_path: Path) -> None:
    files = [font(tmp_path / "b.ttf", "One"), font(tmp_path / "a.ttf", "One")]
    assert [face.path.name for face in read_faces(files, {0x41})] == ["b.ttf"]


def test_Pen_draws_the_ink_in_the_middle(faces: list[Face]) -> None:
    drawn = Pen(faces, 50).draw(ord("A"), most=12)
    assert (drawn.name, set(drawn.pictures)) == ("U+0041", {face.name for face in faces})
    ink = decode_whole(drawn.pictures[faces[0].name], "")[..., 0] > 127
    # an em is 43 pixels: 34.4 wide and 30.1 high
    assert abs(int(ink.any(0).sum()) - 34) <= 1
    assert abs(int(ink.any(1).sum()) - 30) <= 1
    for axis in (0, 1):
        places = np.flatnonzero(ink.any(axis))
        assert abs(places[0] - (49 - places[-1])) <= 1


def test_Pen_leaves_out_blank_missing_and_repeated_drawings(faces: list[Face]) -> None:
    pen = Pen(faces, 32)
    assert len(pen.draw(ord("A"), most=12).pictures) == 2
    assert len(pen.draw(ord("B"), most=12).pictures) == 1  # alike in both fonts
    for letter in "EFG":  # drawn as A, blank, drawn as a missing character
        assert pen.draw(ord(letter), most=12).pictures == {}
    assert len(Pen(faces, 32).draw(ord("A"), most=1).pictures) == 1


def test_draw_sets_with_too_few_fonts_names_packages(faces: list[Face]) -> None:
    with pytest.raises(DataError, match=r"2 fonts give 1 training classes.*0 test.*apt-get install fonts-"):
        draw_sets(faces, 32, most=12, train=2, test=1, fewest_in_test=3)


def test_font_files_without_fontconfig_or_path_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="absent: does not exist"):
        font_files([tmp_path / "absent"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="install fontconfig, or give --fonts"):
        font_files([])


def test_read_faces_names_a_file_that_is_no_font(tmp_path: Path) -> None:
    (tmp_path / "text.ttf").write_text("no font")
    with pytest.raises(DataError, match=r"text\.ttf: not a font"):
        read_faces(font_files([tmp_path]), {0x41})


def test_characters_writes_sets_of_different_characters_the_same_each_time(tmp_path: Path) -> None:
    summaries = []
    for name in ("first", "second"):
        result = CliRunner().invoke(app, [str(tmp_path / name), *FONTS, *LATIN, "--json"], catch_exceptions=False)
        assert result.exit_code == 0
        summaries.append(json.loads(result.stdout))
    for part in ("train/train.rec", "test/test.rec", "characters.json"):
        assert (tmp_path / "first" / part).read_bytes() == (tmp_path / "second" / part).read_bytes()
    sets = {name: open_pictures(tmp_path / "first" / name) for name in ("train", "test")}
    assert not set(sets["train"].identities) & set(sets["test"].identities)
    drawings = [decode_whole(each.encoded(k), "").tobytes() for each in sets.values() for k in range(len(each))]
    assert len(set(drawings)) == len(drawings)
    assert len(drawings[0]) == 24 * 24 * 3
    for name, least, classes in (("train", 2, 40), ("test", 3, 10)):
        sizes = np.bincount(sets[name].labels)
        counted = summaries[0][name]
        assert (len(sizes), sizes.sum()) == (counted["classes"], counted["pictures"])
        assert len(sizes) == classes
        assert sizes.min() >= least
        assert counted["classes_by_pictures"] == {str(k): int((sizes == k).sum()) for k in np.unique(sizes)}
    assert sum(each["pictures"] for each in summaries[0]["fonts"]) == len(drawings)
    assert {each["file"] for each in summaries[0]["fonts"]} == set(FILES)
    assert summaries == [json.loads((tmp_path / "first" / "characters.json").read_text())] * 2


def test_characters_refuses_a_folder_in_use_and_invalid_ranges(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    result = CliRunner().invoke(app, [str(tmp_path), *FONTS, *LATIN])
    assert isinstance(result.exception, DataError)
    assert "is not empty" in str(result.exception)
    with pytest.raises(UsageError, match="'4E00-x' is not a range of hexadecimal"):
        characters._parse_ranges("41,4E00-x")
