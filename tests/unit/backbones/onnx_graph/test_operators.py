"""Each operator by torch and by onnxruntime."""

import numpy as np
import pytest
from onnx import numpy_helper
from torch.testing import assert_close

from helpers.onnx_files import POOL, by_onnxruntime, by_torch, node, pictures, written
from vplface.backbones import from_onnx
from vplface.backbones.onnx_graph.execute import NORM
from vplface.backbones.onnx_graph.operators import OPERATORS

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


W, V, POSITIVE = floats(4, 3, 3, 3), floats(192, 5), np.abs(floats(3)) + 0.5
K = floats(3, 3, 1, 1)
ONE = numpy_helper.from_array(ints(1))
START = [POOL, node("Conv", "p0,K", "p")]
FLAT, PRODUCT = node("Flatten", "y", "f"), node("MatMul", "f,V")
PATCHES = [node("Reshape", "p,r", "t"), node("Transpose", "t", "q", perm=[0, 2, 1])]


def case(kind, given="p", opset=17, stored=None, **attributes):
    """An operator on maps [b, 3, 8, 8], which keeps their shape."""
    return [*START, node(kind, given, "y", **attributes), FLAT, PRODUCT], opset, {"K": K, "V": V, **(stored or {})}


def shaped(*nodes, opset=17, **stored):
    """Nodes from the maps p to the embedding e."""
    return [*START, *nodes], opset, {"K": K, **stored}


