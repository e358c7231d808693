"""fp16 and int8 files: contents, distance from the fp32 file, and refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from vplface.backbones import build
from vplface.data.pictures import UnreadablePictureError
from vplface.deploy import onnx as deploy
from vplface.deploy.onnx import Exported, export
from vplface.deploy.reduced_precision import require_calibration, sample_calibration
from vplface.embedder import Embedder
from vplface.errors import ConfigError, VplfaceError
from vplface.stored_model import ModelCard, save_model

CARD = ModelCard("tiny", 24, {"width": 8}, evaluation={"pairs": {"accuracy": {"value": 0.9}}})


class Patches:
    """Pictures of coarse patches, all different; some cannot be read."""

    identities = ("a", "b")

    def __init__(self, count, unreadable=()):
        self.unreadable = unreadable
        self.labels = np.arange(count) % 2

    def __len__(self):
        return len(self.labels)

    def name(self, index):
        return f"{index}.png"

    def picture(self, index):
        if index in self.unreadable:
            raise UnreadablePictureError(self.name(index), "the file is empty")
        side = (4, 8, 16)[index % 3]
        coarse = np.random.default_rng(index).integers(0, 256, (112 // side, 112 // side, 3), np.uint8)
        return coarse.repeat(side, axis=0).repeat(side, axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network whose batch statistics are those of the pictures."""
    torch.manual_seed(0)
    backbone = build("tiny", 24, width=8)
    for module in backbone.modules():
        if hasattr(module, "momentum"):
            module.momentum = None
    pictures = Patches(64)
    x = CARD.preprocessing(torch.from_numpy(np.stack([pictures.picture(index) for index in range(64)])))
    with torch.no_grad():
        backbone.train()(x)
    path = tmp_path_factory.mktemp("reduced") / "run"
    save_model(path, backbone, CARD)
    return path


@pytest.fixture(scope="module")
def whole(folder):
    """The fp32 file, which the exports of these tests begin with: torch's exporter is asked once."""
    path = folder / "whole.onnx"
    export(folder, path)
    return path


@pytest.fixture
def quick(whole, monkeypatch):
    def write(backbone, path, opset, size, card):
        model = onnx.load(whole)
        onnx.helper.set_model_props(model, {"model_card": card})
        onnx.save(model, path)

    monkeypatch.setattr(deploy, "_export_fp32", write)


def kinds(path):
    """{initialiser: its dtype}, those of more than one number."""
    tensors = (numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer)
    return {tensor.dtype.name for tensor in tensors if tensor.size > 24}


def check_told(exported, folder, pictures):
    """The cosines and parity that an export reports are those of its file."""
    ours, theirs = Embedder.load(folder)(pictures), Embedder.load(exported.path)(pictures)
    cosines = (ours * theirs).sum(1)
    assert exported.mean_cosine == pytest.approx(cosines.mean(), abs=1e-5)
    assert exported.least_cosine == pytest.approx(cosines.min(), abs=1e-5)
    assert exported.parity == pytest.approx(np.abs(ours - theirs).max(), abs=1e-5)


def check_interface(path):
    """Input and output as in fp32, the card without figures, nothing about this machine, no first nodes of mxnet."""
    session = onnxruntime.InferenceSession(path)
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("input", "tensor(float)", ["batch", 3, 112, 112])
    assert (made.name, made.type, made.shape) == ("embedding", "tensor(float)", ["batch", 24])
    assert Embedder.load(path).card == dataclasses.replace(CARD, evaluation=None)
    names = [node.name for node in onnx.load(path).graph.node[:8]]
    assert not [name for name in names if name.startswith(("Sub", "_minus", "Mul", "_mul"))]
    assert b"vplface-" not in path.read_bytes()


@pytest.mark.slow
def test_export_fp16_stores_float16_weights_close_to_fp32(folder, quick, whole, tmp_path):
    exported = export(folder, tmp_path / "m.onnx", precision="fp16")
    assert (exported.precision, exported.pictures, exported.calibration) == ("fp16", 10, None)
    assert kinds(exported.path) == {"float16"}
    assert exported.path.stat().st_size < 0.6 * exported.fp32_size
    assert exported.fp32_size == pytest.approx(whole.stat().st_size, rel=0.01)
    assert exported.least_cosine > 0.99999
    assert exported.parity > 0
    check_told(exported, folder, deploy._random_pictures(10, 112))
    check_interface(exported.path)


def test_export_int8_is_small_and_close_to_fp32(folder, quick, whole, tmp_path):
    calibration = Patches(60, unreadable={3, 4})
    exported = export(folder, tmp_path / "m.onnx", precision="int8", calibration=calibration)
    assert (exported.precision, exported.pictures, exported.calibration) == ("int8", 11, 47)
    assert exported.path.stat().st_size < 0.5 * whole.stat().st_size
    assert exported.mean_cosine > 0.98
    check_told(exported, folder, sample_calibration(calibration)[1])
    check_interface(exported.path)


