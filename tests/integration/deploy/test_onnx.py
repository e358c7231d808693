"""A file exported once and read by onnx, by onnxruntime alone and by Embedder; then ``vplface export``."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import typer
from typer.testing import CliRunner

from vplface.backbones import build
from vplface.cli.export import export as export_command
from vplface.data.pictures import Preprocessing
from vplface.deploy import onnx as deploy
from vplface.deploy.onnx import export
from vplface.embedder import Embedder
from vplface.errors import ConfigError, DataError, UsageError, VplfaceError
from vplface.stored_model import ModelCard, load_model, save_model

CARD = ModelCard(
    "tiny",
    24,
    {"width": 8},
    preprocessing=Preprocessing(color="bgr", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
    training_data="generated faces",
    step=7,
)

app = typer.Typer()
app.command()(export_command)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    backbone = build("tiny", 24, width=8)
    for _ in range(3):
        backbone(torch.rand(8, 3, 112, 112) * 2 - 1)
    path = tmp_path_factory.mktemp("deploy") / "run"
    save_model(path, backbone, CARD)
    return path


@pytest.fixture(scope="module")
def command(folder):
    """The one real export of these tests; it goes through the command."""
    level = logging.getLogger("torch.onnx").level
    file = folder / "onnx" / "model.onnx"
    result = CliRunner().invoke(app, [str(folder), str(file), "--json"], catch_exceptions=False)
    assert logging.getLogger("torch.onnx").level == level
    return result


@pytest.fixture(scope="module")
def exported(folder, command):
    return folder / "onnx" / "model.onnx"


def random_pictures(count):
    coarse = np.random.default_rng(5).integers(0, 256, (count, 14, 14, 3), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def test_export_writes_one_valid_file_with_the_model_card(exported):
    assert [path.name for path in exported.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [18]
    shapes = [
        (value.name, [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [("input", ["batch", 3, 112, 112]), ("embedding", ["batch", 24])]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    card = ModelCard.from_json(metadata["model_card"], "here")
    assert card == CARD
    assert card.weights == hashlib.sha256((exported.parents[1] / "model.safetensors").read_bytes()).hexdigest()
    assert Embedder.load(exported).files == {str(exported): hashlib.sha256(exported.read_bytes()).hexdigest()}


def test_export_stores_no_paths_or_stack_traces(exported, folder):
    content = exported.read_bytes()
    assert b"stack_trace" not in content
    assert b".py" not in content
    assert str(folder.parent).encode() not in content


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_export_writes_a_file_that_gives_raw_embeddings_in_onnxruntime(exported, folder, count):
    backbone, _ = load_model(folder)
    x = np.random.default_rng(1).normal(size=(count, 3, 112, 112)).astype(np.float32)
    session = onnxruntime.InferenceSession(exported)
    (embedding,) = session.run(["embedding"], {"input": x})
    with torch.no_grad():
        expected = backbone(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(embedding, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(np.linalg.norm(embedding, axis=1) - 1).max() > 0.1  # not normalised


@pytest.mark.parametrize("flip", ["none", "sum"])
def test_Embedder_of_an_exported_file_equals_that_of_its_folder(exported, folder, flip):
    pictures = random_pictures(9)
    ours, theirs = Embedder.load(folder)(pictures, flip), Embedder.load(exported)(pictures, flip)
    assert (ours * theirs).sum(axis=1).min() > 0.9999
    assert np.abs(ours - theirs).max() < 1e-5
    assert Embedder.load(exported).card == CARD


def test_export_parity_is_the_largest_difference_and_too_large_a_one_is_refused(
    exported, folder, monkeypatch, tmp_path
):
    def write_slightly_wrong(backbone, path, opset, size, card):
        model = onnx.load(exported)
        bias = next(t for t in model.graph.initializer if list(t.dims) == [24])
        values = onnx.numpy_helper.to_array(bias).copy()
        values[0] += shift
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        onnx.save(model, path)

    monkeypatch.setattr(deploy, "_export_fp32", write_slightly_wrong)
    pictures = deploy._random_pictures(10, 112)
    shift = 2e-4
    found = export(folder, tmp_path / "ok.onnx").parity
    expected = np.abs(Embedder.load(tmp_path / "ok.onnx")(pictures) - Embedder.load(folder)(pictures)).max()
    assert found == pytest.approx(expected, rel=0.05)
    assert found > 1e-5

    shift = 0.5
    (tmp_path / "kept.onnx").write_bytes(b"what was there before")
    with pytest.raises(VplfaceError, match=r"kept\.onnx: not written: .* more than 0\.0001"):
        export(folder, tmp_path / "kept.onnx")
    assert (tmp_path / "kept.onnx").read_bytes() == b"what was there before"
    with pytest.raises(VplfaceError, match="not written"):
        export(folder, tmp_path / "new.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.onnx", "ok.onnx"]


def test_random_pictures_have_different_embeddings(folder):
    embeddings = Embedder.load(folder)(deploy._random_pictures(10, 112))
    similarity = embeddings @ embeddings.T - 2 * np.eye(10)
    assert similarity.max() < 0.999


def test_export_refuses_a_wrong_suffix_opset_or_model(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.bin: .* must end in \.onnx"):
        export(folder, tmp_path / "model.bin")
    with pytest.raises(ConfigError, match="opset 11: choose one of 18 to 23"):
        export(folder, tmp_path / "model.onnx", opset=11)
    with pytest.raises(DataError, match="no such folder"):
        export(tmp_path / "nowhere", tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())


def test_export_names_a_model_that_torch_cannot_export(folder, tmp_path, monkeypatch):
    class Branching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(24))

        def forward(self, x):
            return self.weight * (x if x.sum() > 0 else -x).mean((1, 2, 3))[:, None]

    monkeypatch.setattr(deploy, "load_model", lambda model: (Branching().eval(), CARD))
    with pytest.raises(VplfaceError, match=r"out/model\.onnx: torch cannot export tiny at opset 18: .+"):
        export(folder, tmp_path / "out" / "model.onnx")
    assert not any((tmp_path / "out").iterdir())


def test_export_that_cannot_write_gives_the_reason_and_keeps_the_earlier_file(folder, tmp_path, monkeypatch):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(DataError, match=r"cannot write \S*folder\.onnx: it is not a regular file"):
        export(folder, tmp_path / "folder.onnx")

    def full(backbone, path, *rest):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(deploy, "_export_fp32", full)
    (tmp_path / "old.onnx").write_bytes(b"old")
    with pytest.raises(DataError, match=r"cannot write \S*old\.onnx: No space left on device"):
        export(folder, tmp_path / "old.onnx")
    assert (tmp_path / "old.onnx").read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"folder.onnx", "old.onnx"}


def test_vplface_export_json_states_parity_size_and_hash(command, folder, exported):
    assert command.exit_code == 0
    answer = json.loads(command.stdout)
    parity = answer.pop("parity")
    assert 0 < parity["max_abs_difference"] < 1e-5
    assert parity["least_cosine"] == pytest.approx(1)
    assert (parity["pictures"], parity["calibration_pictures"]) == (10, None)
    size = exported.stat().st_size
    assert answer == {
        "schema": 1,
        "model": str(folder),
        "file": str(exported),
        "opset": 18,
        "precision": "fp32",
        "bytes": size,
        "fp32_bytes": size,
        "files": {str(exported): hashlib.sha256(exported.read_bytes()).hexdigest()},
    }
    assert "torchvision" not in command.stderr


def test_vplface_export_prints_the_parity_and_refuses_a_wrong_opset_or_suffix(folder, tmp_path, monkeypatch):
    def quick(model, path, opset, precision, calibration):
        path.write_bytes(bytes(2_000_000))
        return deploy.Exported(path, opset, precision, 3.21e-7, 1.0, 1.0, 10, None, 2_000_000)

    monkeypatch.setattr(deploy, "export", quick)
    result = CliRunner().invoke(app, [str(folder), str(tmp_path / "m.onnx"), "--opset", "20"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "2.0 MB, opset 20" in result.stdout
    assert "at most 3.2e-07" in result.stdout
    assert CliRunner().invoke(app, [str(folder), str(tmp_path / "m.onnx"), "--opset", "9"]).exit_code == 2
    with pytest.raises(UsageError, match=r"m\.bin: .* must end in \.onnx"):
        CliRunner().invoke(app, [str(folder), str(tmp_path / "m.bin")], catch_exceptions=False)
