"""``vplface evaluate-identification`` on small folders and files of embeddings."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from vplface.backbones import build
from vplface.cli.evaluate_identification import evaluate_identification
from vplface.errors import DataError, UsageError
from vplface.evaluation.unit import unit
from vplface.stored_model import ModelCard, save_model

app = typer.Typer()
app.command()(evaluate_identification)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model; a gallery of p0..p4, probes of p0..p6, and people in a crowd."""
    root = tmp_path_factory.mktemp("identify")
    torch.manual_seed(0)
    save_model(root / "model", build("tiny", 16, width=8), ModelCard("tiny", 16, {"width": 8}))
    rng = np.random.default_rng(0)
    for name, people, count in (("gallery", range(5), 2), ("probes", range(7), 3), ("crowd", range(50, 56), 2)):
        for person in people:
            face = np.random.default_rng(person).integers(0, 256, (7, 7, 3))
            (root / name / f"p{person}").mkdir(parents=True)
            for number in range(count):
                noisy = np.clip(face + rng.normal(0, 30, face.shape), 0, 255).astype(np.uint8)
                cv2.imwrite(str(root / name / f"p{person}/{number}.png"), cv2.resize(noisy, (112, 112)))
    sizes = {"gallery": 10, "probes": 21, "distractors": 12}
    arrays = {name: rng.normal(size=(rows, 4)).astype(np.float32) for name, rows in sizes.items()}
    np.savez(root / "all.npz", **arrays)
    np.savez(root / "unit.npz", **{key: unit(rows, key) for key, rows in arrays.items()})
    np.save(root / "all.npy", np.concatenate(list(arrays.values())))
    np.save(root / "crowd.npy", arrays["distractors"])
    return root


def run(place, *arguments, model="model", probes="probes"):
    sets = ["--gallery", str(place / "gallery"), "--probes", str(place / probes)]
    return CliRunner().invoke(app, [str(place / model), *sets, *map(str, arguments)])


def as_json(result):
    assert result.exit_code == 0, result.output + str(result.exception)
    return json.loads(result.stdout)


def test_vplface_evaluate_identification_json_has_the_documented_keys(place):
    said = as_json(
        run(place, "--distractors", place / "crowd", "--fars", "1e-2", "--fpirs", "0.2", "--bootstrap", 20, "--json")
    )
    assert list(said) == ["schema", "model", "data", "protocol", "metrics", "files"]
    told = said["protocol"]
    assert (told["probes"], told["mated_probes"], told["gallery"], told["distractors"]) == (21, 15, 10, 12)
    assert (told["mates"], told["flip"], told["search"], told["preprocessing"]["color"]) == (
        "best",
        "sum",
        "exact",
        "rgb",
    )
    assert set(said["metrics"]) == {"rank-1", "rank-5", "rank-10", "tpir@fpir=2e-1", "tar@far=1e-2"}
    assert said["metrics"]["rank-1"]["value"] > 0.8  # these people differ in colour
    assert list(said["files"]) == [str(place / "model/model.safetensors"), str(place / "model/model.json")]


def test_vplface_evaluate_identification_accepts_embeddings_in_every_form(place):
    options = ("--fars", "0.1", "--ranks", "1,3", "--bootstrap", 0, "--json")
    crowd = ("--distractors", place / "crowd")
    forms = [
        as_json(run(place, *crowd, *options, model="all.npz")),
        as_json(run(place, *crowd, *options, model="all.npy")),
        as_json(run(place, "--distractors", place / "crowd.npy", *options, model="all.npz")),
    ]
    assert forms[0]["metrics"] == forms[1]["metrics"] == forms[2]["metrics"]
    assert str(place / "crowd.npy") in forms[2]["files"]


def test_vplface_evaluate_identification_accepts_the_gallery_as_probes(place):
    said = as_json(run(place, "--fars", "0.1", "--bootstrap", 0, "--json", probes="gallery"))
    assert (said["protocol"]["genuine"], said["protocol"]["impostors"]) == (10, 80)


def test_vplface_evaluate_identification_prints_figures_and_protocol(place):
    result = run(place, "--distractors", place / "crowd.npy", "--mates", "each", "--fars", "1e-6", model="all.npz")
    assert result.exit_code == 0, result.exception
    for part in ("rank-1", "mates: each", "FAR 1e-06 needs at least 1,000,000", "sha256"):
        assert part in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "0,1"], "--ranks takes whole numbers from 1 to 100"),
        (["--ranks", "one"], "--ranks"),
        (["--fars", "x"], "--fars takes rates"),
        (["--mates", "each"], "give --distractors"),
    ],
)
def test_vplface_evaluate_identification_refuses_invalid_options(place, arguments, message):
    with pytest.raises(UsageError, match=message):
        raise run(place, *arguments).exception


