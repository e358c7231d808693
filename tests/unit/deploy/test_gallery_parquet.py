"""Galleries through Parquet and back, exactly; files of others, damaged ones and wrong ones."""

from __future__ import annotations

import json
import stat
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from vplface.cli.app import app
from vplface.data.pictures import Preprocessing
from vplface.deploy import gallery_parquet as module
from vplface.deploy.gallery import EmbedderFingerprint, EnrolledFace, Gallery
from vplface.deploy.gallery_folder import add_faces, load_gallery
from vplface.deploy.gallery_parquet import export_parquet, import_parquet, read_parquet
from vplface.errors import DataError

pa = pytest.importorskip("pyarrow", reason="needs vplface[parquet]")
pq = pytest.importorskip("pyarrow.parquet", reason="needs vplface[parquet]")

DIM = 4
MAKER = EmbedderFingerprint("/models/m.onnx", "ab" * 32, DIM, Preprocessing(), "sum")


def unit(*values):
    row = np.array(values, np.float32)
    return row / np.linalg.norm(row)


FACES = st.lists(
    st.builds(
        EnrolledFace,
        st.sampled_from(["Ada", "Zoë Ω", "李小龍", '"q", \\n', "a/b"]),
        st.builds(unit, st.floats(0.1, 1), st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1)),
        st.binary(min_size=32, max_size=32).map(bytes.hex),
        st.text(st.characters(codec="utf-8"), max_size=5),
        st.none() | st.tuples(*[st.integers(0, 2**31 - 1)] * 4),
        st.none() | st.integers(0, 253_402_300_799),
        st.none() | st.floats(0, 2.0**99, width=32),
        st.none() | st.floats(-(2.0**99), 2.0**99, width=32),
        st.text(st.characters(codec="utf-8"), max_size=9),
    ),
    max_size=9,
)


def same(one: Gallery, other: Gallery) -> None:
    """Fails unless two galleries hold the same in the same order, to the last bit."""
    assert list(one.names) == list(other.names)
    for key in ("person", "embeddings", "sha256", "boxes"):
        np.testing.assert_array_equal(getattr(one, key), getattr(other, key))
        assert getattr(one, key).dtype == getattr(other, key).dtype
    assert list(one.files) == list(other.files)
    for key in ("enrolled", "norm", "quality"):
        np.testing.assert_array_equal(getattr(one.records, key), getattr(other.records, key))
    assert list(one.records.paths) == list(other.records.paths)
    assert one.fingerprint == other.fingerprint


