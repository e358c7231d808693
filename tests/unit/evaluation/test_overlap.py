from __future__ import annotations

import base64
import json
import math
import re

import cv2
import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from vplface.cli import data_overlap
from vplface.cli.data_overlap import overlap
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.people import read_people
from vplface.data.pictures import Preprocessing
from vplface.embedder import Embedder
from vplface.errors import DataError, UsageError
from vplface.evaluation import overlap as module
from vplface.evaluation.overlap import choose_threshold, estimated_rate, find_overlap, spelling, write_exclude_list
from vplface.report import overlap_page
from vplface.stored_model import ModelCard

DIM = 64


class Set:
    """Pictures that are nothing but their embeddings."""

    def __init__(self, prefix, embeddings, labels, identities=None):
        self.embeddings = np.asarray(embeddings, np.float32)
        self.embeddings /= np.linalg.norm(self.embeddings, axis=1, keepdims=True)
        self.labels = np.asarray(labels, np.int64)
        self.identities = [f"{prefix}{i}" for i in range(identities or self.labels.max() + 1)]

    def __len__(self):
        return len(self.labels)

    def name(self, index):
        return f"{self.identities[self.labels[index]]}/{index}.png"


class Stored:
    def embed_set(self, pictures, indices, flip, batch_size, workers, description):
        assert indices is None
        assert flip == "sum"
        return pictures.embeddings


def people(rng, directions, pictures, noise=0.05):
    labels = rng.permutation(np.repeat(np.arange(len(directions)), pictures))
    return directions[labels] + noise * rng.normal(size=(len(labels), DIM)), labels


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_find_overlap_finds_planted_people_and_nobody_else(rng):
    who = rng.normal(size=(250, DIM))
    train = Set("t", *people(rng, who[:120], 5))
    test = Set("e", *people(rng, who[[7, 33, 118, *range(130, 250)]], 3))
    planted = {("t7", "e0"), ("t33", "e1"), ("t118", "e2")}
    by_default = find_overlap(train, test, Stored())
    assert {(match.train, match.test) for match in by_default.matches[:3]} == planted
    assert by_default.expected_false_flags == pytest.approx(120 * 2 / 124)
    assert by_default.threshold < 0.65
    found = find_overlap(train, test, Stored(), threshold=0.75)
    assert {(match.train, match.test) for match in found.matches} == planted
    assert found.flagged == [match.train for match in found.matches]
    similarities = [match.similarity for match in found.matches]
    assert similarities == sorted(similarities, reverse=True)
    assert found.nearest_below < 0.65
    assert similarities[-1] > 0.95
    assert (found.train_identities, found.test_identities) == (120, 123)
    for match in found.matches:
        assert train.name(match.train_index) == match.train_picture
        assert test.name(match.test_index) == match.test_picture
        assert match.train_picture.startswith(match.train + "/")
        alike = (
            train.embeddings[train.labels == int(match.train[1:])]
            @ test.embeddings[test.labels == int(match.test[1:])].T
        )
        assert match.picture_similarity == pytest.approx(alike.max())
        pair = train.embeddings[match.train_index] @ test.embeddings[match.test_index]
        assert pair == pytest.approx(match.picture_similarity)


@pytest.mark.parametrize("elements", [1, 50, 1 << 22])
def test_find_overlap_agrees_with_a_plain_loop_for_any_block_size(rng, monkeypatch, elements):
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", elements)
    train = Set("t", *people(rng, rng.normal(size=(9, DIM)), 3, noise=1.0))
    test = Set("e", *people(rng, rng.normal(size=(13, DIM)), 2, noise=1.0))

    def mean(pictures, label):
        total = sum(
            e.astype(float) for e, owner in zip(pictures.embeddings, pictures.labels, strict=True) if owner == label
        )
        return total / math.sqrt(total @ total)

    expected = {(f"t{i}", f"e{j}"): mean(train, i) @ mean(test, j) for i in range(9) for j in range(13)}
    everything = find_overlap(train, test, Stored(), threshold=-1.0)
    assert {(m.train, m.test): m.similarity for m in everything.matches} == pytest.approx(expected)
    assert everything.nearest_below is None
    assert len(everything.flagged) == 9
    chosen = find_overlap(train, test, Stored(), threshold=0.2)
    assert len(chosen.matches) == sum(value >= 0.2 for value in expected.values()) > 0
    assert chosen.nearest_below == pytest.approx(max(value for value in expected.values() if value < 0.2))
    nearest = [max(mean(test, i) @ mean(test, j) for j in range(13) if j != i) for i in range(13)]
    assert chosen.false_flag_rate == (sum(value >= 0.2 for value in nearest) + 2) / 14
    assert find_overlap(train, test, Stored(), false_flag_rate=0.3).threshold == pytest.approx(
        choose_threshold(np.array(nearest), 0.3)
    )


