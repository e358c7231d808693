"""``vplface evaluate`` on a small folder of made-up faces and a small untrained network."""

from __future__ import annotations

import hashlib
import json

import cv2
import numpy as np
import onnx
import pytest
import torch
import typer
from typer.testing import CliRunner

from vplface.backbones import build
from vplface.cli.evaluate import evaluate
from vplface.embedder import ModelCard, save_model
from vplface.errors import DataError, UsageError

app = typer.Typer()
app.command()(evaluate)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model folder, a folder of 6 people with 3 pictures each, lists of pairs and of people."""
    root = tmp_path_factory.mktemp("evaluate")
    torch.manual_seed(0)
    save_model(root / "model", build("tiny", 16, width=8), ModelCard("tiny", 16, {"width": 8}))
    rng = np.random.default_rng(0)
    for person in range(6):
        face = rng.integers(0, 256, (7, 7, 3))
        (root / f"faces/p{person}").mkdir(parents=True)
        for number in range(3):
            noisy = np.clip(face + rng.normal(0, 40, face.shape), 0, 255).astype(np.uint8)
            large = cv2.resize(noisy, (112, 112), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(root / f"faces/p{person}/p{person}_{number + 1:04d}.png"), large)
    lines = []
    for fold in range(2):
        people = range(3 * fold, 3 * fold + 3)
        lines += [f"p{p}/p{p}_0001 p{p}/p{p}_000{n} 1 {fold}" for p in people for n in (2, 3)]
        lines += [f"p{p}/p{p}_0001 p{q}/p{q}_0002 0 {fold}" for p in people for q in people if p != q]
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")
    (root / "one.txt").write_text("\n".join(line.rsplit(" ", 1)[0] for line in lines) + "\n")
    (root / "people.txt").write_text("\n".join(f"p{p}" for p in range(5)) + "\n")
    return root


def run(place, *arguments, model="model"):
    return CliRunner().invoke(app, [str(place / model), "--data", str(place / "faces"), *map(str, arguments)])


def as_json(result):
    assert result.exit_code == 0, result.output + str(result.exception)
    return json.loads(result.stdout)


def test_json_is_what_the_contract_says(place):
    said = as_json(run(place, "--pairs", place / "pairs.txt", "--far", "0.25", "--bootstrap", 20, "--json"))
    assert list(said) == ["schema", "model", "data", "protocol", "metrics", "files", "versions", "date"]
    assert said["schema"] == 1
    assert said["model"] == str(place / "model")
    assert said["data"] == str(place / "faces")
    assert said["protocol"]["flip"] == "sum"
    assert said["protocol"]["pairs"] == 24
    assert said["protocol"]["preprocessing"]["color"] == "rgb"
    accuracy = said["metrics"]["accuracy"]
    assert 0.5 <= accuracy["value"] <= 1.0  # a fraction
    assert len(accuracy["ci95"]) == 2
    assert set(said["metrics"]) == {"accuracy", "tar@far=2.5e-1", "eer", "auc"}
    assert {"value", "ci95", "threshold", "actual_far"} <= set(said["metrics"]["tar@far=2.5e-1"])
    files = [place / "model/model.safetensors", place / "model/model.json", place / "pairs.txt"]
    assert said["files"] == {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_all_pairs_of_people(place):
    said = as_json(
        run(place, "--people", place / "people.txt", "--far", 0.1, "--far", 1e-3, "--bootstrap", 0, "--json")
    )
    assert said["protocol"]["kind"] == "all pairs"
    assert (said["protocol"]["pictures"], said["protocol"]["genuine"], said["protocol"]["impostors"]) == (15, 15, 90)
    assert said["metrics"]["tar@far=1e-1"]["value"] is not None
    assert said["metrics"]["tar@far=1e-3"]["value"] is None
    assert "1,000" in said["metrics"]["tar@far=1e-3"]["reason"]
    assert str(place / "people.txt") in said["files"]


def test_where_the_threshold_comes_from_decides_the_name(place):
    alone = as_json(run(place, "--pairs", place / "one.txt", "--bootstrap", 0, "--json"))
    assert "accuracy@best_threshold" in alone["metrics"]
    assert "accuracy" not in alone["metrics"]
    given = as_json(
        run(
            place,
            "--pairs",
            place / "one.txt",
            "--threshold-pairs",
            place / "pairs.txt",
            "--bootstrap",
            0,
            "--json",
        )
    )
    assert "accuracy" in given["metrics"]
    assert str(place / "pairs.txt") in given["files"]


def test_options_reach_the_evaluation(place):
    base = ("--pairs", place / "pairs.txt", "--bootstrap", 0, "--far", 0.3, "--json")
    plain = as_json(run(place, *base))
    other = as_json(run(place, *base, "--flip", "none", "--protocol", "insightface", "--far-rule", "nearest"))
    told = other["protocol"]
    assert (told["flip"], told["accuracy_rule"], told["far_rule"]) == ("none", "insightface", "nearest")
    swapped = run(place, *base, "--color", "bgr", "--mean", "0.4,0.4,0.4", "--std", ".3,.3,.3")
    assert "BGR, mean 0.4,0.4,0.4, std 0.3,0.3,0.3" in swapped.stderr
    prepared = as_json(swapped)["protocol"]["preprocessing"]
    assert prepared == {"size": 112, "color": "bgr", "mean": [0.4] * 3, "std": [0.3] * 3}
    thresholds = [said["metrics"]["accuracy"]["threshold"] for said in (plain, other, as_json(swapped))]
    assert len(set(thresholds)) == 3


def test_table_for_people(place):
    result = run(place, "--pairs", place / "pairs.txt", "--far", 0.25, "--far", 0.001, "--bootstrap", 20)
    assert result.exit_code == 0, result.exception
    for part in (
        "accuracy",
        "95 % interval",
        "FAR 0.001 needs at least 1,000 impostor pairs, there are 12",
        "24 pairs (12 genuine, 12 impostor) of 6 people",
        "threshold chosen on the other folds by the rule exact",
        "20 resamples of the people, seed 0",
        "RGB, mean 0.5,0.5,0.5, std 0.5,0.5,0.5",
        hashlib.sha256((place / "pairs.txt").read_bytes()).hexdigest(),
    ):
        assert part in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --pairs"),
        (["--pairs", "pairs.txt", "--people", "people.txt"], "neither --pairs nor"),
        (["--people", "people.txt", "--threshold-pairs", "pairs.txt"], "nor --threshold-pairs"),
        (["--pairs", "pairs.txt", "--far", "0"], "--far 0"),
        (["--pairs", "pairs.txt", "--far", "2"], "--far 2"),
        (["--pairs", "pairs.txt", "--mean", "0.5,0.5"], "--mean '0.5,0.5': expected three numbers"),
        (["--pairs", "pairs.txt", "--mean", "127.5,127.5,127.5"], "divide"),
        (["--pairs", "pairs.txt", "--std", "0,1,1"], "std must be three finite positive"),
    ],
)
def test_a_wrong_command_line(place, arguments, message):
    arguments = [place / word if word.endswith(".txt") else word for word in arguments]
    with pytest.raises(UsageError, match=message):
        raise run(place, *arguments).exception


@pytest.mark.parametrize(
    ("arguments", "model", "message"),
    [
        (["--pairs", "nowhere.txt"], "model", "nowhere.txt"),
        (["--pairs", "pairs.txt"], "no_model", "no_model"),
    ],
)
def test_a_file_at_fault(place, arguments, model, message):
    arguments = [place / word if word.endswith(".txt") else word for word in arguments]
    with pytest.raises(DataError, match=message):
        raise run(place, *arguments, model=model).exception


def test_an_onnx_file_of_others_must_be_described(place):
    nodes = [
        onnx.helper.make_node("AveragePool", ["data"], ["means"], kernel_shape=[28, 28], strides=[28, 28]),
        onnx.helper.make_node("Flatten", ["means"], ["embedding"]),
    ]
    takes = onnx.helper.make_tensor_value_info("data", onnx.TensorProto.FLOAT, ["n", 3, 112, 112])
    gives = onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["n", 48])
    graph = onnx.helper.make_graph(nodes, "block means", [takes], [gives])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, place / "other.onnx")
    with pytest.raises(DataError, match=r"no model card.*insightface.*--color rgb --mean"):
        raise run(place, "--pairs", place / "pairs.txt", model="other.onnx").exception
    result = run(
        place, "--pairs", place / "pairs.txt", "--color", "rgb", "--bootstrap", 0, "--json", model="other.onnx"
    )
    said = as_json(result)
    assert "RGB, mean 0.5,0.5,0.5, std 0.5,0.5,0.5" in result.stderr
    assert said["metrics"]["accuracy"]["value"] > 0.8  # block means of these faces differ between people
    assert str(place / "other.onnx") in said["files"]
