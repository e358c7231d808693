from __future__ import annotations

import csv
import hashlib
import json

import cv2
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from vplface.backbones import build
from vplface.cli import embed as module
from vplface.cli.embed import embed
from vplface.embedder import Embedder
from vplface.errors import DataError, UsageError
from vplface.stored_model import ModelCard, save_model

app = typer.Typer()
app.command()(embed)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    backbone = build("tiny", 16, width=8)
    backbone(torch.rand(8, 3, 112, 112) * 2 - 1)
    path = tmp_path_factory.mktemp("embed") / "run"
    save_model(path, backbone, ModelCard("tiny", 16, {"width": 8}))
    return path


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "pictures"
    for name in ("b/deep/er/1.png", "a/2.PNG", "a/1.webp", "Zoë, Ω/1.png", "b/.hidden.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        encoded = cv2.imencode(path.suffix.lower(), coarse.repeat(14, 0).repeat(14, 1))[1]
        path.write_bytes(encoded.tobytes())
    (root / "a" / "notes.txt").write_text("no picture, not looked at")
    return root


NAMES = ["Zoë, Ω/1.png", "a/1.webp", "a/2.PNG", "b/deep/er/1.png"]


def read(path):
    if path.suffix == ".npz":
        with np.load(path) as stored:
            assert json.loads(str(stored["model_card"]))["embedding_dim"] == 16
            return stored["names"].tolist(), stored["embeddings"]
    if path.suffix == ".npy":
        rows = np.load(path)
        return rows["name"].tolist(), rows["embedding"]
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", *(f"e{index}" for index in range(16))]
    return [row[0] for row in rows], np.array([row[1:] for row in rows], np.float32)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv"])
def test_vplface_embed_stores_names_and_embeddings_exactly(model, pictures, tmp_path, suffix):
    out = tmp_path / "new" / f"embeddings{suffix}"
    result = run(model, pictures, "--out", out)
    assert result.exit_code == 0
    assert result.stdout == f"wrote {out}: 4 embeddings of 16 numbers\n"
    names, embeddings = read(out)
    assert names == [str(pictures / name) for name in NAMES]
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, Embedder.load(model)(names))


def test_vplface_embed_sums_flipped_embeddings_and_lists_a_repeated_file_once(model, pictures, tmp_path):
    out = tmp_path / "e.npz"
    one = pictures / "a" / "2.PNG"
    result = run(model, one, pictures / "a", "--flip", "sum", "-o", out)
    assert result.exit_code == 0
    names, embeddings = read(out)
    assert names == [str(one), str(pictures / "a" / "1.webp")]
    np.testing.assert_allclose(embeddings, Embedder.load(model)(names, "sum"), atol=1e-6)


def test_vplface_embed_names_skips_and_counts_unreadable_pictures(model, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BATCH_SIZE", 1)  # some batches have no readable picture
    (pictures / "a" / "3.jpg").write_bytes(b"no picture")
    (pictures / "a" / "4.jpg").write_bytes(b"")
    out = tmp_path / "e.npz"
    result = run(model, pictures, tmp_path / "absent.png", "--out", out)
    assert result.exit_code == 0
    assert "4 embeddings of 16 numbers, skipped 3" in result.stdout
    for name in ("3.jpg", "4.jpg", "absent.png"):
        assert any(line.startswith("skipped ") and name in line for line in result.stderr.splitlines()), name
    assert read(out)[0] == [str(pictures / name) for name in NAMES]


def test_vplface_embed_json_states_protocol_counts_and_hashes(model, pictures, tmp_path):
    (pictures / "a" / "4.jpg").write_bytes(b"")
    out = tmp_path / "e.csv"
    result = run(model, pictures, "--out", out, "--json")
    report = json.loads(result.stdout)
    assert report.pop("alignment")["pictures"] == 4
    assert report == {
        "schema": 1,
        "model": str(model),
        "protocol": {"flip": "none"},
        "pictures": 4,
        "embedding_dim": 16,
        "left_out": {"kinds": {}, "irregular": [], "people": []},
        "unreadable": [{"path": str(pictures / "a" / "4.jpg"), "reason": "the file is empty"}],
        "files": {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (out, model / "model.safetensors", model / "model.json")
        },
    }


def test_vplface_embed_refuses_inputs_without_a_readable_picture(model, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    out = tmp_path / "e.npz"
    with pytest.raises(DataError, match="none of the 2 pictures can be read"):
        run(model, tmp_path / "x.jpg", tmp_path / "absent.jpg", "--out", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no pictures in .*empty"):
        run(model, tmp_path / "empty", "--out", out)
    assert not out.exists()


def test_vplface_embed_refuses_an_unknown_format_before_it_loads_the_model(tmp_path):
    with pytest.raises(UsageError, match=r"embeddings\.parquet.*\.npz, \.csv, \.npy"):
        run(tmp_path / "no model", tmp_path, "--out", tmp_path / "embeddings.parquet")


def test_vplface_embed_names_the_picture_whose_embedding_is_not_finite(pictures, tmp_path):
    backbone = build("tiny", 16, width=8)
    torch.nn.init.constant_(backbone.embedding.weight, float("nan"))
    save_model(tmp_path / "run", backbone, ModelCard("tiny", 16, {"width": 8}))
    with pytest.raises(DataError, match=r"1\.webp: its embedding is not finite"):
        run(tmp_path / "run", pictures / "a", "--out", tmp_path / "e.npz")