def test_find_overlap_does_not_match_on_one_mislabelled_picture(rng):
    who = rng.normal(size=(60, DIM))
    embeddings, labels = people(rng, who[:10], 10)
    embeddings[np.flatnonzero(labels == 4)[0]] = who[20]  # one of the ten shows somebody of the test set
    test = Set("e", *people(rng, who[20:], 2))
    assert find_overlap(Set("t", embeddings, labels), test, Stored()).matches == []


def test_Overlap_flagged_lists_each_identity_once(rng):
    who = rng.normal(size=(30, DIM))
    train = Set("t", *people(rng, who[:5], 4))
    test = Set("e", *people(rng, who[[2, 2, *range(10, 30)]], 4))
    found = find_overlap(train, test, Stored(), threshold=0.8)
    assert {match.test for match in found.matches} == {"e0", "e1"}
    assert found.flagged == ["t2"]


def test_find_overlap_flags_strangers_at_the_stated_rate(rng):
    train = Set("t", rng.normal(size=(4000, DIM)), np.arange(4000))
    test = Set("e", rng.normal(size=(1000, DIM)), np.arange(1000))
    found = find_overlap(train, test, Stored(), false_flag_rate=0.05)
    assert found.expected_false_flags == pytest.approx(200, abs=5)
    assert 140 < len(found.flagged) < 260


def test_find_overlap_without_common_people_finds_nothing_and_allows_empty_identities(rng):
    train = Set("t", np.eye(DIM)[:3], [0, 1, 3])
    test = Set("e", np.eye(DIM)[10:20], np.arange(10), identities=11)
    found = find_overlap(train, test, Stored())
    assert found.matches == found.flagged == []
    assert found.nearest_below == 0.0
    assert json.loads(json.dumps(found.to_dict()))["matches"] == []


def test_find_overlap_refuses_wrong_arguments(rng):
    train = Set("t", np.eye(DIM)[:3], [0, 1, 2])
    with pytest.raises(DataError, match="1 identity"):
        find_overlap(train, Set("e", np.eye(DIM)[:1], [0]), Stored())
    with pytest.raises(ValueError, match="rate"):
        find_overlap(train, train, Stored(), false_flag_rate=0.0)


NEAREST = np.array([0.5, 0.9, 0.2, 0.8, 0.4, 0.8, 0.3, 0.1, 0.05])


@pytest.mark.parametrize(
    ("rate", "threshold", "reached"),
    [
        (0.2, math.nextafter(0.9, 1), 0.2),  # nobody of nine: (0 + 2)/10
        (0.01, math.nextafter(0.9, 1), 0.2),  # the lowest rate that nine people can show
        (0.3, 0.85, 0.3),
        (0.4, 0.85, 0.3),  # two have the same similarity: both or neither
        (0.5, 0.65, 0.5),
        (0.99, 0.15, 0.9),
    ],
)
def test_choose_threshold_matches_values_computed_by_hand(rate, threshold, reached):
    assert choose_threshold(NEAREST, rate) == pytest.approx(threshold, abs=1e-15)
    assert estimated_rate(NEAREST, choose_threshold(NEAREST, rate)) == pytest.approx(reached)


def test_estimated_rate_matches_values_computed_by_hand():
    assert estimated_rate(NEAREST, 0.8) == 0.5  # at the threshold counts
    assert estimated_rate(NEAREST, 1.0) == 0.2
    assert estimated_rate(NEAREST, -1.0) == 1.0


@given(
    st.lists(st.floats(-1, 1) | st.sampled_from([0.0, 0.5]), min_size=1, max_size=300),
    st.floats(0.001, 0.999),
)
def test_choose_threshold_is_the_lowest_that_keeps_the_rate(nearest, rate):
    nearest = np.array(nearest)
    threshold = choose_threshold(nearest, rate)
    smallest = min(1.0, 2 / (len(nearest) + 1))
    assert estimated_rate(nearest, threshold) <= max(rate, smallest) + 1e-9
    lower = nearest[nearest < threshold]
    assert estimated_rate(nearest, lower.max()) > max(rate, smallest) - 1e-9


