"""Reader of ONNX files as graphs that torch can train.

The forms that operators had in opsets 7 to 23 become that of the latest. Nothing in a file is executed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vplface.backbones.onnx import MAX_FILE_BYTES, parse_model, read_external_files, shorten
from vplface.backbones.onnx_graph.execute import NORM, Program, check_shapes, unsupported
from vplface.backbones.onnx_graph.graph import MAX_NODES, Graph, Node
from vplface.backbones.onnx_graph.network import SIZE
from vplface.errors import DataError, import_extra
from vplface.reading import kind_of, read_bytes

OPSETS = range(7, 24)
"""Supported versions of ONNX's operators."""

_FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
_INPUTS = {**_FLOATS, 2: "uint8"}
_WITH_AXES = ("Squeeze", "Unsqueeze", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2")
_FORMER_ATTRIBUTES = {
    **dict.fromkeys(_WITH_AXES, ("axes",)),
    "Clip": ("min", "max"),
    "Slice": ("starts", "ends", "axes", "steps"),
    "Split": ("split",),
    "Pad": ("pads", "value"),
}
"""Attributes that are inputs in later opsets, in the order of these inputs."""
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div")
_WEIGHTED = ("Conv", "Gemm", "MatMul", "PRelu", NORM, "LayerNormalization", "InstanceNormalization")
_FEW = 16
"""Number of coefficients of a picture's channels that are constants, not weights."""
_MAX_CONSTANTS = 2**20


@dataclass(frozen=True)
class ImportedGraph:
    """Contents of an ONNX file.

    Attributes:
        graph: the network up to the embedding; other outputs are left out.
        tensors: weights by their names in the graph, float32.
        dim: dimension d of the embedding.
        takes_uint8: whether the file takes pixels of 0 to 255.
        half: whether the file computes in float16.
        metadata: texts of the file by key.
    """

    graph: Graph
    tensors: Mapping[str, Tensor]
    dim: int
    takes_uint8: bool
    half: bool
    metadata: Mapping[str, str]


def read_graph(path: Path) -> ImportedGraph:
    """Read a network that maps pictures [n, 3, 112, 112] or [n, 112, 112, 3] to embeddings.

    A batch size that is fixed in the file becomes open. An output that is no embedding, such as a norm, is left out.

    Raises:
        DataError: the file is missing, damaged or no ONNX, has other inputs, no output or several that can be the
            embedding, or an operator that is not supported; the node is named.
        MissingExtraError: the extra ``onnx`` is not installed.
    """
    import_extra("onnx", "onnx")
    kind = kind_of(path)
    if kind != "file":
        raise DataError(f"{path}: no such file" if kind is None else f"{path}: not an ONNX file, but a {kind}")
    model = parse_model(path, read_bytes(path, MAX_FILE_BYTES))
    external = read_external_files(path, model)
    if model.functions:
        model = import_extra("onnx.inliner", "onnx").inline_local_functions(model)
    try:
        reader = _Reader(model, external)
        graph, dim = reader.embedding()
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if not graph.parameters:
        raise DataError(f"{path}: has no weights that could be trained")
    return ImportedGraph(
        graph,
        {name: reader.tensors[name] for name in graph.parameters},
        dim,
        reader.input_kind == "uint8",
        reader.half,
        {entry.key: entry.value for entry in model.metadata_props},
    )


class _Reader:
    """Conversion of one model; names become short and every weight belongs to one node."""

    def __init__(self, model: Any, external: Mapping[str, bytes]) -> None:
        self._opset = self._opset_of(model)
        self.tensors: dict[str, Tensor] = {}
        self._constants: dict[str, Any] = {}
        self._names: dict[str, str] = {"": ""}
        self._arrays = {tensor.name: _array(tensor, external) for tensor in model.graph.initializer}
        if len(model.graph.node) > MAX_NODES:
            raise DataError(f"has {len(model.graph.node):,} operators; at most {MAX_NODES:,} are supported")
        self.input_kind, self._channels_last, self._batch = self._take_input(model.graph)
        stored = any(array.dtype == np.float16 for array in self._arrays.values())
        self.half = stored or self.input_kind == "float16"
        self._nodes: list[Node] = []
        self._products = 0
        for index, node in enumerate(model.graph.node):
            self._take_node(node, shorten(node.name or f"{node.op_type}_{index}")[:120], external)
        self._outputs = [output.name for output in model.graph.output]

    @staticmethod
    def _opset_of(model: Any) -> int:
        versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
        if not versions:
            raise DataError("is not an ONNX file, or damaged: it names no opset")
        if len(versions) != 1 or versions[0] not in OPSETS:
            raise DataError(
                f"has operators of opset {shorten(str(versions))}; {OPSETS[0]} to {OPSETS[-1]} are supported; convert "
                "it with onnx.version_converter"
            )
        return int(versions[0])

    def _take_input(self, graph: Any) -> tuple[str, bool, int | None]:
        """Type of the pictures, whether channels come last, and a batch size that is fixed."""
        inputs = [each for each in graph.input if each.name not in self._arrays]
        if len(inputs) != 1:
            names = shorten(", ".join(repr(each.name) for each in inputs)) or "none"
            raise DataError(
                f"has {len(inputs)} inputs ({names}); expected one, the pictures; export the network with that input "
                "alone"
            )
        kind = inputs[0].type.tensor_type
        if kind.elem_type not in _INPUTS:
            raise DataError(
                f"its input {inputs[0].name!r} is of ONNX type {kind.elem_type}; expected {', '.join(_INPUTS.values())}"
            )
        shape = [each.dim_value or None for each in kind.shape.dim]
        orders = {(3, SIZE, SIZE): False, (SIZE, SIZE, 3): True}
        fits = [
            last
            for order, last in orders.items()
            if len(shape) == 4 and all(a in (None, b) for a, b in zip(shape[1:], order, strict=True))
        ]
        if not fits:
            raise DataError(
                f"takes pictures of shape {shorten(str(shape))}; expected [batch, 3, {SIZE}, {SIZE}] or [batch, {SIZE},"
                f" {SIZE}, 3]"
            )
        self._names[inputs[0].name] = "pictures"
        return _INPUTS[kind.elem_type], fits[0], shape[0]

    def _take_node(self, node: Any, name: str, external: Mapping[str, bytes]) -> None:
        if node.domain not in ("", "ai.onnx"):
            operator = shorten(f"{node.domain}.{node.op_type}")
            raise DataError(f"node {name!r} ({operator}) cannot be trained: the operator {operator} is not supported")
        attributes = {each.name: _attribute(each, external, name) for each in node.attribute}
        self._products += node.op_type in ("Conv", "Gemm", "MatMul")
        if node.op_type == "Constant":
            self._arrays[node.output[0]] = _constant(attributes, name)
            return
        for key, value in attributes.items():
            if isinstance(value, np.ndarray):
                if value.size != 1:
                    raise DataError(f"node {name!r} cannot be trained: its attribute {key!r} is not supported")
                attributes[key] = value.reshape(-1)[0].item()
        if node.op_type in ("Identity", "Dropout"):
            self._alias(node.output[0], node.input[0])
        else:
            inputs = [self._name_of(each, node.op_type) for each in node.input]
            outputs = tuple(self._new(each) for each in node.output if each)
            self._nodes.append(self._modern(Node(node.op_type, tuple(inputs), outputs, attributes, name)))

    def _alias(self, output: str, given: str) -> None:
        if given in self._arrays:
            self._arrays[output] = self._arrays[given]
        else:
            self._names[output] = self._name_of(given, "Identity")

    def _new(self, name: str) -> str:
        self._names[name] = short = f"v{len(self._names)}"
        return short

    def _name_of(self, name: str, operator: str) -> str:
        """Name of an input; a stored tensor becomes a weight or a constant of the operator that takes it."""
        if name in self._names:
            return self._names[name]
        if name not in self._arrays:
            raise DataError(f"the value {shorten(repr(name))} is used before it is computed; the file is damaged")
        array = self._arrays[name]
        few = array.size <= _FEW and self._products == 0 and operator in _ELEMENTWISE
        if array.dtype.kind != "f":
            return self._constant(_numbers(array))
        if few or (array.size == 1 and (array.ndim == 0 or operator not in _WEIGHTED)):
            return self._constant(float(array.reshape(-1)[0]) if array.size == 1 else _numbers(array))
        short = f"w{len(self.tensors)}"
        self.tensors[short] = torch.from_numpy(np.array(array, np.float32))
        return short

    def _constant(self, value: Any) -> str:
        short = f"c{len(self._constants)}"
        self._constants[short] = value
        return short

    def _modern(self, node: Node) -> Node:
        """The operator in its latest form."""
        attributes, inputs = dict(node.attributes), list(node.inputs)
        former = _FORMER_ATTRIBUTES.get(node.operator, ())
        for position, key in enumerate(former, start=1):
            if key in attributes:
                inputs += [""] * (position + 1 - len(inputs))
                inputs[position] = self._constant(attributes.pop(key))
        outputs = node.outputs
        if node.operator == "Split":
            attributes["num_outputs"] = len(outputs)
        elif node.operator == "Softmax" and self._opset < 13:
            attributes = {"axis": attributes.get("axis", 1), "flattened": 1}
        elif node.operator == NORM:
            if attributes.get("training_mode") or attributes.get("spatial", 1) != 1:
                raise DataError(unsupported(node, "it was exported in training mode; export the network in evaluation"))
            attributes, outputs = {"epsilon": float(attributes.get("epsilon", 1e-5))}, outputs[:1]
        elif node.operator == "Reshape" and self._batch is not None:
            opened = self._open_batch(inputs[1])
            if opened != inputs[1]:
                inputs[1], attributes = opened, {}
        return replace(node, inputs=tuple(inputs), outputs=outputs, attributes=attributes)

    def _open_batch(self, name: str) -> str:
        """A shape without the fixed batch size."""
        shape = self._constants.get(name)
        if not isinstance(shape, tuple) or not shape or shape[0] in (-1, 0):
            return name
        if -1 not in shape[1:]:
            return self._constant((-1, *shape[1:]))
        return self._constant((0, *shape[1:])) if shape[0] == self._batch else name

    def embedding(self) -> tuple[Graph, int]:
        """The graph of the only output that can be the embedding, and its dimension."""
        found, faults = [], []
        for name in self._outputs:
            if name not in self._names:
                continue
            graph = self._up_to(self._names[name])
            try:
                found.append((graph, check_shapes(Program(graph), SIZE)))
            except DataError as error:
                faults.append(f"output {shorten(repr(name))}: {error}")
        if len(found) > 1:
            names = shorten(", ".join(map(repr, self._outputs)))
            raise DataError(f"several of its outputs can be the embedding ({names}); export the network with one alone")
        if not found:
            raise DataError("; ".join(faults) or "has no output that depends on the pictures")
        return found[0]

    def _up_to(self, output: str) -> Graph:
        """The part of the network that an output depends on."""
        needed, nodes = {output}, []
        for node in reversed(self._nodes):
            if not needed.isdisjoint(node.outputs):
                needed.update(node.inputs)
                nodes.append(node)
        return Graph(
            tuple(reversed(nodes)),
            "pictures",
            output,
            self._channels_last,
            {name: tuple(tensor.shape) for name, tensor in self.tensors.items() if name in needed},
            {name: value for name, value in self._constants.items() if name in needed},
        )


def _array(tensor: Any, external: Mapping[str, bytes]) -> np.ndarray:
    """Values of a tensor; raises DataError if they are damaged or of another type."""
    onnx = import_extra("onnx", "onnx")
    if tensor.data_location == 1:
        place = {entry.key: entry.value for entry in tensor.external_data}
        start = int(place.get("offset", "0"))
        data = external[place["location"]]
        copy = type(tensor)()
        copy.CopyFrom(tensor)
        copy.data_location = 0
        del copy.external_data[:]
        copy.raw_data = data[start : start + int(place["length"])] if "length" in place else data[start:]
        tensor = copy
    try:
        array: np.ndarray = onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # onnx raises many kinds for damaged tensors
        raise DataError(f"the weights {shorten(repr(tensor.name))} cannot be read: {shorten(error)}") from error
    if tensor.data_type == 16:
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise DataError(f"the weights {shorten(repr(tensor.name))} are of type {array.dtype}, which is not supported")
    if array.dtype.kind == "f" and not np.isfinite(array.astype(np.float32)).all():
        raise DataError(f"the weights {shorten(repr(tensor.name))} hold values that are not finite in float32")
    return array


def _attribute(attribute: Any, external: Mapping[str, bytes], name: str) -> Any:
    onnx = import_extra("onnx", "onnx")
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, int | float):
        return value
    if hasattr(value, "data_type"):
        return _array(value, external)
    if isinstance(value, Sequence) and all(isinstance(each, int | float) for each in value):
        return tuple(value)
    raise DataError(f"node {name!r} cannot be trained: its attribute {attribute.name!r} is not supported")


def _constant(attributes: Mapping[str, Any], name: str) -> np.ndarray:
    kinds: dict[str, Any] = {"value_float": np.float32, "value_floats": np.float32}
    for key, value in attributes.items():
        if isinstance(value, np.ndarray):
            return value
        if key in ("value_float", "value_floats", "value_int", "value_ints"):
            return np.array(value, kinds.get(key, np.int64))
    raise DataError(f"node {name!r} (Constant) has no numbers")


def _numbers(array: np.ndarray) -> Any:
    """An array as a number or nested tuples."""
    if array.size > _MAX_CONSTANTS:
        raise DataError(f"a constant of {array.size:,} whole numbers is not supported")

    def nested(value: Any) -> Any:
        return tuple(map(nested, value)) if isinstance(value, list) else value

    return nested(array.tolist())
