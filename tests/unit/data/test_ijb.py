"""The files of IJB-B and IJB-C, valid and malformed."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.data.ijb import IJB, read_faces, read_landmarks, read_template_pairs, read_templates
from vplface.errors import DataError

POINTS = "38.3 51.7 73.5 51.5 56.0 71.7 41.5 92.4 70.7 92.2"


@pytest.fixture
def written(tmp_path):
    def write(text, name="file.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_read_faces_reads_pictures_templates_and_media(written):
    found = read_faces(written("1.jpg 5 70\r\n\n2.jpg\t5\t70\n1.jpg,6,-1\n"))
    assert found.pictures == ["1.jpg", "2.jpg"]
    assert found.picture.tolist() == [0, 1, 0]  # a picture in two templates is one picture
    assert found.template.tolist() == [5, 5, 6]
    assert found.medium.tolist() == [70, 70, -1]


def test_read_landmarks_finds_pictures_by_name_in_any_order(written):
    path = written(f"b.jpg {POINTS} 0.5\na.jpg {POINTS.replace('38.3', '1')} 0.9\nc.jpg {POINTS} 1\n")
    found = read_landmarks(path, ["a.jpg", "b.jpg"])
    assert found.score.tolist() == [0.9, 0.5]
    assert found.points.shape == (2, 5, 2)
    assert found.points[0, 0].tolist() == pytest.approx([1, 51.7])
    assert found.points[1, 4].tolist() == pytest.approx([70.7, 92.2])
    with pytest.raises(DataError, match=r"1 of 2 pictures have no line there, such as 'd\.jpg'"):
        read_landmarks(path, ["a.jpg", "d.jpg"])


@given(
    st.lists(st.tuples(st.integers(-(10**17), 10**17), st.integers(0, 10**6), st.booleans()), min_size=1),
    st.sampled_from([" ", "\t", ",", "  ", ", "]),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
    st.booleans(),
)
def test_read_template_pairs_reads_any_separator_and_line_end(tmp_path_factory, rows, separator, end, ends):
    path = tmp_path_factory.getbasetemp() / "pairs.txt"
    lines = [separator.join(map(str, (left, right, int(same)))) for left, right, same in rows]
    path.write_bytes((end.join(lines) + end * ends).encode())
    found = read_template_pairs(path)
    assert list(zip(found.left.tolist(), found.right.tolist(), found.same.tolist(), strict=True)) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 1\n1 2\n", "line 2: expected 3 whole numbers, got '1 2': too few"),
        ("1 2 1\n\n1 2 1 1\n", "line 3: .*too many"),
        ("1 2 1\n3 4", "line 2: .*too few"),
        ("1 2.5 1\n", "line 1: .*not a whole number"),
        ("1 x 1\n", "line 1: .*not a whole number"),
        ("1 - 1\n", "line 1: .*not a whole number"),
        ("1 2 1\n3 4 2\n", "line 2: the third number must be 0 or 1, got 2"),
        ("1 99999999999999999999 1\n", "line 1: .*too large"),
        ("\n \n", "is empty"),
        ("", "is empty"),
    ],
)
def test_read_template_pairs_names_malformed_lines_and_empty_files(written, text, message):
    with pytest.raises(DataError, match=r"file\.txt.*" + message):
        read_template_pairs(written(text))


@given(st.binary(max_size=60))
def test_read_template_pairs_reads_or_refuses_any_bytes(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(data)
    try:
        found = read_template_pairs(path)
    except DataError as error:
        found, message = None, str(error)
    assert len(found.same) if found else str(path) in message


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_faces, "1.jpg 5 70\n2.jpg 5\n", "line 2: expected 'picture template medium', got 2 fields"),
        (read_faces, "1.jpg 5 70\n\n2.jpg five 7\n", "line 3: .*finite numbers"),
        (read_faces, "1.jpg 5 70\n2.jpg 5.5 7\n", "line 2: .*whole numbers"),
        (read_faces, "", "holds no lines"),
        (read_faces, b"\xff\xfe", "UTF-8"),
        (lambda path: read_landmarks(path, []), f"1.jpg {POINTS}\n", "line 1: expected 'picture x1 y1"),
        (lambda path: read_landmarks(path, []), f"1.jpg {POINTS} 1\n2.jpg {POINTS} nan\n", "line 2: .*finite"),
        (read_templates, "", "line 1: expected a header with TEMPLATE_ID and SUBJECT_ID"),
        (read_templates, "1,2,a.jpg\n", "line 1: expected a header"),
        (read_templates, "TEMPLATE_ID,SUBJECT_ID\n1,2\n1,x\n", "line 3: .*whole numbers"),
        (read_templates, "TEMPLATE_ID,SUBJECT_ID\n1,2\n1,3\n", "line 3: template 1 shows subject 3 here and subject 2"),
        (read_templates, "TEMPLATE_ID,SUBJECT_ID\n", "lists no templates"),
    ],
)
def test_read_faces_read_landmarks_and_read_templates_refuse_malformed_files(written, read, text, message):
    with pytest.raises(DataError, match=r"file\.txt.*" + message):
        read(written(text))


def test_read_templates_reads_templates_and_subjects(written):
    text = '\ufefftemplate_id, SUBJECT_ID ,FILENAME\n7,70,img/1.png\n7,70,frames/2.png\n\n3,30,"a,b.png"\n'
    found = read_templates(written(text))
    assert found.template.tolist() == [7, 3]
    assert found.subject.tolist() == [70, 30]


def test_IJB_finds_files_in_the_folder_or_in_meta_and_lists_them_in_used(written, tmp_path):
    faces = written("1.jpg 5 70\n", "meta/ijbb_face_tid_mid.txt")
    pairs = written("5 5 1\n", "ijbb_template_pair_label.txt")
    for gallery in ("S1", "S2"):
        written("TEMPLATE_ID,SUBJECT_ID\n5,1\n", f"meta/ijbb_1N_gallery_{gallery}.csv")
    place = IJB(tmp_path, "ijbb")
    assert place.faces().pictures == ["1.jpg"]
    assert place.pairs().left.tolist() == [5]
    assert list(place.galleries()) == ["S1", "S2"]
    assert place.used[:2] == [faces, pairs]
    with pytest.raises(DataError, match=r"no ijbb_1N_probe_mixed\.csv there, nor in"):
        place.probes()
    with pytest.raises(DataError, match="loose_crop: no such folder"):
        place.aligned(["1.jpg"], read_landmarks(written(f"1.jpg {POINTS} 1\n"), ["1.jpg"]))
    with pytest.raises(DataError, match="no such folder"):
        IJB(tmp_path / "nowhere", "ijbc")


def test_LooseFaces_picture_is_warped_by_its_landmarks(tmp_path, written):
    """A face drawn at twice the size and rotated by 90 degrees becomes upright, its landmarks at their places."""
    pytest.importorskip("vplface.data.align")
    import cv2

    from vplface.data.ijb import LooseFaces

    template = np.array([float(number) for number in POINTS.split()]).reshape(5, 2)
    loose = np.stack([300 - 2 * template[:, 1], 20 + 2 * template[:, 0]], axis=1)  # x, y → 300 − 2y, 20 + 2x
    picture = np.zeros((300, 320, 3), np.uint8)
    for colour, (x, y) in zip(
        [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)], loose, strict=True
    ):
        cv2.circle(picture, (round(x), round(y)), 10, colour[::-1], -1)
    (tmp_path / "loose_crop").mkdir()
    cv2.imwrite(str(tmp_path / "loose_crop/1.png"), picture)
    line = " ".join(f"{number:.3f}" for number in loose.ravel())
    landmarks = read_landmarks(written(f"1.png {line} 1\n2.png {line} 1\n"), ["1.png", "2.png"])
    faces = LooseFaces(tmp_path / "loose_crop", ["1.png", "2.png"], landmarks)
    warped = faces.picture(0)
    assert warped.shape == (112, 112, 3)
    for colour, (x, y) in zip(
        [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)], template, strict=True
    ):
        np.testing.assert_allclose(warped[round(y), round(x)], colour, atol=30)
    with pytest.raises(DataError, match=r"2\.png"):
        faces.picture(1)


def test_read_faces_and_read_templates_refuse_oversized_fields(written):
    wide = "".join(f"{number}.jpg 1 {'2' * (10**6 if number == 5 else 1)}\n" for number in range(20_000))
    with pytest.raises(DataError, match="line 6: a number of more than 64 characters"):
        read_faces(written(wide))
    for number in ("9" * 5000, "9" * 30, str(2**63)):
        with pytest.raises(DataError, match="line 2: TEMPLATE_ID and SUBJECT_ID must be whole numbers"):
            read_templates(written(f"TEMPLATE_ID,SUBJECT_ID\n{number},1\n"))
    with pytest.raises(DataError, match="line 2: cannot be read: field larger than"):
        read_templates(written("TEMPLATE_ID,SUBJECT_ID\n" + "1" * 200_000 + ",1\n"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_read_faces_read_template_pairs_and_read_templates_refuse_pipes(tmp_path):
    os.mkfifo(tmp_path / "x.txt")
    for read in (read_faces, read_template_pairs, read_templates):
        with pytest.raises(DataError, match="not a regular file"):
            read(tmp_path / "x.txt")
