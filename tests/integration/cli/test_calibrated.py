"""From ``evaluate --calibrate`` to the probabilities of ``verify`` and ``identify``."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from helpers.painted import write
from vplface.backbones import build
from vplface.cli.app import app
from vplface.demo.fragments import verdict
from vplface.deploy.decision import load_operating_point, resolve_threshold
from vplface.embedder import Embedder
from vplface.evaluation import Evaluation
from vplface.evaluation.operating_point import OperatingPoint
from vplface.stored_model import ModelCard, save_model

PEOPLE = 24


def vplface(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, 24 people with three pictures each, their list, and a stored calibration."""
    root = tmp_path_factory.mktemp("calibrated")
    torch.manual_seed(0)
    backbone = build("tiny", 16, width=8)
    backbone(torch.rand(8, 3, 112, 112) * 2 - 1)
    save_model(root / "run", backbone, ModelCard("tiny", 16, {"width": 8}))
    rng = np.random.default_rng(0)
    for person in range(PEOPLE):
        face = rng.integers(40, 216, (8, 8, 3))
        for number in range(3):
            noisy = np.clip(face + rng.normal(0, 35, face.shape), 0, 255).astype(np.uint8)
            write(root / f"faces/p{person}/{number}.png", noisy.repeat(14, 0).repeat(14, 1))
    (root / "people.txt").write_text("".join(f"p{person}\n" for person in range(PEOPLE)))
    result = evaluated(root, "--calibrate", "isotonic", "--save-operating-point", 0.05, "--report", root / "page.html")
    assert result.exit_code == 0, result.output
    (root / "shown.txt").write_text(result.stdout)
    return root


def evaluated(root, *words):
    arguments = ["--data", root / "faces", "--people", root / "people.txt", "--far", 0.05, "--bootstrap", 20]
    return vplface("evaluate", root / "run", *arguments, *words)


def test_evaluate_calibrate_shows_stores_and_draws_it(place):
    shown = (place / "shown.txt").read_text()
    assert "isotonic calibration" in shown
    assert re.search(r"Cllr 0\.\d{4} \(0\.\d{4} … 0\.\d{4}\), minCllr 0\.\d{4}:", shown)
    assert "Fitted on 12 people, judged on 12 others" in shown
    assert OperatingPoint.load(place / "run").calibration.people == 12
    page = (place / "page.html").read_text()
    assert "<h3>Calibration</h3>" in page
    assert "Log-likelihood ratio over the similarity" in page


def test_evaluate_calibrate_json_can_be_read_back(place, tmp_path):
    result = evaluated(place, "--calibrate", "logistic", "--json", "--out", tmp_path / "result.json")
    found = json.loads(result.stdout)["calibration"]
    assert found["fit"]["method"] == "logistic"
    assert found["min_cllr"] <= found["cllr"]["value"]
    stored = json.loads((tmp_path / "result.json").read_text())["evaluation"]
    assert Evaluation.from_dict(stored).calibration == found
    assert "calibration" not in json.loads(evaluated(place, "--json").stdout)


def test_verify_gives_the_probability_of_the_stored_calibration(place):
    pair = place / "faces/p0/0.png", place / "faces/p0/1.png"
    found = json.loads(vplface("verify", place / "run", *pair, "--prior", 0.1, "--json").stdout)
    calibration = OperatingPoint.load(place / "run").calibration
    (llr,) = calibration.llr(np.array([found["similarity"]]))
    evidence = found["evidence"]
    assert (evidence["prior"], evidence["llr"]) == (0.1, pytest.approx(llr))
    assert evidence["probability"] == pytest.approx(1 / (1 + 9 * np.exp(-llr)))
    shown = vplface("verify", place / "run", *pair).stdout
    assert re.search(
        r"probability of one person: (at least )?0\.\d{4} at a prior of 0\.5 \(log-likelihood ratio", shown
    )
    assert "probability" not in vplface("verify", place / "run", *pair, "--threshold", 0.4).stdout


