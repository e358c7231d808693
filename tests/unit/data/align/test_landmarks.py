"""Landmark files: exact round trips, and errors that name the line or picture."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers.painted import landmarks
from vplface.data.align import TEMPLATE, Face, read_landmarks
from vplface.data.align.landmarks import BOX, POINTS
from vplface.data.align.record import Record, append_records, read_records, write_records
from vplface.errors import DataError

HEADER = "name," + ",".join(POINTS)
LINE = ",".join(str(value) for value in TEMPLATE.flatten())


def csv_file(tmp_path, *lines, header=HEADER):
    path = tmp_path / "landmarks.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def json_file(tmp_path, value):
    path = tmp_path / "landmarks.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_read_landmarks_reads_a_csv_file(tmp_path):
    path = csv_file(tmp_path, f"a/1.jpg,{LINE}", f"a/1.jpg,{LINE}", "b/2.jpg" + "," * 10, f'"c, d/é.jpg",{LINE}')
    found = read_landmarks(path)
    assert {name: len(faces) for name, faces in found.items()} == {"a/1.jpg": 2, "b/2.jpg": 0, "c, d/é.jpg": 1}
    np.testing.assert_array_equal(found["a/1.jpg"][0].landmarks, TEMPLATE)
    assert (found["a/1.jpg"][0].score, found["a/1.jpg"][0].box) == (1.0, None)


def test_read_landmarks_accepts_columns_in_any_order_and_a_byte_order_mark(tmp_path):
    names = [*reversed(POINTS), "camera", *BOX, "score", "name"]
    values = [*map(str, TEMPLATE.flatten()[::-1]), "front", "1", "2", "30", "40.5", "0.25", "x.jpg"]
    path = tmp_path / "landmarks.csv"
    path.write_text("\ufeff" + ",".join(names) + "\r\n" + ",".join(values) + "\r\n", encoding="utf-8")
    (face,) = read_landmarks(path)["x.jpg"]
    np.testing.assert_array_equal(face.landmarks, TEMPLATE)
    assert (face.score, face.box) == (0.25, (1, 2, 30, 40.5))


def test_read_landmarks_reads_a_json_file(tmp_path):
    one = {"landmarks": TEMPLATE.tolist(), "score": 0.5, "box": [1, 2, 3, 4], "pose": "frontal"}
    found = read_landmarks(
        json_file(tmp_path, {"a.jpg": one, "b.jpg": [one, {"landmarks": TEMPLATE.tolist()}], "c": []})
    )
    assert {name: len(faces) for name, faces in found.items()} == {"a.jpg": 1, "b.jpg": 2, "c": 0}
    assert (found["a.jpg"][0].score, found["a.jpg"][0].box) == (0.5, (1, 2, 3, 4))


@given(
    hnp.arrays(np.float64, (5, 2), elements=st.floats(-6, 6)),
    st.floats(0.01, 50),
    st.floats(0, 1),
    st.none() | st.tuples(*[st.floats(-1e5, 1e5)] * 4),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
    st.text(st.characters(exclude_categories=["Cs", "Cc"])),
)
def test_write_records_round_trips_through_read_records_and_read_landmarks(
    tmp_path_factory, jitter, scale, score, box, name, reason
):
    path = tmp_path_factory.mktemp("records") / "align.csv"
    face = Face((TEMPLATE + jitter) * scale, score, box)
    write_records(path, [Record(name, "aligned", 2, face, "a.jpg", reason), Record(name, "no face")])
    first, second = read_records(path)
    assert (first.name, first.outcome, first.faces, first.crop, first.reason) == (name, "aligned", 2, "a.jpg", reason)
    assert (second.name, second.faces, second.face) == (name, 0, None)
    for again in (first.face, *read_landmarks(path)[name]):
        np.testing.assert_array_equal(again.landmarks, face.landmarks)
        assert (again.score, again.box) == (score, box)


def test_write_records_keeps_names_that_are_not_utf8(tmp_path):
    name = b"caf\xe9/1.jpg".decode("utf-8", "surrogateescape")
    write_records(tmp_path / "align.csv", [Record(name, "aligned", 1, Face(TEMPLATE))])
    assert list(read_landmarks(tmp_path / "align.csv")) == [name]


@given(st.text(max_size=300), st.sampled_from([".csv", ".json"]), st.booleans())
def test_read_landmarks_reads_or_refuses_any_text(tmp_path_factory, text, suffix, headed):
    path = tmp_path_factory.mktemp("any") / f"any{suffix}"
    path.write_text(HEADER + "\n" + text if headed else text, encoding="utf-8", newline="")
    try:
        found, refused = read_landmarks(path), ""
    except DataError as error:
        found, refused = {}, str(error)
    assert found or str(path) in refused


WRONG_LINES = {
    f"a.jpg,{LINE.replace('38.2946', '38,2946', 1)}": "line 3: expected 11 cells",
    f"a.jpg,{LINE.replace('38.2946', 'left', 1)}": r"line 3: left_eye_x is not a number: 'left'",
    f"a.jpg,{LINE.replace('38.2946', '', 1)}": r"line 3: left_eye_x is not a number: ''",
    f"a.jpg,{LINE.replace('38.2946', 'nan', 1)}": "line 3: a coordinate is not a finite number",
    "a.jpg" + ",1" * 10: "line 3: the points coincide",
    "a.jpg,1,2": "line 3: expected 11 cells",
    f",{LINE}": "line 3: has no name",
    "a.jpg," + ",".join(str(v) for v in TEMPLATE[[1, 0, 2, 4, 3]].flatten()): "line 3: the landmarks are in mirrored",
}


@pytest.mark.parametrize("line", WRONG_LINES)
def test_read_landmarks_names_the_wrong_line_of_a_csv_file(tmp_path, line):
    with pytest.raises(DataError, match=WRONG_LINES[line]) as error:
        read_landmarks(csv_file(tmp_path, f"ok.jpg,{LINE}", line))
    assert "landmarks.csv" in str(error.value)


def test_read_landmarks_names_missing_columns(tmp_path):
    with pytest.raises(DataError, match="lacks the columns name, nose_x"):
        read_landmarks(csv_file(tmp_path, header=HEADER.replace("name", "file").replace("nose_x", "nosex")))


WRONG_JSON = {
    "[1, 2": "not valid JSON",
    "[1, 2]": "expected an object from names to faces, got a list",
    '{"a.jpg": [[1, 2]]}': "'a.jpg': expected an object with the key 'landmarks'",
    '{"a.jpg": {"landmarks": [[1, 2]]}}': "'a.jpg': expected five points",
    '{"a.jpg": {"landmarks": [1,2,1,2,1,2,1,2,1,2], "score": "high"}}': "'a.jpg': expected five points.*'high'",
    '{"a.jpg": {"landmarks": [1,2,1,2,1,2,1,2,1,2]}}': "'a.jpg': the points coincide",
    "{}": "holds no pictures",
    '{"a.jpg": {"landmarks": [1,2,1,2,1,2,1,2,1,%s]}}' % ("9" * 5000): "not valid JSON",
    "[" * 100_000: "nested too deeply",
}


@pytest.mark.parametrize("text", WRONG_JSON)
def test_read_landmarks_refuses_malformed_json(tmp_path, text):
    with pytest.raises(DataError, match=WRONG_JSON[text]):
        read_landmarks(json_file(tmp_path, text))


def test_read_landmarks_refuses_a_score_or_box_that_is_not_finite(tmp_path):
    face = {"landmarks": landmarks().tolist()}
    for wrong in ({"score": float("nan")}, {"box": [0, 0, float("inf"), 1]}):
        with pytest.raises(DataError, match="'a': the score or the box is not finite"):
            read_landmarks(json_file(tmp_path, {"a": face | wrong}))


def test_read_landmarks_names_an_absent_file_or_one_of_another_type(tmp_path):
    with pytest.raises(DataError, match=r"absent\.csv: cannot be read"):
        read_landmarks(tmp_path / "absent.csv")
    with pytest.raises(DataError, match=r"points\.txt: a landmark file is a \.csv or a \.json"):
        read_landmarks(tmp_path / "points.txt")


def test_append_records_names_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match=r"cannot write .*align\.csv: No such file.*repeat"):
        append_records(tmp_path / "absent" / "align.csv", [])


def test_read_records_drops_only_the_last_line_of_a_truncated_file(tmp_path):
    path = tmp_path / "align.csv"
    write_records(path, [Record(f"{k}.jpg", "aligned", 1, Face(TEMPLATE), f"{k}.jpg") for k in range(3)])
    path.write_bytes(path.read_bytes()[:-20])
    assert [record.name for record in read_records(path)] == ["0.jpg", "1.jpg"]
    path.write_text("something else\n")
    with pytest.raises(DataError, match="not a record of aligned pictures"):
        read_records(path)


def test_read_landmarks_refuses_pipes_and_devices(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    for name in ("pipe.csv", "endless.json"):
        with pytest.raises(DataError, match="not a regular file"):
            read_landmarks(tmp_path / name)