def test_write_exclude_list_is_read_back_by_read_people_and_refuses_unsafe_names(tmp_path):
    path = tmp_path / "deep" / "exclude.txt"
    write_exclude_list(path, ["2880", "Zoë, Ω", "a b"])
    assert read_people(path) == ["2880", "Zoë, Ω", "a b"]
    write_exclude_list(path, [])
    assert path.read_bytes() == b""
    for name in ("two\tfields", "two\nlines", " blank"):
        with pytest.raises(DataError, match="rename"):
            write_exclude_list(path, ["fine", name])
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("Al_Gore", "al gore"),
        ("Núñez, Ana_María", "ana.maria-nunez"),
        ("O'Neal Shaquille", "Shaquille_ONeal"),
        ("ＡＢＢＡ", "abba"),
        ("王_菲", "菲 王"),
    ],
)
def test_spelling_is_equal_for_variants_of_one_name(name, other):
    assert spelling(name) == spelling(other) != ""


@pytest.mark.parametrize("name", ["0001", "n000002", "m.01abc", "", "___", "…"])
def test_spelling_is_empty_for_numeric_identifiers_and_punctuation(name):
    assert spelling(name) == ""


def test_spelling_differs_for_different_names():
    assert len({spelling(name) for name in ("Al_Gore", "Al_Gor", "Alice_Gore", "Gore", "Al_B_Gore")}) == 5


def test_find_overlap_flags_people_of_equal_name_even_with_dissimilar_faces(rng):
    who = rng.normal(size=(60, DIM))
    test = Set("s", *people(rng, who[:50], 3))
    train = Set("t", *people(rng, who[48:60], 3))
    test.identities[0], test.identities[48], test.identities[5] = "Ada_Lovelace", "Grace Hopper", "7"
    train.identities[3], train.identities[0], train.identities[9] = "ada lovelace", "Hopper, Grace", "7"
    found = find_overlap(train, test, Stored(), threshold=0.9)
    assert {(match.train, match.test) for match in found.matches} == {("Hopper, Grace", "Grace Hopper"), ("t1", "s49")}
    named = [(match.train, match.test) for match in found.same_names]
    assert named == [("ada lovelace", "Ada_Lovelace"), ("Hopper, Grace", "Grace Hopper")]  # the doubtful first
    assert [match.train for match in found.by_name_alone] == ["ada lovelace"]
    assert found.same_names[0].similarity < 0.5 < found.same_names[1].similarity
    assert set(found.flagged) == {"Hopper, Grace", "t1", "ada lovelace"}
    assert found.flagged[-1] == "ada lovelace"
    assert [match["train"] for match in found.to_dict()["same_names"]] == ["ada lovelace", "Hopper, Grace"]


app = typer.Typer()
app.command()(overlap)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def bands(x):
    """An embedding that mirroring does not change: the mean colour of 16 bands."""
    return x.reshape(len(x), 3, 16, 7, 112).mean((3, 4)).flatten(1)


@pytest.fixture
def folders(tmp_path, rng, monkeypatch):
    """Two folders, in which train/c and test/Ann, and train/a and test/Bo, show the same people."""
    who = rng.integers(0, 256, (20, 16, 1, 3))
    for folder, identities in (
        ("train", {"a": 0, "b": 1, "c": 2, "d": 3}),
        ("test", {"Ann": 2, "Bo": 0} | {f"x{i}": i for i in range(4, 16)}),
    ):
        for name, person in identities.items():
            (tmp_path / folder / name).mkdir(parents=True)
            for number in range(6):
                picture = (who[person] + rng.integers(-8, 9, (16, 112, 3))).clip(0, 255).astype(np.uint8).repeat(7, 0)
                cv2.imwrite(str(tmp_path / folder / name / f"{number}.png"), picture)
    asked = []

    def load(path, device, preprocessing):
        asked.append((path, device, preprocessing))
        return Embedder(bands, ModelCard("bands", 48, preprocessing=preprocessing or Preprocessing()))

    monkeypatch.setattr(Embedder, "load", load)
    return tmp_path, asked


def test_vplface_data_overlap_json_reports_matches_and_writes_list_and_sheet(folders):
    root, asked = folders
    out, sheet = root / "exclude.txt", root / "sheet.png"
    command = [root / "train", "--against", root / "test", "--model", "judge.onnx", "--out", out, "--sheet", sheet]
    options = ["--color", "bgr", "--mean", ".485,.456,.406", "--std", ".2,.3,.4", "--json"]
    result = run(*command, *options)
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert asked[0][2] == Preprocessing(112, "bgr", (0.485, 0.456, 0.406), (0.2, 0.3, 0.4))
    assert {(match["train"], match["test"]) for match in report["matches"]} == {("c", "Ann"), ("a", "Bo")}
    assert report["schema"] == 1
    assert report["protocol"]["flip"] == "sum"
    assert report["expected_false_flags"] == pytest.approx(4 * 2 / 15)
    assert set(report["files"]) == {str(out), str(sheet)}
    assert read_people(out) == report["flagged"]
    drawn = cv2.cvtColor(cv2.imread(str(sheet)), cv2.COLOR_BGR2RGB)
    first = report["matches"][0]
    train, test = ImageFolder(root / "train"), ImageFolder(root / "test")
    top = 26 + 22  # below the note and the caption of the first match
    np.testing.assert_array_equal(drawn[top : top + 112, :112], train.picture(first["train_index"]))
    np.testing.assert_array_equal(drawn[top : top + 112, 472:584], test.picture(first["test_index"]))
    assert drawn.shape == (26 + 2 * 134, 8 * 112 + 24, 3)


