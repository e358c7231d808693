"""ONNX files as trainable networks: what is handled, and the error for what is not."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, external_data_helper, helper
from torch.testing import assert_close

from helpers.onnx_files import FLOAT, SIZE, by_onnxruntime, by_torch, node, pictures, value, written
from vplface.backbones import build, from_onnx
from vplface.backbones.onnx_graph import read_graph
from vplface.backbones.onnx_graph.operators import OPERATORS
from vplface.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
W = RNG.normal(size=(8, 3, 1, 1)).astype(np.float32)
CONV, POOLED, FLAT = node("Conv", "x,W", "c"), node("GlobalAveragePool", "c", "p"), node("Flatten", "p")
PLAIN = [CONV, POOLED, FLAT]
NORM = node("ReduceL2", "e", "norm", axes=[1])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.onnx"


def agrees(path, x=None, atol=1e-5):
    x = pictures() if x is None else x
    backbone = from_onnx(path)
    assert_close(
        by_torch(backbone, x), by_onnxruntime(path, x, backbone.layers and read_graph(path).dim), rtol=0, atol=atol
    )
    return backbone


def test_ReadGraph_opens_a_batch_size_that_is_fixed_in_the_file(path):
    nodes = [CONV, POOLED, node("Reshape", "p,s")]
    agrees(written(path, nodes, shape=(1, 3, SIZE, SIZE), W=W, s=np.array([1, -1])))
    agrees(written(path, nodes, shape=(1, 3, SIZE, SIZE), W=W, s=np.array([1, 8])))
    agrees(written(path, nodes, shape=(4, 3, SIZE, SIZE), W=W, s=np.array([4, 8])))


def test_ReadGraph_leaves_out_the_norm_of_an_embedding(path):
    scaled = [*PLAIN[:2], node("Flatten", "p", "e0"), node("ReduceL2", "e0", "norm", axes=[1]), node("Div", "e0,norm")]
    backbone = agrees(written(path, scaled, outputs=("e", "norm"), W=W))
    assert_close(by_torch(backbone, pictures()).norm(dim=1), torch.ones(3))
    assert read_graph(written(path, [*PLAIN, NORM], outputs=("norm", "e"), W=W)).graph.nodes[-1].operator == "Flatten"


def test_ReadGraph_prepares_uint8_pixels_as_the_file_does(path):
    mean, std = (np.array(each, np.float32).reshape(3, 1, 1) for each in ([120, 110, 100], [60, 50, 40]))
    nodes = [node("Cast", "x", "f", to=FLOAT), node("Sub", "f,mean", "s"), node("Div", "s,std", "n")]
    nodes += [node("Conv", "n,W", "c"), POOLED, FLAT]
    written(path, nodes, kind=TensorProto.UINT8, W=W, mean=mean, std=std)
    backbone = agrees(path, torch.randint(0, 256, (3, 3, SIZE, SIZE)).float(), atol=1e-4)
    assert read_graph(path).takes_uint8
    assert [name for name, _ in backbone.named_parameters()] == ["layers.conv3.weight"]  # mean and std are no weights


def test_ReadGraph_trains_float16_in_float32(path):
    written(path, PLAIN, kind=TensorProto.FLOAT16, gives=TensorProto.FLOAT16, W=W.astype(np.float16))
    backbone = agrees(path, atol=1e-2)
    assert read_graph(path).half
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


def test_ReadGraph_takes_channels_last(path):
    agrees(written(path, [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Conv", "t,W", "c"), POOLED, FLAT],
                   shape=("b", SIZE, SIZE, 3), W=W))  # fmt: skip


def test_ReadGraph_reads_weights_in_Constant_nodes_and_external_data(path):
    constant = helper.make_node("Constant", [], ["W"], value=onnx.numpy_helper.from_array(W))
    agrees(written(path, [constant, node("Identity", "W", "W2"), node("Conv", "x,W2", "c"), node("Dropout", "c", "d"),
                          node("GlobalAveragePool", "d", "p"), FLAT]))  # fmt: skip
    model = onnx.load(written(path, PLAIN, W=W))
    external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    onnx.save(model, path)
    agrees(path)


def refused(path, match, **options):
    with pytest.raises(DataError, match=match) as error:
        from_onnx(path, **options)
    assert str(path) in str(error.value)
    return str(error.value)


def test_ReadGraph_refuses_external_data_outside_the_folder(path):
    model = onnx.load(written(path, PLAIN, W=W))
    external_data_helper.set_external_data(model.graph.initializer[0], "../w.bin", 0, 96)
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    path.write_bytes(model.SerializeToString())
    (path.parent.parent / "w.bin").write_bytes(bytes(96))
    refused(path, "outside its folder")


@pytest.mark.parametrize("content", [b"", b"no onnx", bytes(100), b"PK\3\4" + bytes(50)])
def test_ReadGraph_refuses_a_file_that_is_no_ONNX(path, content):
    path.write_bytes(content)
    refused(path, "not an ONNX file")


def test_ReadGraph_refuses_other_inputs(path):
    refused(path, "no such file")
    refused(path.parent, "not an ONNX file, but a folder")
    refused(written(path, PLAIN, inputs=[value("mask", [1])], W=W), r"2 inputs \('x', 'mask'\); expected one")
    refused(written(path, PLAIN, kind=TensorProto.INT32, W=W), "its input 'x' is of ONNX type 6; expected float32")
    refused(
        written(path, PLAIN, shape=("b", 3, 160, 160), W=W), r"shape \[None, 3, 160, 160\]; expected \[batch, 3, 112"
    )
    refused(written(path, PLAIN, shape=("b", 1, SIZE, SIZE), W=W), "expected")


def test_ReadGraph_refuses_outputs_that_are_no_embedding_or_several(path):
    refused(
        written(path, [*PLAIN, NORM], outputs=("norm",), W=W),
        r"output 'norm': it is not an embedding.*shape is \[2, 1\] for 2",
    )
    refused(written(path, [CONV], outputs=("c",), W=W), r"output 'c': it is not an embedding.*\[2, 8, 112, 112\]")
    other = node("Tanh", "e", "e2")
    refused(written(path, [*PLAIN, other], outputs=("e", "e2"), W=W), r"several of its outputs.*'e', 'e2'")


def test_ReadGraph_names_node_and_operator_that_are_not_supported(path):
    kinds = [
        node("Conv", "x,W", "c"),
        helper.make_node("Celu", ["c"], ["d"], name="act/Celu"),
        node("GlobalAveragePool", "d", "p"),
    ]
    refused(written(path, [*kinds, FLAT], W=W), r"node 'act/Celu' \(Celu\) cannot be trained: the operator Celu")
    pool = helper.make_node("MaxPool", ["c"], ["d"], name="pool", kernel_shape=[2, 2], dilations=[2, 2])
    refused(written(path, [CONV, pool, kinds[2], FLAT], W=W), r"node 'pool' \(MaxPool\).*dilations in MaxPool")
    foreign = helper.make_node("FusedConv", ["x", "W"], ["c"], name="f", domain="com.microsoft")
    refused(written(path, [foreign, POOLED, FLAT], W=W), r"node 'f' \(com.microsoft.FusedConv\)")
    attribute = helper.make_node("LeakyRelu", ["c"], ["d"], name="a", beta=1.0)
    refused(written(path, [CONV, attribute, kinds[2], FLAT], W=W), r"node 'a' \(LeakyRelu\).*attribute 'beta'")


def test_ReadGraph_refuses_damaged_networks(path):
    refused(written(path, [node("Conv", "y,W", "c"), POOLED, FLAT], W=W), "'y' is used before it is computed")
    refused(written(path, PLAIN, W=np.full_like(W, np.nan)), "not finite")
    refused(written(path, PLAIN, opset=6, W=W), r"opset \[6\]; 7 to 23 are supported")
    fixed = np.zeros((1, 8, 2, 2), np.float32)
    refused(written(path, PLAIN[1:], c=fixed), r"output 'e': it is not an embedding.*\[1, 8\]")
    refused(written(path, [node("GlobalAveragePool", "x", "p"), FLAT]), "no weights that could be trained")
    inside = written(path, [node("Conv", "x,W", "c"), POOLED, node("Reshape", "p,s")], W=W, s=np.array([2, 8]))
    assert by_torch(build("onnx", 8, graph=read_graph(inside).graph.to_text()), pictures(2)).shape == (2, 8)


def test_FromOnnx_refuses_a_network_that_torch_computes_otherwise(path, monkeypatch):
    written(path, [CONV, node("Relu", "c", "r"), node("GlobalAveragePool", "r", "p"), FLAT], W=W)
    monkeypatch.setitem(OPERATORS, "Relu", torch.abs)
    refused(path, "torch's embeddings differ from onnxruntime's by")


def test_FromOnnx_compares_embeddings_whose_squares_leave_float32(path, monkeypatch):
    written(path, [CONV, node("Relu", "c", "r"), node("GlobalAveragePool", "r", "p"), FLAT], W=1e25 * W)
    agrees(path, atol=1e19)
    monkeypatch.setitem(OPERATORS, "Relu", torch.abs)
    refused(path, "torch's embeddings differ from onnxruntime's by")


def test_FromOnnx_refuses_a_network_whose_embeddings_leave_float32(path):
    written(path, [CONV, node("Mul", "c,c", "r"), node("GlobalAveragePool", "r", "p"), FLAT], W=1e25 * W)
    refused(path, "embeddings of random pictures are NaN or infinite")


@pytest.mark.parametrize("graph", ["", "no base64", "eJyrVkpUsgIAAlsBBQ==", "e30="])
def test_Build_refuses_a_graph_that_is_damaged(graph):
    with pytest.raises(ConfigError, match="graph of the network cannot be read"):
        build("onnx", 8, graph=graph)


def test_Build_of_onnx_says_what_is_missing(path):
    with pytest.raises(ConfigError, match=r"set backbone.weights to an .onnx file"):
        build("onnx", 8)
    graph = read_graph(written(path, PLAIN, W=W)).graph.to_text()
    with pytest.raises(ConfigError, match="set embedding_dim to 8, not to 16"):
        build("onnx", 16, graph=graph)
    with pytest.raises(ConfigError, match="no BatchNorm of this network is folded"):
        build("onnx", 8, graph=graph, norm="fresh")
