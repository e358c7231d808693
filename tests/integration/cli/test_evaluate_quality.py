"""``vplface evaluate --quality`` on a small folder of made-up faces, a small network and a small quality model."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
import typer
from onnx import TensorProto, helper, save
from typer.testing import CliRunner

from vplface.backbones import build
from vplface.cli.evaluate import evaluate
from vplface.cli.quality_names import read_score, split_names
from vplface.data.formats.image_folder import ImageFolder
from vplface.embedder import Embedder
from vplface.errors import DataError, UsageError
from vplface.evaluation.operating_point import OperatingPoint
from vplface.stored_model import ModelCard, save_model

app = typer.Typer()
app.command()(evaluate)


def brightness_model(path, outputs=1):
    """A network whose output is the mean of its input, over channels and pixels, once or several times."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 112, 112])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3] if outputs == 3 else [1, 2, 3], keepdims=0)]
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, outputs])
    nodes.append(helper.make_node("Reshape", ["m", "shape"], ["y"]))
    graph = helper.make_graph(nodes, "quality", [given], [answer], [shape])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("quality")
    torch.manual_seed(0)
    save_model(root / "model", build("tiny", 16, width=8), ModelCard("tiny", 16, {"width": 8}))
    rng = np.random.default_rng(0)
    for person in range(6):
        face = rng.integers(0, 256, (7, 7, 3))
        (root / f"faces/p{person}").mkdir(parents=True)
        for number in range(4):
            noisy = np.clip(face + rng.normal(0, 40, face.shape), 0, 255).astype(np.uint8)
            large = cv2.resize(noisy, (112, 112), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(root / f"faces/p{person}/{number}.png"), large)
    (root / "people.txt").write_text("\n".join(f"p{p}" for p in range(6)) + "\n")
    brightness_model(root / "bright.onnx")
    return root


def run(place, *arguments, model="model"):
    base = ["--data", str(place / "faces"), "--people", str(place / "people.txt"), "--bootstrap", "20", "--far", "0.1"]
    return CliRunner().invoke(app, [str(place / model), *base, *map(str, arguments)])