CASES = {
    "Abs": case("Abs"),
    "Add": case("Add", "p,a", stored={"a": floats(3, 8, 8)}),
    "Clip": case("Clip", "p,low,high", stored={"low": np.float32(-0.02), "high": np.float32(0.01)}),
    "Clip, one end": case("Clip", "p,,high", stored={"high": np.float32(0.01)}),
    "Clip of opset 7": case("Clip", opset=7, min=-0.01, max=0.02),
    "Div": case("Div", "p,a", stored={"a": floats(3, 8, 8) + 4}),
    "Elu": case("Elu", alpha=0.7),
    "Erf": case("Erf"),
    "Exp": case("Exp"),
    "Gelu": case("Gelu", opset=20),
    "HardSigmoid": case("HardSigmoid", alpha=3.0),
    "HardSwish": case("HardSwish"),
    "InstanceNormalization": case("InstanceNormalization", "p,s,b", stored={"s": POSITIVE, "b": floats(3)}),
    "LayerNormalization": case("LayerNormalization", "p,s,b", stored={"s": floats(8), "b": floats(8)}),
    "LeakyRelu": case("LeakyRelu", alpha=0.3),
    "LpNormalization": case("LpNormalization", axis=1, p=2),
    "Max": case("Max", "p,a", stored={"a": np.float32(0.01)}),
    "Min": case("Min", "p,a", stored={"a": np.float32(0.01)}),
    "Mish": case("Mish", opset=18),
    "Mul": case("Mul", "p,a", stored={"a": floats(3, 1, 1)}),
    "Neg": case("Neg"),
    "PRelu": case("PRelu", "p,s", stored={"s": POSITIVE.reshape(3, 1, 1)}),
    "PRelu, one slope": case("PRelu", "p,s", stored={"s": floats(1)}),
    "PRelu, a slope a place": case("PRelu", "p,s", stored={"s": floats(3, 8, 8)}),
    "Pow": case("Pow", "p,a", stored={"a": np.float32(2.0)}),
    "Relu": case("Relu"),
    "Sigmoid": case("Sigmoid"),
    "Softmax": case("Softmax", axis=1),
    "Softmax of opset 11": case("Softmax", opset=11, axis=2),
    "Softplus": case("Softplus"),
    "Sub": case("Sub", "p,a", stored={"a": floats(3, 8, 8)}),
    "Tanh": case("Tanh"),
    "BatchNormalization": case(
        NORM, "p,s,b,m,v", epsilon=1e-3, stored={"s": POSITIVE, "b": floats(3), "m": floats(3), "v": POSITIVE}
    ),
    "Log, Sqrt, Reciprocal": shaped(
        node("Abs", "p", "a"),
        node("Add", "a,one", "y1"),
        node("Log", "y1", "y2"),
        node("Add", "y2,one", "y3"),
        node("Sqrt", "y3", "y4"),
        node("Reciprocal", "y4", "y"),
        FLAT,
        PRODUCT,
        V=V,
        one=np.float32(1.0),
    ),
    "x·sigmoid(x)": shaped(node("Sigmoid", "p", "g"), node("Mul", "p,g", "y"), FLAT, PRODUCT, V=V),
    "Conv": shaped(
        node("Conv", "p,W,c", "c1", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", "c1", "g"),
        node("Flatten", "g"),
        W=W,
        c=floats(4),
    ),
    "Conv, uneven pads": shaped(
        node("Conv", "p,W", "c1", pads=[0, 1, 2, 1]), node("GlobalMaxPool", "c1", "g"), node("Flatten", "g"), W=W
    ),
    "Conv, same size": shaped(
        node("Conv", "p,W", "c1", strides=[3, 3], auto_pad="SAME_UPPER"), node("Flatten", "c1"), W=W
    ),
    "Conv, groups": shaped(
        node("Conv", "p,D", "c1", group=3, dilations=[2, 2]), node("Flatten", "c1"), D=floats(3, 1, 3, 3)
    ),
    "MaxPool": shaped(
        node("MaxPool", "p", "c1", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), node("Flatten", "c1")
    ),
    "MaxPool, uneven": shaped(
        node("MaxPool", "p", "c1", kernel_shape=[2, 2], auto_pad="SAME_UPPER"), node("Flatten", "c1")
    ),
    "AveragePool": shaped(
        node("AveragePool", "p", "c1", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), node("Flatten", "c1")
    ),
    "Gemm": shaped(node("Flatten", "p", "f"), node("Gemm", "f,V,c"), V=V, c=floats(5)),
    "Gemm, scaled": shaped(
        node("Flatten", "p", "f"), node("Gemm", "f,T,c", alpha=0.5, beta=2.0, transB=1), T=floats(5, 192), c=floats(5)
    ),
    "ReduceMean": shaped(node("ReduceMean", "p", axes=[2, 3], keepdims=0)),
    "ReduceMean of opset 18": shaped(node("ReduceMean", "p,a", keepdims=0), opset=18, a=ints(2, 3)),
    "ReduceSum": shaped(node("ReduceSum", "p,a", keepdims=0), a=ints(-1, -2)),
    "ReduceMax": shaped(node("ReduceMax", "p", axes=[2, 3], keepdims=0)),
    "ReduceL2": shaped(node("Flatten", "p", "f"), node("ReduceL2", "f", "n", axes=[1]), node("Div", "f,n")),
    "Pad": shaped(node("Pad", "p,q", "c1"), node("Flatten", "c1"), q=ints(0, 0, 1, 0, 0, 0, 2, 1)),
    "Slice": shaped(
        node("Slice", "p,s,t,a", "c1"), node("Flatten", "c1"), s=ints(1, -3), t=ints(7, 2**62), a=ints(2, 3)
    ),
    "Slice of opset 9": shaped(
        node("Slice", "p", "c1", starts=[1], ends=[5], axes=[2]), node("Flatten", "c1"), opset=9
    ),
    "Split, Concat": shaped(
        node("Split", "p", "a,b,c", axis=1), node("Concat", "c,a", "c1", axis=1), node("Flatten", "c1")
    ),
    "Split, sizes": shaped(node("Split", "p,s", "a,b", axis=2), node("Flatten", "b"), s=ints(3, 5)),
    "Gather": shaped(node("Gather", "p,i", "c1", axis=2), node("Flatten", "c1"), i=ints(7, 0)),
    "Gather, one": shaped(node("Gather", "p,i", "c1", axis=1), node("Flatten", "c1"), i=np.int64(2)),
    "Squeeze, Unsqueeze": shaped(
        node("GlobalAveragePool", "p", "g"),
        node("Squeeze", "g,a", "s"),
        node("Unsqueeze", "s,b", "u"),
        node("Flatten", "u"),
        a=ints(2, 3),
        b=ints(1),
    ),
    "Squeeze of opset 11": shaped(node("GlobalAveragePool", "p", "g"), node("Squeeze", "g", axes=[2, 3]), opset=11),
    "Expand": shaped(
        node("Shape", "p", "n"),
        node("Gather", "n,zero", "k"),
        node("Concat", "k,rest", "s", axis=0),
        node("Expand", "token,s", "t"),
        node("Concat", "t,p", "c1", axis=1),
        node("Flatten", "c1"),
        zero=ints(0),
        rest=ints(1, 8, 8),
        token=floats(1, 1, 8, 8),
    ),
    "Where, Equal, ConstantOfShape": shaped(
        node("ConstantOfShape", "four", "ones", value=ONE),
        node("Equal", "wanted,zeros", "is0"),
        node("Where", "is0,ones,wanted", "s"),
        node("Expand", "token,s", "t"),
        node("Add", "t,p", "c1"),
        node("Flatten", "c1"),
        four=ints(4),
        wanted=ints(0, 3, 8, 8),
        zeros=ints(0, 0, 0, 0),
        token=floats(1, 3, 8, 8),
    ),
    "arithmetic of shapes": shaped(
        node("Shape", "p", "n"),
        node("Gather", "n,one", "k"),
        node("Mul", "k,k", "kk"),
        node("Sub", "kk,k", "six"),
        node("Div", "six,k", "two"),
        node("Add", "two,k", "five"),
        node("Mod", "five,k", "m"),
        node("Cast", "m", "l", to=7),
        node("Concat", "l,l", "ll", axis=0),
        node("Slice", "p,start,ll,hw", "c1"),
        node("Flatten", "c1"),
        one=ints(1),
        start=ints(0, 0),
        hw=ints(2, 3),
    ),
    "Attention": shaped(
        *PATCHES,
        node("Unsqueeze", "q,one", "h"),
        node("Attention", "h,h,h", "a"),
        node("Flatten", "a"),
        opset=23,
        r=ints(0, 3, 64),
        one=ints(1),
    ),
    "Cast": shaped(node("Cast", "p", "c1", to=1), node("Flatten", "c1")),
}


@pytest.mark.parametrize("name", CASES)
def test_Operator_equals_onnxruntime(name, tmp_path):
    nodes, opset, stored = CASES[name]
    path = written(tmp_path / "m.onnx", nodes, opset=opset, **stored)
    assert_close(by_torch(from_onnx(path), pictures()), by_onnxruntime(path, pictures()), rtol=1e-4, atol=1e-5)


def test_Operators_all_have_a_case():
    tested = {each.op_type for nodes, _, _ in CASES.values() for each in nodes}
    assert tested >= set(OPERATORS)