def test_vplface_evaluate_identification_names_the_invalid_file(place):
    np.save(place / "short.npy", np.ones((3, 4), np.float32))
    np.save(place / "flat.npy", np.ones(3, np.float32))
    np.savez(place / "part.npz", gallery=np.ones((10, 4), np.float32))
    (place / "text.npy").write_text("no array")
    (place / "half.npz").write_bytes((place / "all.npz").read_bytes()[:-100])
    for model, message in (
        ("short.npy", r"3 embeddings where the sets have 31 pictures \(10 gallery \+ 21 probes\)"),
        ("flat.npy", r"must be an array \[n, dim\]"),
        ("part.npz", "lacks the array 'probes'; it holds gallery"),
        ("text.npy", "damaged"),
        ("half.npz", "half.npz: not an npy or npz file, or damaged"),
        ("none.npy", r"none\.npy'?: cannot be read"),
        ("no_model", "no_model"),
    ):
        with pytest.raises(DataError, match=message):
            raise run(place, model=model).exception


def test_vplface_evaluate_identification_writes_result_and_report(place, tmp_path):
    out, page = tmp_path / "result.json", tmp_path / "page.html"
    result = run(place, "--fars", "1e-2", "--bootstrap", 10, "--out", out, "--report", page)
    assert result.exit_code == 0, result.output
    assert f"wrote {out}" in result.stdout.replace("\n", "")
    said = json.loads(out.read_text())
    assert said["metrics"] == said["evaluations"]["identification"]["metrics"]
    assert "CMC" in page.read_text()
    assert "data:image/" in page.read_text()


def test_vplface_evaluate_identification_templates_are_compared_with_the_first(place, tmp_path):
    kinds, page = ("--templates", "best,mean,weighted"), tmp_path / "page.html"
    options = ("--fpirs", "0.2,0.01", "--ranks", "1", "--bootstrap", 50)
    said = as_json(run(place, *kinds, *options, "--json", "--report", page))
    assert list(said["templates"]) == ["best", "mean", "weighted"]
    assert said["differences_to"] == "best"
    assert list(said["differences"]) == ["mean", "weighted"]
    assert set(said["differences"]["mean"]) == {"rank-1", "tpir@fpir=2e-1"}
    assert said["metrics"] == said["templates"]["best"]
    assert (said["protocol"]["enrolled_people"], said["protocol"]["enrolled_pictures"]) == (5, 10)
    assert "weighted templates" in page.read_text()
    shown = run(place, *kinds, *options).stdout
    assert "TPIR at FPIR 2·10⁻¹, weighted" in " ".join(shown.split())
    assert "FPIR 0.01 needs at least 100 probes without a mate" in shown
    assert "5 people enrolled with 10 pictures; 15 probes of enrolled people, 6 of strangers" in " ".join(shown.split())
    assert "cannot be distinguished from best" in shown or "better than best" in shown or "worse than best" in shown


def test_vplface_evaluate_identification_split_makes_an_open_set_of_one_folder(place):
    said = as_json(
        run(place, "--split", "--templates", "mean", "--fpirs", "0.2", "--bootstrap", 0, "--json", probes="gallery")
    )
    assert (said["protocol"]["gallery"], said["protocol"]["probes"], said["protocol"]["mated_probes"]) == (2, 8, 2)
    plain = as_json(run(place, "--split", "--fpirs", "0.2", "--bootstrap", 0, "--json", probes="gallery"))
    assert plain["protocol"]["probes"] == 8
    assert "templates" not in plain


def test_vplface_evaluate_identification_templates_name_the_mistake(place):
    for words, probes, message in (
        (("--templates", "best,maen"), "probes", "got 'maen'; did you mean 'mean'?"),
        (("--templates", "mean,mean"), "probes", "names one twice"),
        (("--templates", "mean"), "gallery", "add --split"),
        (("--split",), "probes", "--split divides one set"),
        (("--templates", "mean", "--mates", "each", "--distractors", place / "crowd"), "probes", "--mates each counts"),
    ):
        result = run(place, *words, probes=probes)
        assert isinstance(result.exception, UsageError), result.output
        assert message in str(result.exception)
    told = run(place, "--templates", "mean,weighted", "--bootstrap", 0, model="unit.npz")
    assert "weighted is the mean" in told.stderr
