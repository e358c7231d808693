"""The cost of fp16 or int8: the figures of both models as in vplface evaluate, and their paired difference."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from vplface.backbones import build
from vplface.cli import export_cost
from vplface.cli.evaluate import evaluate
from vplface.cli.export import export
from vplface.cli.export_cost import cost_measurement
from vplface.deploy import onnx as deploy
from vplface.errors import DataError, UsageError
from vplface.stored_model import ModelCard, save_model

exporting, evaluating = typer.Typer(), typer.Typer()
exporting.command()(export)
evaluating.command()(evaluate)


def run(app, *arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two networks; the second stands for the first in less precision."""
    root = tmp_path_factory.mktemp("cost")
    for seed, name in enumerate(("run", "file")):
        torch.manual_seed(seed)
        save_model(root / name, build("tiny", 16, width=8), ModelCard("tiny", 16, {"width": 8}))
    return root / "run", root / "file"


@pytest.fixture(scope="module")
def pairs(faces, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "list.txt"
    same = [f"p{p}/{a}.png p{p}/{b}.png 1" for p in range(12) for a, b in ((0, 1), (2, 3))]
    other = [f"p{p}/{k}.png p{(p + s) % 12}/{k}.png 0" for p in range(12) for k in range(4) for s in (1, 2, 3)]
    path.write_text("\n".join([*same, *other]) + "\n")
    return path


def test_cost_measurement_has_the_figures_of_vplface_evaluate_and_their_difference(models, faces, pairs):
    model, file = models
    cost = cost_measurement(model, faces, pairs, None, None, "sum", 100)(file).to_dict()["sets"]["list"]
    for path, key in ((model, "fp32"), (file, "reduced")):
        told = run(evaluating, path, "--data", faces, "--pairs", pairs, "--bootstrap", 100, "--json")
        assert cost[key] == json.loads(told.stdout)["metrics"]
    accuracy = [cost[key]["auc"]["value"] for key in ("fp32", "reduced")]
    assert cost["differences"]["auc"]["difference"] == pytest.approx(accuracy[1] - accuracy[0])
    assert accuracy[0] != accuracy[1]
    low, high = cost["differences"]["auc"]["ci95"]
    assert low <= cost["differences"]["auc"]["difference"] <= high


def test_cost_measurement_refuses_a_model_saved_again_after_its_export(models, faces, pairs, tmp_path):
    deploy.export(models[0], tmp_path / "m.onnx")
    measure = cost_measurement(models[0], faces, pairs, None, None, "sum", 0)
    assert "list" in measure(tmp_path / "m.onnx").fp32
    with pytest.raises(DataError, match=r"has changed since .* was exported from it"):
        cost_measurement(models[1], faces, pairs, None, None, "sum", 0)(tmp_path / "m.onnx")


def test_cost_measurement_uses_the_evaluation_sets_of_the_run(models, faces, pairs, tmp_path):
    model, file = models
    (tmp_path / "run").mkdir()
    for name in ("model.json", "model.safetensors"):
        (tmp_path / "run" / name).write_bytes((model / name).read_bytes())
    assert cost_measurement(tmp_path / "run", None, None, None, None, "sum", 0)(file).to_dict() == {
        "sets": {},
        "reason": "no evaluation sets are known; give --data and --pairs",
    }
    config = f"name: run\noutput: {tmp_path}\ndata:\n  train: {faces}\n"
    (tmp_path / "run" / "config.yaml").write_text(config)
    assert "has no evaluation sets" in cost_measurement(tmp_path / "run", None, None, None, None, "sum", 0)(file).reason
    sets = "evaluation:\n  sets:\n  - {name: mine, path: %s, pairs: %s}\n"
    (tmp_path / "run" / "config.yaml").write_text(config + sets % (faces, pairs))
    assert set(cost_measurement(tmp_path / "run", None, None, None, None, "sum", 0)(file).fp32) == {"mine"}
    (tmp_path / "run" / "best").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(config + sets % (tmp_path / "gone", pairs))
    reason = cost_measurement(tmp_path / "run" / "best", None, None, None, None, "sum", 0)(file).reason
    assert "cannot be opened" in reason
    assert "gone" in reason


def test_vplface_export_prints_size_parity_and_cost_of_int8(models, faces, pairs, tmp_path, monkeypatch):
    model, _ = models

    def quick(model, path, opset, precision, calibration):
        path.write_bytes(bytes(1_000_000))
        assert (calibration is not None) == (precision == "int8")
        return deploy.Exported(path, opset, precision, 0.01, 0.999, 0.99, 11, 47, 4_000_000)

    monkeypatch.setattr(deploy, "export", quick)
    monkeypatch.setattr(export_cost, "Embedder", Stub)
    options = ["--precision", "int8", "--calibrate", faces, "--data", faces, "--pairs", pairs, "--bootstrap", "0"]
    out = run(exporting, model, tmp_path / "m.onnx", *options).stdout
    assert "1.0 MB in int8, 4.0 MB in fp32, opset 18" in out
    assert f"mean 0.99900, least 0.99000, of 11 pictures of {faces}, calibrated on 47 others" in out.replace("\n", " ")
    assert "this file" in out
    answer = json.loads(run(exporting, model, tmp_path / "m.onnx", *options, "--json").stdout)
    assert (answer["precision"], answer["bytes"], answer["fp32_bytes"]) == ("int8", 1_000_000, 4_000_000)
    assert answer["parity"]["calibration_pictures"] == 47
    assert answer["cost"]["sets"]["list"]["differences"] == {}
    assert "not measured: no evaluation sets" in run(
        exporting, model, tmp_path / "m.onnx", "--precision", "fp16"
    ).stdout.replace("\n", " ")


class Stub:
    """A model that tells pictures apart by their mean colour."""

    dim = 3
    weights = None
    card = ModelCard("stub", 3)

    @classmethod
    def load(cls, path):
        return cls()

    def embed_set(self, pictures, indices, **options):
        means = np.stack([pictures.picture(int(index)).mean((0, 1)) for index in indices])
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "x"], "fp32 costs no accuracy"),
        (["--precision", "int8"], "int8 needs --calibrate"),
        (["--precision", "fp16", "--calibrate", "x"], "--calibrate is for int8"),
        (["--precision", "fp16", "--pairs", "x"], "need --data"),
    ],
)
def test_vplface_export_refuses_contradictory_options(models, tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        run(exporting, models[0], tmp_path / "m.onnx", *options)


def test_vplface_export_names_missing_data_and_exports_nothing(models, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        run(
            exporting,
            models[0],
            tmp_path / "m.onnx",
            "--precision",
            "fp16",
            "--data",
            tmp_path / "nowhere",
            "--pairs",
            "x",
        )
    assert not any(tmp_path.iterdir())
