"""Small ONNX files: made of single operators, or exported from modules."""

import warnings

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from vplface.backbones.onnx import OnnxNetwork

SIZE = 112
FLOAT = TensorProto.FLOAT
POOL = helper.make_node("AveragePool", ["x"], ["p0"], kernel_shape=[14, 14], strides=[14, 14])
"""Pictures to maps of 8×8."""


def node(kind, given, gives="e", **attributes):
    return helper.make_node(kind, given.split(","), gives.split(","), **attributes)


def value(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def written(
    path, nodes, outputs=("e",), opset=17, kind=FLOAT, shape=("b", 3, SIZE, SIZE), inputs=(), gives=FLOAT, **tensors
):
    """A file with these nodes and stored tensors; its input is x."""
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()]
    given = [value("x", shape, kind), *inputs]
    graph = helper.make_graph(list(nodes), "g", given, [value(name, None, gives) for name in outputs], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def exported(network, path, opset=17, *, folded=True):
    """A file of a network as torch's TorchScript exporter writes it, with BatchNorm folded or kept."""
    mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            torch.zeros(1, 3, SIZE, SIZE),
            str(path),
            opset_version=opset,
            dynamo=False,
            training=mode,
            do_constant_folding=folded,
            input_names=["data"],
            dynamic_axes={"data": {0: "batch"}},
            verbose=False,
        )
    return path


def with_statistics(network):
    """The network with random statistics and slopes, as if it had been trained."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
            if isinstance(module, nn.PReLU):
                module.weight.uniform_(0.1, 0.4, generator=generator)
    return network


def pictures(count=3):
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def by_onnxruntime(path, x, dim=None):
    network = OnnxNetwork(path)
    network.try_out(SIZE, dim)
    return network(x)


def by_torch(backbone, x):
    with torch.no_grad():
        return backbone.eval()(x)