def test_verify_says_where_the_ratio_is_cut_off(place):
    same = place / "faces/p0/0.png"
    shown = vplface("verify", place / "run", same, same).stdout
    highest = OperatingPoint.load(place / "run").calibration.highest
    assert f"(log-likelihood ratio at least {highest:.2f})" in shown


def test_identify_gives_probabilities_for_people_with_one_picture(place, tmp_path):
    gallery = tmp_path / "people"
    vplface("enroll", gallery, "--model", place / "run", "--name", "one", place / "faces/p0/0.png")
    vplface("enroll", gallery, "--name", "two", place / "faces/p1/0.png", place / "faces/p1/1.png")
    probes = place / "faces/p0/0.png", place / "faces/p1/0.png"
    found = json.loads(vplface("identify", gallery, *probes, "--top", 1, "--json").stdout)
    faces = {face["matches"][0]["name"]: face for picture in found["pictures"] for face in picture["faces"]}
    assert set(faces) == {"one", "two"}
    assert faces["one"]["evidence"]["prior"] == pytest.approx(1 / 3)
    assert faces["two"]["evidence"] is None
    assert vplface("identify", gallery, *probes).stdout.count("probability of one person") == 1
    assert "at a prior of 0.2 " in vplface("identify", gallery, *probes, "--prior", 0.2).stdout


def test_the_demo_shows_the_probability(place):
    point = load_operating_point(place / "run", None)
    card = Embedder.load(place / "run").card
    threshold = resolve_threshold(place / "run", point, None, "sum", card.preprocessing)
    assert "probability of one person" in verdict(0.5, threshold, place / "run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--prior", "1"), "--prior 1: a probability above 0 and below 1"),
        (("--prior", "-2"), "--prior -2: a probability above 0 and below 1"),
    ],
)
def test_verify_refuses_a_prior_that_decides_alone(place, words, message):
    picture = place / "faces/p0/0.png"
    result = vplface("verify", place / "run", picture, picture, *words)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_evaluate_calibrate_needs_people_and_enough_of_them(place, tmp_path):
    (tmp_path / "few.txt").write_text("p0\np1\np2\n")
    few = vplface(
        "evaluate",
        place / "run",
        "--data",
        place / "faces",
        "--people",
        tmp_path / "few.txt",
        "--calibrate",
        "isotonic",
    )
    assert few.exit_code == 1
    assert "needs 10 people with several pictures" in few.stderr
    pairs = vplface(
        "evaluate", place / "run", "--data", place / "faces", "--pairs", "none.txt", "--calibrate", "isotonic"
    )
    assert pairs.exit_code == 2
    assert "give --people" in " ".join(pairs.stderr.replace("│", " ").split())


def test_a_damaged_calibration_names_the_file(place, tmp_path):
    path = place / "run/operating_point.json"
    values = json.loads(path.read_text())
    (tmp_path / "point.json").write_text(json.dumps(values | {"calibration": {"method": "isotonic"}}))
    result = evaluated(place, "--operating-point", tmp_path / "point.json")
    assert result.exit_code == 1
    assert "point.json: 'calibration': not a calibration" in result.stderr


def test_evaluate_operating_point_judges_the_stored_calibration(place, tmp_path):
    point = place / "run/operating_point.json"
    shown = evaluated(place, "--operating-point", point, "--report", tmp_path / "page.html")
    assert "stored isotonic calibration" in shown.stdout
    assert "Fitted on 12 people, judged on 24 others" in shown.stdout
    assert "<h3>Calibration</h3>" in (tmp_path / "page.html").read_text()
    found = json.loads(evaluated(place, "--operating-point", point, "--json").stdout)
    assert found["promise"]["calibration"]["judged_people"] == PEOPLE


def test_a_prior_without_a_calibration_is_refused(place):
    picture = place / "faces/p0/0.png"
    result = vplface("verify", place / "run", picture, picture, "--threshold", 0.4, "--prior", 0.2)
    assert result.exit_code == 2
    assert "--prior needs a calibration" in " ".join(result.stderr.replace("│", " ").split())
