"""Periods against the calendar, and dates of enrolment that stay with their pictures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from typer.testing import CliRunner

from helpers.paths import ROOT
from vplface.cli.app import app
from vplface.data.pictures import Preprocessing
from vplface.deploy.gallery import EmbedderFingerprint, EnrolledFace
from vplface.deploy.gallery_folder import add_faces, load_gallery, remove_people, remove_pictures
from vplface.deploy.retention import Period
from vplface.errors import UsageError

MAKER = EmbedderFingerprint("/models/m.onnx", "ab" * 32, 4, Preprocessing(), "sum")
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)


def face(name: str, seed: int, enrolled: datetime | None) -> EnrolledFace:
    seconds = None if enrolled is None else int(enrolled.timestamp())
    vector = np.eye(4, dtype=np.float32)[seed % 4]
    path = f"/photos/{seed}.jpg"
    return EnrolledFace(name, vector, f"{seed:064x}", f"{seed}.jpg", None, seconds, 10.0 + seed, 0.5, path)


@pytest.mark.parametrize(
    ("text", "moment", "before"),
    [
        ("2y", datetime(2026, 12, 1), datetime(2024, 12, 1)),
        ("1 year", datetime(2024, 2, 29), datetime(2023, 2, 28)),
        ("4Y", datetime(2024, 2, 29), datetime(2020, 2, 29)),
        ("1m", datetime(2026, 3, 31), datetime(2026, 2, 28)),
        ("18 months", datetime(2026, 1, 15), datetime(2024, 7, 15)),
        ("3yrs", datetime(2026, 1, 15), datetime(2023, 1, 15)),
        ("12mo", datetime(2026, 1, 15), datetime(2025, 1, 15)),
        ("90d", datetime(2026, 3, 1), datetime(2025, 12, 1)),
        ("2w", datetime(2026, 1, 10), datetime(2025, 12, 27)),
        ("1y6m", datetime(2026, 12, 1), datetime(2025, 6, 1)),
        (" 1 year, 2 days ", datetime(2026, 12, 3), datetime(2025, 12, 1)),
    ],
)
def test_Period_before_follows_the_calendar(text, moment, before):
    assert Period.parse(text).before(moment) == before


@given(
    st.integers(0, 60),
    st.integers(0, 800),
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),
    st.integers(0, 10**7),
)
def test_Period_before_is_earlier_monotone_and_adds_up(months, days, moment, later):
    period = Period(months, days)
    before = period.before(moment)
    assert before <= moment
    assert before <= period.before(moment + timedelta(seconds=later))
    assert Period(0, days).before(Period(months).before(moment)) == before
    assert timedelta(28 * months + days) <= moment - before <= timedelta(31 * months + days)


@pytest.mark.parametrize("text", ["", "2", "y", "2 jahre", "-2y", "1.5y", "2y!", "0d", "101y", "99999y", "2y 3"])
def test_Period_parse_names_what_is_no_period(text):
    with pytest.raises(UsageError, match=r"is not a period; write|at least one day and at most a hundred years"):
        Period.parse(text)


def records(gallery):
    found = gallery.records
    return list(zip(found.enrolled.tolist(), found.norm.tolist(), found.quality.tolist(), found.paths, strict=True))


def test_add_faces_and_removals_keep_date_norm_quality_and_path_with_their_picture(tmp_path):
    add_faces(tmp_path, MAKER, [face("a", 0, NOW), face("b", 1, NOW - timedelta(1)), face("a", 2, None)])
    add_faces(tmp_path, MAKER, [face("c", 3, NOW)])
    day = 86_400
    noon = int(NOW.timestamp())
    assert records(load_gallery(tmp_path)) == [
        (noon, 10.0, 0.5, "/photos/0.jpg"), (noon - day, 11.0, 0.5, "/photos/1.jpg"), (-1, 12.0, 0.5, "/photos/2.jpg"),
        (noon, 13.0, 0.5, "/photos/3.jpg"),
    ]  # fmt: skip
    remove_people(tmp_path, ["b"])
    assert [each[1] for each in records(load_gallery(tmp_path))] == [10.0, 12.0, 13.0]
    assert b"/photos/1.jpg" not in (tmp_path / "gallery.safetensors").read_bytes()


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-3, 3) | st.none()), min_size=1, max_size=12))
def test_remove_pictures_deletes_what_was_enrolled_until_a_moment_and_nothing_else(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("people")
    faces = [
        face(name, seed, None if days is None else NOW + timedelta(days)) for seed, (name, days) in enumerate(rows)
    ]
    add_faces(folder, MAKER, faces)
    before = remove_pictures(folder, lambda gallery: gallery.records.enrolled_until(NOW))
    assert len(before) == len(rows)
    stays = [seed for seed, (_, days) in enumerate(rows) if days is None or days > 0]
    left = load_gallery(folder)
    assert left.files == [f"{seed}.jpg" for seed in stays]
    assert [left.names[person] for person in left.person] == [rows[seed][0] for seed in stays]
    assert set(left.names) == {rows[seed][0] for seed in stays}


def vplface(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def people(tmp_path):
    now = datetime.now(UTC)
    old, older, new = (now - timedelta(days) for days in (731, 900, 3))
    faces = [face("Ada", 1, old), face("Ada", 2, new), face("Zoë", 3, older), face("Grace", 4, None)]
    add_faces(tmp_path / "people", MAKER, faces)
    return tmp_path / "people"


def test_vplface_enroll_expire_lists_then_deletes(people):
    stored = (people / "gallery.safetensors").read_bytes()
    first, *_ = (datetime.now(UTC) - timedelta(731)).isoformat().split("T")
    for words in (("--expire", "2y"), ("--list", "--expire", "2y")):
        told = vplface("enroll", people, *words)
        assert told.exit_code == 0, told.stderr
        assert told.stdout.splitlines()[0] == f"Ada  1 of 2  {first}"
        assert told.stdout.splitlines()[1].startswith("Zoë  1 of 1  ")
        assert f"{people}: expired: 2 pictures of 2 people, enrolled until " in told.stdout
        assert "nothing was deleted, --delete does it" in told.stdout
        assert "note: 1 picture without a date of enrolment" in told.stderr
    assert (people / "gallery.safetensors").read_bytes() == stored
    told = json.loads(vplface("enroll", people, "--expire", "2y", "--delete", "--json").stdout)
    assert (told["deleted"], told["undated"]) == (True, 1)
    assert [(each["name"], each["all"], len(each["pictures"])) for each in told["expired"]] == [
        ("Ada", False, 1), ("Zoë", True, 1),
    ]  # fmt: skip
    assert load_gallery(people).pictures == {"Ada": 1, "Grace": 1}
    again = vplface("enroll", people, "--expire", "2y", "--delete")
    assert "deleted 0 pictures of 0 people" in again.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--expire", "2 jahre"), "'2 jahre' is not a period"),
        (("--delete",), "--expire PERIOD"),
        (("--list", "--delete"), "--delete goes with --expire PERIOD"),
        (("--list", "--expire", "2y", "--delete"), "--list deletes nothing"),
        (("--remove", "Ada", "--expire", "2y"), "one of them"),
    ],
)
def test_vplface_enroll_expire_refuses_other_words_and_changes_nothing(people, words, message):
    stored = (people / "gallery.safetensors").read_bytes()
    told = vplface("enroll", people, *words)
    assert told.exit_code == 2
    assert message in " ".join(told.stderr.split())
    assert (people / "gallery.safetensors").read_bytes() == stored


def test_load_gallery_reads_a_gallery_of_schema_1_without_dates_and_writes_schema_2(tmp_path):
    shutil.copytree(ROOT / "tests" / "fixtures" / "v0.1" / "gallery", tmp_path / "people")
    old = load_gallery(tmp_path / "people")
    assert old.records.undated == len(old) == 6
    assert np.isnan(old.records.norm).all()
    listed = vplface("enroll", tmp_path / "people", "--list")
    assert listed.stdout.splitlines()[0] == "id_01000  2  undated"
    vector = np.zeros(old.fingerprint.embedding_dim, np.float32)
    vector[0] = 1
    add_faces(tmp_path / "people", old.fingerprint, [replace(face("new", 1, NOW), embedding=vector)])
    path = tmp_path / "people" / "gallery.safetensors"
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()["vplface_gallery"])["schema"] == 2
    assert safetensors.numpy.load_file(path)["enrolled"].tolist() == [-1] * 6 + [int(NOW.timestamp())]
    grown = load_gallery(tmp_path / "people")
    np.testing.assert_array_equal(grown.embeddings[:6], old.embeddings)
    assert grown.files[:6] == old.files
