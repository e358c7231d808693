"""``vplface evaluate --degrade`` on a small folder of made-up faces and a small untrained network."""

from __future__ import annotations

import base64
import json
import re

import cv2
import numpy as np
import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from vplface.backbones import build
from vplface.cli.degrade import parse_degradations
from vplface.cli.evaluate import evaluate
from vplface.data.degrade import KINDS, Degradation, LowResolution, Noise
from vplface.data.formats.image_folder import ImageFolder
from vplface.embedder import Embedder
from vplface.errors import UsageError
from vplface.evaluation import EvalOptions, Evaluation
from vplface.evaluation.task import open_task
from vplface.stored_model import ModelCard, save_model

app = typer.Typer()
app.command()(evaluate)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models, a folder of 6 people with 3 pictures each, a list of pairs and one of people."""
    root = tmp_path_factory.mktemp("degraded")
    for seed, name in enumerate(("model", "other")):
        torch.manual_seed(seed)
        save_model(root / name, build("tiny", 16, width=8), ModelCard("tiny", 16, {"width": 8}))
    rng = np.random.default_rng(0)
    for person in range(6):
        face = rng.integers(0, 256, (7, 7, 3))
        (root / f"faces/p{person}").mkdir(parents=True)
        for number in range(3):
            noisy = np.clip(face + rng.normal(0, 40, face.shape), 0, 255).astype(np.uint8)
            large = cv2.resize(noisy, (112, 112), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(root / f"faces/p{person}/{number}.png"), large)
    lines = [f"p{p}/0 p{q}/1 {int(p == q)}" for p in range(6) for q in (p, (p + 1) % 6)]
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")
    (root / "people.txt").write_text("\n".join(f"p{p}" for p in range(5)) + "\n")
    return root


def run(place, *arguments, models=("model",)):
    given = [str(place / model) for model in models]
    base = ["--data", str(place / "faces"), "--bootstrap", "20", "--far", "0.2"]
    return CliRunner().invoke(app, [*given, *base, *map(str, arguments)])


def as_json(result):
    assert result.exit_code == 0, result.output + str(result.exception)
    return json.loads(result.stdout)


@pytest.mark.parametrize("question", ["pairs", "people"])
@pytest.mark.parametrize("probes", [False, True])
def test_vplface_evaluate_degrade_gives_the_figures_of_the_task_beside_the_clean_ones(place, question, probes):
    asked = f"--{question}", place / f"{question}.txt"
    options = f"noise:share=0.5,sigma=50-60,seed=1,probes={str(probes).lower()}"
    said = as_json(run(place, *asked, "--degrade", options, "--degrade", "low_resolution", "--json"))
    clean = as_json(run(place, *asked, "--json"))
    assert {key: said[key] for key in ("protocol", "metrics")} == {key: clean[key] for key in ("protocol", "metrics")}
    noise = Degradation(Noise((50.0, 60.0)), 0.5, 1, probes)
    task = open_task(place / "faces", **{question: place / f"{question}.txt"}).with_degraded(noise)
    counted = int(task.pictures.degraded[task.used].sum())
    assert 0 < counted < len(task.used)
    first, second = said["degraded"]
    assert first["protocol"]["degrade"] == noise.to_dict() | {"pictures": counted}
    assert second["protocol"]["degrade"]["pictures"] == len(
        task.used if question == "people" else set(task.pictures.places[task.used])
    )
    embeddings = task.embed(Embedder.load(place / "model"), "sum")
    expected = task.evaluate(embeddings, EvalOptions(fars=[0.2], bootstrap=20)).metrics
    for metric, figure in expected.items():
        assert first["metrics"][metric]["value"] == pytest.approx(figure.value, abs=1e-6), metric
    assert first["metrics"] != clean["metrics"]


def test_vplface_evaluate_degrade_gives_the_same_with_workers(place):
    asked = "--pairs", place / "pairs.txt", "--degrade", "surveillance:share=0.5", "--json"
    one, two = (as_json(run(place, *asked, "--workers", workers))["degraded"] for workers in (0, 2))
    assert one == two


def test_vplface_evaluate_degrade_compares_models_on_degraded_pictures_too(place):
    asked = "--pairs", place / "pairs.txt", "--compare", "--degrade", "noise"
    said = as_json(run(place, *asked, "--json", models=("model", "other")))
    other = str(place / "other")
    (degraded,) = said["degraded_differences"][other]
    first, second = (model["degraded"][0]["metrics"]["auc"]["value"] for model in said["models"])
    assert degraded["auc"]["difference"] == pytest.approx(second - first)
    assert degraded != said["differences"][other]
    assert run(place, *asked, models=("model", "other")).output.count("(percentage points") == 2


def test_vplface_evaluate_degrade_counts_a_degraded_copy_in_the_group_of_its_picture(place, tmp_path):
    (tmp_path / "groups.csv").write_text("".join(f"p{p},{'ab'[p % 2]}\n" for p in range(6)), encoding="utf-8")
    asked = "--pairs", place / "pairs.txt", "--groups", tmp_path / "groups.csv"
    said = as_json(run(place, *asked, "--degrade", "noise:share=0.5,probes=true", "--json"))
    assert said["degraded"][0]["groups"]["groups"] == said["groups"]["groups"]


def test_vplface_evaluate_degrade_prints_a_table_stores_the_whole_and_shows_the_degraded_pictures(place, tmp_path):
    result = run(
        *(place, "--pairs", place / "pairs.txt", "--degrade", "darkness:light=0,noise=0,probes=true"),
        *("--out", tmp_path / "whole.json", "--report", tmp_path / "page.html"),
    )
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "1 darkness: 6 pictures are degraded: darkness (light 0, noise 0) of 100 % of the probes, seed 0." in said
    whole = json.loads((tmp_path / "whole.json").read_text(encoding="utf-8"))
    (stored,) = whole["degraded"]
    evaluation = Evaluation.from_dict(stored["evaluation"])
    assert evaluation.metrics["auc"].value == stored["metrics"]["auc"]["value"]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "degraded pictures: 6, darkness (light 0, noise 0)" in page
    shown = dict(re.findall(r'src="data:image/jpeg;base64,([^"]+)"\s+alt="([^"]+ \(degraded\))"', page))
    assert shown
    for encoded in shown:
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)
        assert picture.max() < 8  # black
    clean = ImageFolder(place / "faces").picture(0)
    assert clean.max() > 100


def test_vplface_evaluate_degrade_refuses_embeddings(place, tmp_path):
    np.save(tmp_path / "faces.npy", np.ones((18, 4), np.float32))
    asked = ["--data", str(place / "faces"), "--pairs", str(place / "pairs.txt"), "--degrade", "noise"]
    result = CliRunner().invoke(app, [str(tmp_path / "faces.npy"), *asked])
    with pytest.raises(UsageError, match=r"--degrade changes pictures, and .* holds embeddings"):
        raise result.exception


def test_parse_degradations_reads_kinds_ranges_and_options():
    texts = ["low_resolution:pixels=7-11,share=.2,seed=3", "noise", "noise:sigma=20,probes=true", "blur:sigma=1e0"]
    first, second, third, fourth = parse_degradations(texts)
    assert first == Degradation(LowResolution((7, 11)), 0.2, 3)
    assert second == Degradation(Noise())
    assert third == Degradation(Noise((20.0, 20.0)), probes=True)
    assert fourth.kind.sigma == (1.0, 1.0)
    assert parse_degradations([]) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lowres", "kind 'lowres' is unknown; did you mean 'low_resolution'"),
        ("", "kind '' is unknown"),
        ("blur:sigma", "'sigma': has no =; write KIND:KEY=VALUE"),
        ("blur:sigma=3,sigma=4", "'sigma=4': key is given twice"),
        ("blur:kind=noise", "key is given twice"),
        ("blur:pixels=3", "pixels is not an option of blur"),
        ("noise:sigma=60-30", r"sigma must be two numbers .* the lower one first, got \(60\.0, 30\.0\)"),
        ("noise:share=20%", "degrade.share"),
        ("low_resolution:pixels=7,11", "'11': has no ="),
    ],
)
def test_parse_degradations_names_what_is_wrong(text, message):
    with pytest.raises(UsageError, match=f"^--degrade {re.escape(text)}: .*{message}"):
        parse_degradations([text])


KEYS = ["pixels", "sigma", "share", "seed", "probes", "kind", "light", "noise", ""]
VALUES = ["7-11", "11-7", "0", "1", "-1", "1e999", "nan", ".", ".-.", "0x_", "true", "~", "[1, 2]", "", "9" * 400]


@given(
    st.sampled_from([*KINDS, "", ":"]), st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=3)
)
def test_parse_degradations_reads_any_text_or_refuses_it_in_one_line(kind, options):
    text = f"{kind}:{','.join(f'{key}={value}' for key, value in options)}"
    try:
        (degradation,) = parse_degradations([text])
    except UsageError as error:
        message = str(error)
        assert message.startswith(f"--degrade {text}: ")
        assert "\n" not in message
        return
    assert degradation.kind.name == kind
    degraded = degradation(np.full((20, 30, 3), 90, np.uint8), "x")
    assert degraded.shape == (20, 30, 3)


def test_parse_degradations_refuses_one_that_is_given_twice():
    with pytest.raises(UsageError, match="--degrade noise:share=1: is given twice"):
        parse_degradations(["noise", "noise:share=1"])
