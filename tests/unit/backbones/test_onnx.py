"""ONNX files of other exporters: embedded correctly, or refused with an error that names the file."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from vplface.backbones import onnx as module
from vplface.backbones.onnx import OnnxNetwork
from vplface.errors import DataError

SIZE = 112
FLOAT = TensorProto.FLOAT
W = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
MEANS = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["f"])]
PRODUCT = helper.make_node("MatMul", ["f", "W"], ["e"])


def value(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


X, E = value("x", ["b", 3, SIZE, SIZE]), value("e", ["b", 8])


def made(nodes=(*MEANS, PRODUCT), inputs=(X,), outputs=(E,), opset=17, domains=(), **tensors):
    """A model; of these nodes, the embedding is W times the mean of each channel."""
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in ({"W": W} | tensors).items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), initializers)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def load(folder, model, dim=None):
    path = folder / "m.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    network = OnnxNetwork(path)
    network.try_out(SIZE, dim)
    return network


def pictures(count=5):
    return torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (count, 3, SIZE, SIZE)).astype(np.float32)) + 0.5


def embeddings(x):
    return x.numpy().mean((2, 3)) @ W


def node(kind, given, name="e", **attributes):
    return helper.make_node(kind, given.split(), [name], **attributes)


def cast(kind):
    return [node("Cast", "x", "c", to=FLOAT), node("GlobalAveragePool", "c", "p"), MEANS[1], node("MatMul", "f W", "d"),
            node("Cast", "d", to=kind)]  # fmt: skip


NORM = node("ReduceL2", "e", "norm", axes=[1])
HANDLED = {
    "plain": made(),
    "open size": made(inputs=[value("x", ["b", 3, "h", "w"])]),
    "no shape of the output": made(outputs=[value("e", None)]),
    "channels last": made([node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("GlobalAveragePool", "t", "p"),
                           MEANS[1], PRODUCT], [value("x", ["b", SIZE, SIZE, 3])]),
    "float16": made(cast(TensorProto.FLOAT16), [value("x", ["b", 3, SIZE, SIZE], TensorProto.FLOAT16)],
                    [value("e", ["b", 8], TensorProto.FLOAT16)]),
    "double": made(cast(TensorProto.DOUBLE), [value("x", ["b", 3, SIZE, SIZE], TensorProto.DOUBLE)],
                   [value("e", ["b", 8], TensorProto.DOUBLE)]),
    "batch of 1": made(inputs=[value("x", [1, 3, SIZE, SIZE])], outputs=[value("e", [1, 8])]),
    "batch of 4": made(inputs=[value("x", [4, 3, SIZE, SIZE])], outputs=[value("e", [4, 8])]),
    "batch of 1 inside": made([MEANS[0], node("Reshape", "p s", "f"), PRODUCT], s=np.array([1, 3])),
    "one long row": made([*MEANS, node("MatMul", "f W", "d"), node("Reshape", "d s")], s=np.array([1, -1])),
    "without an axis of the batch": made([*MEANS, node("MatMul", "f W", "d"), node("Reshape", "d s")],
                                         outputs=[value("e", [8])], s=np.array([8])),
    "depends on the batch": made([*MEANS, node("MatMul", "f W", "d"), node("ReduceMean", "d", "m", axes=[0]),
                                  node("Add", "d m", "a"), node("Mul", "a half")], half=np.float32(0.5)),
    "norm after it": made([*MEANS, PRODUCT, NORM], outputs=[E, value("norm", ["b", 1])]),
    "norm before it": made([*MEANS, PRODUCT, NORM], outputs=[value("norm", ["b", 1]), E]),
    "norm without an axis": made([*MEANS, PRODUCT, node("ReduceL2", "e", "norm", axes=[1], keepdims=0)],
                                 outputs=[value("norm", ["b"]), E]),
    "feature map beside it": made([*MEANS, PRODUCT, node("Relu", "x", "r")], outputs=[value("r", None), E]),
    "4-D": made([*MEANS, node("MatMul", "f W", "d"), node("Unsqueeze", "d a")], outputs=[value("e", ["b", 8, 1, 1])],
                a=np.array([2, 3])),
    "3-D": made([*MEANS, node("MatMul", "f W", "d"), node("Unsqueeze", "d a")], outputs=[value("e", ["b", 1, 8])],
                a=np.array([1])),
}  # fmt: skip


@pytest.mark.parametrize("name", HANDLED)
def test_OnnxNetwork_embeds_files_of_other_exporters_correctly(tmp_path, name):
    network = load(tmp_path, HANDLED[name])
    x = pictures()
    found = network(x)
    assert (network.dim, found.dtype) == (8, torch.float32)
    near = 2e-3 if name == "float16" else 1e-5
    np.testing.assert_allclose(found, embeddings(x), atol=near)


@pytest.mark.parametrize("name", ["depends on the batch", "batch of 1 inside"])
def test_OnnxNetwork_embeds_one_by_one_where_the_batch_changes_the_result(tmp_path, name):
    network = load(tmp_path, HANDLED[name])
    assert network._batch_size == 1
    assert load(tmp_path, made())._batch_size is None


BODY = helper.make_graph(
    [node("Identity", "c", "c2"), node("Identity", "v", "v2")], "b",
    [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("v", ["b", 8])],
    [value("c2", [], TensorProto.BOOL), value("v2", ["b", 8])],
)  # fmt: skip
BRANCH = helper.make_graph([node("Loop", "n yes d", "e1", body=BODY)], "then", [], [value("e1", ["b", 8])])
TWO = value("y", ["b", 3, SIZE, SIZE])
REFUSED = {
    "two inputs": (made([node("Add", "x y", "s"), node("GlobalAveragePool", "s", "p"), MEANS[1], PRODUCT], [X, TWO]),
                   r"has 2 inputs \('x', 'y'\); expected one"),
    "no input": (made([node("Identity", "W")], []), r"has 0 inputs \(none\)"),
    "whole numbers": (made(cast(FLOAT), [value("x", ["b", 3, SIZE, SIZE], TensorProto.INT64)]),
                      r"its input 'x' is of type tensor\(int64\); expected one of tensor\(float\), tensor\(float16\)"),
    "another size": (made(inputs=[value("x", ["b", 3, 160, 160])]),
                     r"takes pictures of shape \['b', 3, 160, 160\]; expected \[batch, 3, 112, 112\]"),
    "no picture": (made([node("Identity", "x", "f"), PRODUCT], [value("x", ["b", 3])]), r"shape \['b', 3\]; expected"),
    "no axes": (made([node("Identity", "x", "f"), PRODUCT], [value("x", [])]), r"shape \[\]; expected|cannot load it"),
    "grey": (made(inputs=[value("x", ["b", 1, SIZE, SIZE])], W=W[:1]), r"shape \['b', 1, 112, 112\]"),
    "huge batch": (made(inputs=[value("x", [10**9, 3, SIZE, SIZE])]), r"a batch that is open or at most 1024"),
    "two vectors": (made([*MEANS, PRODUCT], outputs=[value("f", ["b", 3]), E]),
                    r"several outputs can be the embedding: 'f' \[1, 3\], 'e' \[1, 8\] for 1; export"),
    "norm alone": (made([*MEANS, PRODUCT, NORM], outputs=[value("norm", ["b", 1])]),
                   r"no output is an embedding, one vector of floats per picture; its outputs are 'norm' \[1, 1\]"),
    "feature map alone": (made([node("Relu", "x")], outputs=[value("e", None)]),
                          r"its outputs are 'e' \[1, 3, 112, 112\]"),
    "nothing": (made([*MEANS, node("MatMul", "f none")], outputs=[value("e", ["b", 0])], none=W[:, :0]),
                r"its outputs are 'e' \[1, 0\]"),
    "bytes": (made([*MEANS, node("Cast", "f", to=TensorProto.UINT8)],
                   outputs=[value("e", ["b", 3], TensorProto.UINT8)]),
              r"no output is an embedding"),
    "a loop": (made([*MEANS, node("MatMul", "f W", "d"), node("Loop", "n yes d", body=BODY)], n=2**62, yes=True),
               r"has a Loop operator, which may never end"),
    "a loop in a branch": (
        made([*MEANS, node("MatMul", "f W", "d"), node("If", "yes", then_branch=BRANCH, else_branch=BRANCH)], n=2**62,
             yes=True), r"has a Loop"),
    "terabytes": (made([node("ConstantOfShape", "s", "big"), node("ReduceSum", "big", "r", keepdims=0), *MEANS,
                        node("MatMul", "f W", "d"), node("Add", "d r")], s=np.array([2**22, 2**22])),
                  r"onnxruntime cannot run it: .*Failed to allocate memory"),
    "more than 64 bits": (made([node("ConstantOfShape", "s", "big"), node("ReduceSum", "big", "r", keepdims=0), *MEANS,
                                node("MatMul", "f W", "d"), node("Add", "d r")], s=np.array([2**62, 2**62])),
                          r"onnxruntime cannot run it: .*overflow"),
    "an operator of somebody's": (made([*MEANS, node("Own", "f", domain="them")], domains=["them"]),
                                  r"cannot load it: .*them:Own"),
    "an operator set to come": (made(opset=99), r"cannot load it: .*Opset 99"),
    "another shape inside": (made([*MEANS, node("MatMul", "f V")], V=W.T), r"onnxruntime cannot (load|run) it"),
    "damaged": (b"\x08\x09" + made().SerializeToString()[:-50], r"cannot load it: it is damaged or not an ONNX file"),
    "a name that is no text": (made(inputs=[value("x", ["batch", 3, SIZE, SIZE])]).SerializeToString()
                               .replace(b"batch", b"b\xfftch"), r"cannot load it"),
    "empty": (b"", r"cannot load it"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_OnnxNetwork_refuses_unsupported_files_by_name(tmp_path, name, capfd):
    model, message = REFUSED[name]
    with pytest.raises(DataError, match=rf"^\S*m\.onnx: .*{message}"):
        load(tmp_path, model)
    assert capfd.readouterr() == ("", "")


def test_OnnxNetwork_try_out_chooses_the_output_of_the_given_dimension(tmp_path):
    model = made([*MEANS, PRODUCT], outputs=[value("f", ["b", 3]), E])
    x = pictures()
    np.testing.assert_allclose(load(tmp_path, model, 8)(x), embeddings(x), atol=1e-5)
    assert load(tmp_path, model, 3).dim == 3
    with pytest.raises(DataError, match=r"gives embeddings of dimension \[3, 8\], its card says 5"):
        load(tmp_path, model, 5)


def test_OnnxNetwork_errors_escape_control_characters_of_names(tmp_path):
    model = made([node("Identity", "\x1b[2Jx", "x"), *MEANS, PRODUCT], [value("\x1b[2Jx", [9])])
    with pytest.raises(DataError, match=r"onnx") as error:
        load(tmp_path, model)
    assert "\x1b" not in str(error.value)


def test_OnnxNetwork_loads_external_weights_beside_the_model(tmp_path, monkeypatch):
    onnx.save_model(made(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    monkeypatch.chdir("/")
    network = OnnxNetwork(tmp_path / "m.onnx")
    network.try_out(SIZE)
    x = pictures()
    np.testing.assert_allclose(network(x), embeddings(x), atol=1e-5)
    assert [Path(name).name for name in network.files] == ["m.onnx", "m.data"]

    stored, linked = tmp_path / "stored", tmp_path / "linked"  # as the Hub's cache keeps them
    stored.mkdir()
    linked.mkdir()
    for name in ("m.onnx", "m.data"):
        (stored / f"blob-{name}").write_bytes((tmp_path / name).read_bytes())
        (linked / name).symlink_to(stored / f"blob-{name}")
    assert list(OnnxNetwork(linked / "m.onnx").files.values()) == list(network.files.values())


def outside(folder, **place):
    model = made()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in place.items():
        tensor.external_data.add(key=key, value=text)
    inside = folder / "inside"
    inside.mkdir()
    (folder / "secret").write_bytes(W.tobytes())
    (inside / "here").write_bytes(W.tobytes())
    (inside / "link").symlink_to(folder / "secret")
    os.mkfifo(inside / "pipe")
    return inside, model


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"location": "../secret"}, r"'\.\./secret', outside its folder, which is not allowed"),
        ({"location": "../inside/../secret"}, "outside its folder"),
        ({"location": "/etc/passwd"}, "outside its folder"),
        ({"location": "C:\\secret"}, "outside its folder"),
        ({"location": "link"}, "outside its folder"),
        ({"location": ""}, "outside its folder"),
        ({"location": "a\0b"}, "outside its folder"),
        ({"location": "gone"}, r"its weights are in 'gone', which is not beside it; copy both files"),
        ({"location": "pipe"}, r"'pipe', which is not beside it"),
        ({"location": "here", "offset": "64", "length": "96"}, r"'W' lie outside 'here', which has 96 bytes"),
        ({"location": "here", "offset": "-4"}, "lie outside"),
        ({"location": "here", "offset": "9" * 5000}, "lie outside"),
        ({"location": "here", "length": "4"}, "cannot load it"),
    ],
)  # fmt: skip
def test_OnnxNetwork_refuses_invalid_locations_of_external_weights(tmp_path, place, message):
    folder, model = outside(tmp_path, **place)
    with pytest.raises(DataError, match=message):
        load(folder, model)


def test_OnnxNetwork_refuses_files_that_are_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 100)
    with pytest.raises(DataError, match="larger than 0 MiB"):
        load(tmp_path, made())
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10**6)
    monkeypatch.setattr(module, "MAX_EXTERNAL_BYTES", 50)
    folder, model = outside(tmp_path, location="here")
    with pytest.raises(DataError, match=r"here\b.*larger than 0 MiB"):
        load(folder, model)


def test_OnnxNetwork_refuses_devices_and_pipes(tmp_path):
    os.mkfifo(tmp_path / "m.onnx")
    (tmp_path / "null.onnx").symlink_to("/dev/zero")
    for name in ("m.onnx", "null.onnx"):
        with pytest.raises(DataError, match=rf"{name}\b.* not a regular file"):
            OnnxNetwork(tmp_path / name)


def test_OnnxNetwork_raises_DataError_if_a_later_batch_fails(tmp_path):
    picky = made([*MEANS, node("ReduceMean", "x", "m", keepdims=0), node("Cast", "m", "i", to=TensorProto.INT64),
                  node("Gather", "W i", "row"), node("MatMul", "f W", "d"), node("Sub", "d d", "z")
                  , node("ReduceSum", "row", "r", keepdims=0), node("Add", "d r")])  # fmt: skip
    network = load(tmp_path, picky)
    with pytest.raises(DataError, match=r"m\.onnx: onnxruntime cannot run it: .*Gather"):
        network(pictures() * 0 + 7)


def test_OnnxNetwork_loading_times_out(tmp_path, monkeypatch):
    big = np.ones((400, 400), np.float32)
    work = [node("MatMul", "V W0", "v0")] + [node("MatMul", f"v{i} W0", f"v{i + 1}") for i in range(3000)]
    last = [node("ReduceMean", "v3000", "r", keepdims=0), *MEANS, node("MatMul", "f W", "d"), node("Add", "d r")]
    first = [node("ReduceMean", "x", "s", keepdims=0), node("Add", "W0 s", "V")]
    monkeypatch.setattr(module, "LOAD_TIMEOUT", 0.2)
    with pytest.raises(DataError, match=r"m\.onnx: onnxruntime cannot load it: timed out after 0\.2 seconds"):
        load(tmp_path, made([*first, *work, *last], W0=big))