def test_vplface_evaluate_quality_compares_scores_in_one_command(place):
    scores = f"norm,recognisability,{place / 'bright.onnx'}"
    page = place / "page.html"
    result = run(place, "--quality", scores, "--degrade", "noise:share=0.5", "--report", page, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    quality = found["quality"]
    assert list(quality["scores"]) == ["norm", "recognisability", str(place / "bright.onnx")]
    at = quality["at"]["far=1e-1"]
    plain = json.loads(run(place, "--json").stdout)
    assert at["threshold"] == pytest.approx(plain["metrics"]["tar@far=1e-1"]["threshold"], abs=1e-6)
    for of in at["scores"].values():
        assert of["curve"]["fnmr"][0] == pytest.approx(1 - plain["metrics"]["tar@far=1e-1"]["value"])
        assert len(of["curve"]["share"]) == 51
    assert set(at["differences"]) == {"recognisability", str(place / "bright.onnx")}
    # the figures of the embedder and of the pictures themselves
    pictures = ImageFolder(place / "faces")
    raw = Embedder.load(place / "model").embed_set(pictures, flip="sum", unit=False)
    norms = np.linalg.norm(raw.astype(float), axis=1)
    assert quality["scores"]["norm"]["quartiles"] == pytest.approx(np.quantile(norms, [0.25, 0.5, 0.75]).tolist())
    bright = [pictures.picture(k).mean() / 127.5 - 1 for k in range(len(pictures))]
    described = quality["scores"][str(place / "bright.onnx")]
    assert described["quartiles"] == pytest.approx(np.quantile(bright, [0.25, 0.5, 0.75]).tolist(), abs=1e-4)
    assert described["preprocessing"]["size"] == 112
    assert len(described["sha256"]) == 64
    assert found["degraded"][0]["quality"]["scores"]["norm"] != quality["scores"]["norm"]
    text = page.read_text()
    assert "FNMR over discarded pictures" in text
    assert text.count("Quality scores") >= 2


def test_vplface_evaluate_quality_prints_a_table(place):
    result = run(place, "--quality", "norm,recognisability", "--discard", "0.3")
    assert result.exit_code == 0, result.output
    assert "recognisability − norm:" in result.output
    assert "mean to −30 %" in result.output


@pytest.mark.parametrize("score", ["norm", "recognisability", "bright.onnx"])
def test_vplface_evaluate_stores_a_gate_with_the_operating_point(place, score):
    name = str(place / score) if score.endswith(".onnx") else score
    more = ["--save-operating-point", "0.1", "--gate", "discard=0.25"]
    result = run(place, "--quality", name, *more, "--json")
    assert result.exit_code == 0, result.output
    gate = OperatingPoint.load(place / "model").quality
    curve = json.loads(result.stdout)["quality"]["at"]["far=1e-1"]["scores"][name]["curve"]
    assert (gate["score"], gate["chosen_by"]) == (name, "discard=0.25")
    assert gate["discarded"] == pytest.approx(0.25)
    assert gate["least"] == curve["quality"][25]
    assert gate["fnmr_without"] == pytest.approx(curve["fnmr"][0])
    wanted = {"norm": set(), "recognisability": {"direction"}, "bright.onnx": {"sha256", "preprocessing"}}
    assert set(gate["described"]) == wanted[score]
    run(place, "--save-operating-point", "0.1")
    assert OperatingPoint.load(place / "model").quality is None


def test_vplface_evaluate_quality_of_stored_embeddings(place, tmp_path):
    pictures = ImageFolder(place / "faces")
    raw = Embedder.load(place / "model").embed_set(pictures, flip="sum", unit=False)
    np.save(tmp_path / "raw.npy", raw)
    np.save(tmp_path / "unit.npy", raw / np.linalg.norm(raw, axis=1, keepdims=True))
    result = run(place, "--quality", "norm", "--json", model=tmp_path / "raw.npy")
    assert result.exit_code == 0, result.output
    found = run(place, "--quality", "norm", "--json")
    stored, embedded = (json.loads(each.stdout)["quality"]["scores"]["norm"] for each in (result, found))
    assert stored["quartiles"] == pytest.approx(embedded["quartiles"])
    assert isinstance(run(place, "--quality", "norm", model=tmp_path / "unit.npy").exception, DataError)
    assert isinstance(run(place, "--quality", "recognisability", model=tmp_path / "raw.npy").exception, UsageError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quality", "norn"], "--quality norn: unknown score; did you mean 'norm'?"),
        (["--quality", "norm,norm"], "--quality norm: is given twice"),
        (["--quality", "norm", "--discard", "0.6"], "--discard 0.6: a share of the pictures is above 0"),
        (["--gate", "discard=0.1"], "--gate goes with --quality and --save-operating-point"),
        (["--quality", "norm", "--save-operating-point", "0.1", "--gate", "0.1"], "--gate 0.1: expected discard=SHARE"),
        (["--quality", "none.onnx"], "none.onnx: no such file"),
        (["--quality", "bright.onnx:mean=a"], "mean and std are one number or three"),
        (["--quality", "bright.onnx:width=3"], "expected color=…, mean=…, std=…, size=…, each once"),
    ],
)
def test_vplface_evaluate_quality_refuses_what_it_cannot_read(place, monkeypatch, arguments, message):
    monkeypatch.chdir(place)
    result = run(place, *arguments)
    assert result.exit_code != 0
    assert message in str(result.exception)


def test_quality_model_must_give_one_number(tmp_path):
    path = brightness_model(tmp_path / "three.onnx", outputs=3)
    with pytest.raises(DataError, match=r"three.onnx: does not give one number per picture; its outputs"):
        read_score(str(path))


def test_options_of_a_file_stay_with_it():
    assert split_names(["a.onnx:mean=0.5,std=1,norm", "b.onnx"]) == ["a.onnx:mean=0.5,std=1", "norm", "b.onnx"]