@settings(max_examples=25)
@given(FACES, st.integers(1, 4))
def test_read_parquet_gives_back_exactly_what_export_parquet_wrote(tmp_path_factory, faces, rows):
    path = tmp_path_factory.mktemp("exchange") / "people.parquet"
    gallery, _ = Gallery.empty(MAKER).adding(faces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROWS", rows)
        export_parquet(gallery, path)
    same(read_parquet(path), gallery)


def face(name, seed, **known):
    rng = np.random.default_rng(seed)
    return EnrolledFace(name, unit(*rng.normal(size=DIM)), rng.bytes(32).hex(), f"{seed}.jpg", **known)


@pytest.fixture
def exported(tmp_path):
    add_faces(
        tmp_path / "people", MAKER, [face("Ada", 1, enrolled=1_700_000_000, norm=9.5), face("Zoë", 2, box=(1, 2, 3, 4))]
    )
    export_parquet(load_gallery(tmp_path / "people"), tmp_path / "people.parquet")
    return tmp_path / "people.parquet"


def test_export_parquet_writes_a_private_file_that_anybody_can_read_by_its_documented_columns(exported):
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600
    table = pq.read_table(exported)
    assert table.column_names == [
        "name", "vector", "sha256", "file", "path", "x", "y", "width", "height", "enrolled", "norm", "quality",
    ]  # fmt: skip
    first, second = table.to_pylist()
    assert (first["name"], first["file"], first["norm"], first["x"], first["quality"]) == (
        "Ada",
        "1.jpg",
        9.5,
        None,
        None,
    )
    assert first["enrolled"].isoformat() == "2023-11-14T22:13:20+00:00"
    assert [second[key] for key in ("x", "y", "width", "height")] == [1, 2, 3, 4]
    assert second["enrolled"] is None
    assert table.schema.field("vector").type == pa.list_(pa.float32(), DIM)
    np.testing.assert_array_equal(first["vector"], face("Ada", 1).embedding)
    assert json.loads(table.schema.metadata[b"vplface_gallery"])["maker"] == MAKER.to_dict()


def test_import_parquet_makes_a_gallery_or_adds_to_one(exported, tmp_path):
    assert import_parquet(exported, tmp_path / "new") == (2, [])
    same(load_gallery(tmp_path / "new"), load_gallery(tmp_path / "people"))
    add_faces(tmp_path / "other", MAKER, [replace(face("Ada Lovelace", 1), name="Ada Lovelace"), face("Grace", 3)])
    added, known = import_parquet(exported, tmp_path / "other")
    assert added == 1
    assert [(each.name, owner) for each, owner in known] == [("Ada", "Ada Lovelace")]
    assert load_gallery(tmp_path / "other").pictures == {"Ada Lovelace": 1, "Grace": 1, "Zoë": 1}
    add_faces(tmp_path / "foreign", replace(MAKER, weights="cd" * 32), [face("Grace", 3)])
    with pytest.raises(DataError, match="the model differs"):
        import_parquet(exported, tmp_path / "foreign")


def test_read_parquet_takes_files_of_others_with_the_four_columns_and_a_model(tmp_path):
    table = pa.table(
        {
            "name": ["Ada", "Ada"],
            "vector": pa.array([[1.0, 0, 0, 0], [0.0, 1, 0, 0]], pa.list_(pa.float64())),
            "sha256": ["ab" * 32, "cd" * 32],
            "file": ["1.jpg", "2.jpg"],
            "_distance": [0.1, 0.2],
        }
    )
    pq.write_table(table, tmp_path / "other.parquet")
    with pytest.raises(DataError, match="does not name the model of its embeddings; give it with --model"):
        read_parquet(tmp_path / "other.parquet")
    found = read_parquet(tmp_path / "other.parquet", MAKER)
    assert found.pictures == {"Ada": 2}
    np.testing.assert_array_equal(found.embeddings, np.eye(4, dtype=np.float32)[:2])
    assert found.records.undated == 2
    assert found.keys == [("ab" * 32, None), ("cd" * 32, None)]


WRONG = {
    "no vector": (
        lambda t: t.drop_columns(["vector"]),
        "has no column vector; a gallery needs name, vector, sha256, file",
    ),
    "another length": (
        lambda t: t.set_column(1, "vector", pa.array([[1.0, 0], [0, 1.0]], pa.list_(pa.float32()))),
        "row 0: a vector of length 2, its model's have 4",
    ),
    "a vector missing": (
        lambda t: t.set_column(1, "vector", pa.array([[1.0, 0, 0, 0], None], pa.list_(pa.float32()))),
        "row 1: a vector of length",
    ),
    "not of unit norm": (
        lambda t: t.set_column(1, "vector", pa.array([[1.0, 0, 0, 0], [2.0, 0, 0, 0]], pa.list_(pa.float32()))),
        "row 1: its vector is not of unit norm",
    ),
    "no number": (
        lambda t: t.set_column(1, "vector", pa.array([[1.0, 0, 0, 0], [np.nan, 0, 0, 0]], pa.list_(pa.float32()))),
        "row 1: its vector is not of unit norm",
    ),
    "a hash": (
        lambda t: t.set_column(2, "sha256", pa.array(["ab", "cd"])),
        "row 0: sha256 is 'ab', not 64 hexadecimal",
    ),
    "a name missing": (lambda t: t.set_column(0, "name", pa.array(["Ada", None])), "row 1: name is None, not text"),
    "an empty name": (lambda t: t.set_column(0, "name", pa.array(["Ada", " "])), "invalid name"),
    "a face twice": (lambda t: pa.concat_tables([t, t]), "holds a face twice"),
    "a date too late": (
        lambda t: t.set_column(9, "enrolled", pa.array([2**58, None], pa.timestamp("ms", "UTC"))),
        "after the year 9999",
    ),
    "words for dates": (lambda t: t.set_column(9, "enrolled", pa.array(["yesterday", None])), "does not hold times"),
    "words for norms": (lambda t: t.set_column(10, "norm", pa.array(["large", None])), "norm does not hold numbers"),
    "half a maker": (
        lambda t: t.replace_schema_metadata({b"vplface_gallery": b'{"maker": {"model": "m"}}'}),
        "the description of its model is incomplete",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_import_parquet_names_what_is_wrong_and_makes_no_gallery(exported, tmp_path, wrong):
    change, message = WRONG[wrong]
    pq.write_table(change(pq.read_table(exported)), tmp_path / "wrong.parquet")
    with pytest.raises(DataError, match=message):
        import_parquet(tmp_path / "wrong.parquet", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", "half"])
def test_read_parquet_names_a_damaged_file(exported, content):
    whole = exported.read_bytes()
    exported.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(DataError, match=r"people\.parquet: not a Parquet file that can be read"):
        read_parquet(exported)


def vplface(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_vplface_enroll_export_and_import_go_round(exported, tmp_path):
    told = vplface("enroll", tmp_path / "people", "--export", tmp_path / "out.parquet")
    assert told.stdout == f"wrote {tmp_path}/out.parquet: 2 people, 2 pictures\n"
    told = vplface("enroll", tmp_path / "new", "--import", tmp_path / "out.parquet")
    assert told.stdout == f"{tmp_path}/new: imported 2 pictures from {tmp_path}/out.parquet\n"
    same(load_gallery(tmp_path / "new"), load_gallery(tmp_path / "people"))
    again = json.loads(vplface("enroll", tmp_path / "new", "--import", tmp_path / "out.parquet", "--json").stdout)
    assert (again["added"], again["there_already"], again["passed_over"]) == (0, 2, [])
    written = json.loads(vplface("enroll", tmp_path / "new", "--export", tmp_path / "2.parquet", "--json").stdout)
    assert (written["people"], written["pictures"], list(written["files"])) == (2, 2, [f"{tmp_path}/2.parquet"])
    for words, status, message in (
        (("new", "--export", "x.csv"), 2, "the name must end in .parquet"),
        (("new", "--import", "nowhere.parquet"), 1, "there is no such file"),
        (("nowhere", "--export", "x.parquet"), 1, "there is no gallery"),
        (("new", "--import", "out.parquet", "--list"), 2, "one of them"),
    ):
        places = [tmp_path / word if "." in word or word in ("new", "nowhere") else word for word in words]
        told = vplface("enroll", *places)
        assert (told.exit_code, message in " ".join(told.stderr.split())) == (status, True), told.stderr


def test_export_parquet_escapes_names_of_files_that_are_no_unicode(tmp_path):
    gallery, _ = Gallery.empty(MAKER).adding([replace(face("Ada", 1), file="\udcff.jpg", path="/\udcff.jpg")])
    export_parquet(gallery, tmp_path / "people.parquet")
    assert read_parquet(tmp_path / "people.parquet").files == ["\\udcff.jpg"]
