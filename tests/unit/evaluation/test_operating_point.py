"""Operating points: saved and loaded; damaged files and points of other weights are refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from vplface.errors import DataError
from vplface.evaluation.operating_point import OperatingPoint, operating_point_path
from vplface.evaluation.provenance import hashes, versions

POINT = OperatingPoint(
    threshold=0.31,
    far=1e-4,
    actual_far=9.5e-5,
    tar=0.93,
    protocol={"kind": "all pairs", "flip": "sum"},
    data="lfw112",
    date="2026-01-02T03:04:05+00:00",
    files={},
)


@pytest.fixture(params=["folder", "onnx"])
def model(request, tmp_path):
    """A model, a folder or a file, and its operating point."""
    if request.param == "onnx":
        path = weights = tmp_path / "net.v2.onnx"
    else:
        path, weights = tmp_path / "best", tmp_path / "best" / "model.safetensors"
        path.mkdir()
    weights.write_bytes(b"weights")
    replace(POINT, files={weights.name: hashes([weights])[str(weights)]}).save(path)
    return path, weights


def test_OperatingPoint_load_returns_what_save_wrote(model):
    path, weights = model
    found = OperatingPoint.load(path)
    assert replace(found, files={}) == POINT
    beside = operating_point_path(path)
    assert beside.parent == weights.parent
    assert beside.name == ("operating_point.json" if path.is_dir() else "net.v2.operating_point.json")
    assert [file for file in beside.parent.iterdir() if file.name.startswith(".")] == []


def test_OperatingPoint_load_refuses_a_point_of_other_weights(model):
    path, weights = model
    weights.write_bytes(b"weights of a later training")
    with pytest.raises(DataError, match=r"another .* than is there now.*--save-operating-point 0.0001"):
        OperatingPoint.load(path)


def test_OperatingPoint_load_compares_with_the_hash_of_the_loaded_weights(model):
    path, weights = model
    loaded = hashes([weights])[str(weights)]
    weights.write_bytes(b"weights of a later training")
    assert OperatingPoint.load(path, loaded).far == POINT.far
    with pytest.raises(DataError, match="than was loaded"):
        OperatingPoint.load(path, "0" * 64)


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, "9" * 5000])
def test_OperatingPoint_load_refuses_deeply_nested_json_and_long_numbers(model, text):
    path, _ = model
    operating_point_path(path).write_text(f'{{"schema": 1, "threshold": {text}}}')
    with pytest.raises(DataError, match=r"operating_point\.json: not valid"):
        OperatingPoint.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "'schema' must be 1"),
        ({"threshold": None}, "'threshold' must be a number in -1..1"),
        ({"threshold": 45}, "'threshold' must be a number"),
        ({"threshold": float("nan")}, "'threshold' must be a number"),
        ({"far": True}, "'far' must be a number"),
        ({"tar": 1.5}, "'tar' must be a number"),
        ({"protocol": "strict"}, "'protocol' has a wrong value"),
        ({"files": []}, "'files' has a wrong value"),
        ({"date": "yesterday"}, "'date' is not a date"),
    ],
)
def test_OperatingPoint_load_refuses_invalid_values(model, change, message):
    path, _ = model
    beside = operating_point_path(path)
    beside.write_text(json.dumps(json.loads(beside.read_text()) | change))
    with pytest.raises(DataError, match=message):
        OperatingPoint.load(path)


def test_OperatingPoint_load_refuses_incomplete_damaged_and_missing_files(model):
    path, _ = model
    beside = operating_point_path(path)
    values = json.loads(beside.read_text())
    del values["tar"], values["data"]
    beside.write_text(json.dumps(values))
    with pytest.raises(DataError, match="lacks 'tar', 'data'"):
        OperatingPoint.load(path)
    for damaged in (json.dumps(values)[:50], '{"threshold":' + "[" * 100_000, '{"threshold":' + "9" * 5000 + "}", "\0"):
        beside.write_text(damaged)
        with pytest.raises(DataError, match="not valid"):
            OperatingPoint.load(path)
    beside.unlink()
    with pytest.raises(DataError, match=r"vplface evaluate .* --save-operating-point"):
        OperatingPoint.load(path)


def test_operating_point_path_refuses_an_embeddings_file(tmp_path):
    with pytest.raises(DataError, match="belongs to a model"):
        operating_point_path(tmp_path / "embeddings.npz")


def test_versions_reports_python_vplface_torch_numpy_and_onnxruntime():
    found = versions()
    assert {"python", "vplface", "torch", "numpy", "onnxruntime"} == set(found)
    assert found["numpy"] is not None
