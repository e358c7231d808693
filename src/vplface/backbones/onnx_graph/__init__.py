"""Networks of ONNX files as trainable backbones."""

from vplface.backbones.onnx_graph.load import from_onnx, load_onnx
from vplface.backbones.onnx_graph.network import OnnxBackbone
from vplface.backbones.onnx_graph.read import ImportedGraph, read_graph

__all__ = ["ImportedGraph", "OnnxBackbone", "from_onnx", "load_onnx", "read_graph"]