def test_export_int8_rounds_weights_to_the_nearest_step_per_channel(folder, quick, whole, tmp_path):
    model = onnx.load(export(folder, tmp_path / "m.onnx", precision="int8", calibration=Patches(60)).path)
    quantised = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = [numpy_helper.to_array(tensor) for tensor in onnx.load(whole).graph.initializer]
    convolutions = 0
    for node in model.graph.node:
        q = quantised.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if q is None or q.dtype != np.int8 or q.ndim != 4:
            continue
        scale, zero = (quantised[name].reshape(-1, 1, 1, 1) for name in node.input[1:])
        assert len(scale) == len(q)
        assert not zero.any()
        (w,) = [w for w in weights if w.shape == q.shape and np.abs(w - scale * q).max() <= 0.501 * scale.max()]
        assert (np.abs(w - scale * q) <= 0.501 * scale).all()
        np.testing.assert_allclose(np.abs(w).max((1, 2, 3)), 127 * scale.ravel(), rtol=5e-3)
        convolutions += 1
    assert convolutions == sum(w.ndim == 4 for w in weights) - 1
    (first,) = [node for node in model.graph.node if "input" in node.input]
    assert first.op_type == "Conv"
    assert quantised[first.input[1]].dtype == np.float32


def test_export_int8_is_insensitive_to_the_last_bit_of_its_input(folder, quick, tmp_path):
    path = export(folder, tmp_path / "m.onnx", precision="int8", calibration=Patches(60)).path
    x = CARD.preprocessing(torch.from_numpy(Patches(5).picture(1)[None])).numpy()
    session = onnxruntime.InferenceSession(path)
    a, b = (session.run(None, {"input": np.ascontiguousarray(np.nextafter(x, end))})[0][0] for end in (-2, 2))
    assert (a @ b) / np.linalg.norm(a) / np.linalg.norm(b) > 0.9999


def test_export_leaves_no_file_that_is_too_far_from_torch(folder, quick, tmp_path, monkeypatch):
    def noise(source, target, *_):
        model = onnx.load(source)
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.ndim == 4:
                values = values + np.random.default_rng(0).normal(0, 3 * values.std(), values.shape).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(model, target)

    monkeypatch.setattr(deploy, "to_fp16", noise)
    monkeypatch.setattr(deploy, "to_int8", noise)
    with pytest.raises(VplfaceError, match=r"m\.onnx: not written: the least cosine .* in fp16 .* below 0\.999"):
        export(folder, tmp_path / "m.onnx", precision="fp16")
    with pytest.raises(VplfaceError, match=r"m\.onnx: not written: the mean cosine .* in int8 .* below 0\.95"):
        export(folder, tmp_path / "m.onnx", precision="int8", calibration=Patches(60))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("precision", "parity", "mean", "least", "refused"),
    [
        ("fp32", 1e-4, 0.1, 0.1, False),
        ("fp32", 1.1e-4, 1.0, 1.0, True),
        ("fp16", 0.9, 0.9995, 0.999, False),
        ("fp16", 0.0, 0.9995, 0.9989, True),
        ("int8", 0.9, 0.95, -0.5, False),
        ("int8", 0.0, 0.949, 0.949, True),
    ],
)
def test__require_parity_enforces_the_floors_of_each_precision(tmp_path, precision, parity, mean, least, refused):
    exported = Exported(tmp_path / "m.onnx", 18, precision, parity, mean, least, 10, None, 1)
    if refused:
        with pytest.raises(VplfaceError, match="not written"):
            deploy._require_parity(exported)
    else:
        deploy._require_parity(exported)


def test_sample_calibration_draws_distinct_pictures_deterministically():
    calibration = Patches(700, unreadable=set(range(0, 700, 20)))
    calibrated, kept = sample_calibration(calibration)
    assert (len(calibrated), len(kept)) == (512, 128)
    assert len({picture.tobytes() for picture in (*calibrated, *kept)}) == 640
    again = sample_calibration(calibration)
    assert (calibrated == again[0]).all()
    assert (kept == again[1]).all()


def test_export_and_sample_calibration_refuse_wrong_or_too_few_pictures(folder, tmp_path):
    with pytest.raises(ConfigError, match="49 pictures can be read, and int8 needs at least 50"):
        sample_calibration(Patches(52, unreadable={0, 1, 2}))
    with pytest.raises(ConfigError, match="'bf16': choose one of fp32, fp16, int8"):
        require_calibration("bf16", None)
    with pytest.raises(ConfigError, match="int8 needs calibration pictures"):
        export(folder, tmp_path / "m.onnx", precision="int8")
    with pytest.raises(ConfigError, match="calibration pictures are for int8, not for fp16"):
        export(folder, tmp_path / "m.onnx", precision="fp16", calibration=Patches(60))
    assert not any(tmp_path.iterdir())
