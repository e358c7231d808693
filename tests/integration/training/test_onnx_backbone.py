"""Runs from ONNX files: trained, resumed without the file, embedded, exported again."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from helpers.onnx_files import by_onnxruntime, by_torch, exported, pictures, with_statistics
from helpers.paths import SHARED
from helpers.small_runs import before_step, interrupt_by, settings
from vplface.backbones import Tiny, from_onnx
from vplface.backbones.folded_norm import without_statistics
from vplface.deploy.onnx import export
from vplface.embedder import Embedder
from vplface.errors import ConfigError, DataError, TrainingInterrupted
from vplface.plan import plan
from vplface.training.train import train

FOREIGN = SHARED / "models" / "mobilefacenet_foamliu.onnx"
INSIGHTFACE = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    return exported(with_statistics(Tiny(8, 8)), tmp_path / "model.onnx")


def run_of(faces, output, weights, **changes):
    backbone = {"name": "onnx", "weights": str(weights), "preprocessing": INSIGHTFACE, "options": {"norm": "fresh"}}
    changes = {"schedule": {"length": 6, "warmup": 1}} | changes
    backbone |= changes.pop("backbone", {})
    return settings(faces, output, backbone=backbone, loggers=[], **changes)


@pytest.mark.slow
def test_run_from_an_onnx_file_goes_on_without_it_and_is_exported_again(faces, file, tmp_path, monkeypatch):
    config = run_of(faces, tmp_path / "a", file)
    whole = train(config)
    assert whole is not None
    assert not without_statistics(whole.backbone)
    stopped = run_of(faces, tmp_path / "b", file)
    with monkeypatch.context() as patch:
        before_step(patch, 4, interrupt_by(15))
        with pytest.raises(TrainingInterrupted):
            train(stopped)
    file.unlink()
    resumed = train(stopped, resume=True)
    assert resumed is not None
    for name, tensor in whole.backbone.state_dict().items():
        assert torch.equal(tensor, resumed.backbone.state_dict()[name]), name
    folder = config.run_folder
    embedder = Embedder.load(folder)
    shown = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
    written = export(folder, tmp_path / "again.onnx")
    assert written.parity < 1e-4
    again = from_onnx(tmp_path / "again.onnx")
    x = embedder.card.preprocessing(torch.from_numpy(shown))
    unit = nn.functional.normalize(by_torch(again, x), dim=1)
    assert_close(unit.numpy(), embedder(shown), rtol=0, atol=1e-4)


def test_run_from_an_onnx_file_begins_with_its_embeddings(faces, file, tmp_path):
    still = {"finetune": {"batchnorm": "freeze"}, "optimizer": {"lr": 1e-12}, "schedule": {"length": 1, "warmup": 0}}
    started = train(run_of(faces, tmp_path, file, ema=None, **still))
    assert started is not None
    assert_close(by_torch(started.backbone, pictures()), by_onnxruntime(file, pictures()), rtol=1e-3, atol=1e-4)


def test_run_takes_weights_by_structure_and_measures_folded_BatchNorm(faces, file, tmp_path, capsys):
    backbone = {"name": "tiny", "embedding_dim": 8, "options": {"width": 8}}
    started = train(run_of(faces, tmp_path, file, backbone=backbone, schedule={"length": 1, "warmup": 0}))
    assert started is not None
    assert not without_statistics(started.backbone)
    assert "backbone: 11 BatchNorm were folded in the file" in capsys.readouterr().err


def test_plan_of_an_onnx_file_counts_its_weights(faces, file, tmp_path):
    planned = plan(run_of(faces, tmp_path, file, backbone={"options": {}}))
    assert planned.parameters == sum(p.numel() for p in from_onnx(file).parameters())
    assert planned.normalisation == "1 BatchNorm, 11 folded into convolutions (norm=fresh adds new ones)"


def test_run_names_the_option_where_the_file_is_another(faces, file, tmp_path):
    config = run_of(faces, tmp_path, file)
    exported(Tiny(8, 16), file)
    with pytest.raises(DataError, match=r"another network than backbone.options.graph"):
        train(config)
    file.write_bytes(b"no onnx")
    with pytest.raises(ConfigError, match="not an ONNX file"):
        run_of(faces, tmp_path, file)


@pytest.mark.skipif(not FOREIGN.is_file(), reason="no foreign network beside the repository (shared/models)")
def test_foreign_MobileFaceNet_is_trained_from_exactly_its_embeddings(tmp_path):
    shutil.copy(FOREIGN, tmp_path / "m.onnx")
    for norm in ("none", "fresh"):
        backbone = from_onnx(tmp_path / "m.onnx", norm=norm)
        x = pictures(2)
        expected = nn.functional.normalize(by_onnxruntime(FOREIGN, x), dim=1)
        assert_close(nn.functional.normalize(by_torch(backbone, x), dim=1), expected, rtol=0, atol=1e-4)
        assert "0 BatchNorm, 51 folded into convolutions" in repr(backbone)
        backbone.train()(x).sum().backward()
        assert all(p.grad is not None for p in backbone.parameters())