def test_vplface_data_overlap_prints_matches_and_people_restricts_the_test_set(folders):
    root, asked = folders
    (root / "people.txt").write_text("Ann\nx4\nx5\nx6\n")
    command = [root / "train", "--against", root / "test", "--model", "judge.onnx", "--people", root / "people.txt"]
    result = run(*command, "--sheet", root / "sheet.jpg", "--threshold", "0.9")
    assert asked[0][2] is None
    assert "c is probably Ann" in result.stdout
    assert "1 of 4 training identities flagged against 4 people of the test set, at similarity 0.900" in result.stdout
    nothing = run(*command, "--threshold", "1", "--out", root / "none.txt", "--sheet", root / "none.png")
    assert "0 of 4 training identities flagged" in nothing.stdout
    assert (root / "none.txt").read_bytes() == b""
    assert cv2.imread(str(root / "none.png")).shape[0] == 26


def test_vplface_data_overlap_page_shows_matches_by_face_and_by_name(folders):
    root, _ = folders
    (root / "train" / "d").rename(root / "train" / "X_<Y>")
    (root / "test" / "x4").rename(root / "test" / "x <y>")
    page = root / "matches.html"
    result = run(root / "train", "--against", root / "test", "--model", "m", "--page", page, "--threshold", "0.9")
    assert "X_<Y> has the same name as x <y>" in result.stdout
    assert "3 of 4 training identities flagged" in result.stdout
    assert "1 of them by their names alone" in result.stdout
    text = page.read_text(encoding="utf-8")
    assert "By their faces (2)" in text
    assert "By name alone (1)" in text
    assert text.count("<img ") == 6
    assert "X_&lt;Y&gt; | x &lt;y&gt;" in text
    assert "<Y>" not in text
    shown = [base64.b64decode(data) for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", text)]
    pictures = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for data in shown]
    match = json.loads(
        run(root / "train", "--against", root / "test", "--model", "m", "--threshold", "0.9", "--json").stdout
    )["matches"][-1]  # the least alike stands first
    train, test = ImageFolder(root / "train"), ImageFolder(root / "test")
    assert np.abs(pictures[0].astype(int) - train.picture(match["train_index"])).mean() < 15  # stripes blur in a JPEG
    assert np.abs(pictures[1].astype(int) - test.picture(match["test_index"])).mean() < 15
    assert np.abs(pictures[0].astype(int) - pictures[2]).mean() > 30  # another person


def test_vplface_data_overlap_page_beyond_PAGE_BYTES_omits_further_pictures(folders, monkeypatch):
    root, _ = folders
    monkeypatch.setattr(overlap_page, "PAGE_BYTES", 1)
    run(root / "train", "--against", root / "test", "--model", "m", "--threshold", "0.9", "--page", root / "p.html")
    text = (root / "p.html").read_text(encoding="utf-8")
    assert text.count("<img ") == 2
    assert text.count("<figure>") == 2


def test_vplface_data_overlap_sheet_draws_a_limited_number_of_matches(folders, monkeypatch):
    root, _ = folders
    monkeypatch.setattr(data_overlap, "_ROWS", 3)
    run(root / "train", "--against", root / "test", "--model", "m", "--threshold", "-1", "--sheet", root / "sheet.png")
    assert cv2.imread(str(root / "sheet.png")).shape[0] == 26 + 3 * 134


@pytest.mark.parametrize(
    "wrong",
    [
        ["--rate", "0"],
        ["--threshold", "45"],
        ["--sheet", "sheet.gif"],
        ["--page", "page.pdf"],
        ["--mean", "0.5"],
        ["--mean", "a,b,c"],
        ["--std", "0,1,1"],
    ],
)
def test_vplface_data_overlap_refuses_invalid_options(folders, wrong):
    root, _ = folders
    with pytest.raises(UsageError, match=wrong[0]):
        run(root / "train", "--against", root / "test", "--model", "judge.onnx", *wrong)


def test_vplface_data_overlap_names_an_unreadable_picture(folders):
    root, _ = folders
    (root / "train" / "b" / "3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b/3\.png"):
        run(root / "train", "--against", root / "test", "--model", "judge.onnx")
