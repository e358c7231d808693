"""A quality model in ONNX: the sharpness of a picture, ``python examples/sharpness.py sharpness.onnx``.

The quality is the mean square of the Laplacian of the grey picture. Any network with an input [n, 3, 112, 112] and one
number for each picture is used in the same way:

    vplface evaluate MODEL --data FACES --people PEOPLE --quality norm,sharpness.onnx
"""

from __future__ import annotations

import sys

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)


def main(path: str) -> None:
    """Write the model to a file."""
    kernel = numpy_helper.from_array(np.broadcast_to(LAPLACIAN / 3, (1, 3, 3, 3)).copy(), "kernel")
    nodes = [
        helper.make_node("Conv", ["pictures", "kernel"], ["edges"]),
        helper.make_node("Mul", ["edges", "edges"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["mean"], axes=[2, 3], keepdims=0),
    ]
    given = helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ["n", 3, 112, 112])
    quality = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["n", 1])
    graph = helper.make_graph(nodes, "sharpness", [given], [quality], [kernel])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
    checker.check_model(model)
    save(model, path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sharpness.onnx")
