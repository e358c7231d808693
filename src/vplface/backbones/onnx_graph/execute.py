"""Execution of a graph on a batch of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vplface.backbones.onnx_graph.graph import Graph, Node
from vplface.backbones.onnx_graph.operators import OPERATORS
from vplface.backbones.onnx_graph.values import Value, require
from vplface.backbones.precision import full_precision
from vplface.errors import DataError

NORM = "BatchNormalization"
_PRODUCTS = ("Conv", "Gemm", "MatMul")
MAX_ELEMENTS = 2**30
"""Largest tensor of two pictures, in numbers."""


class Program:
    """A graph in the form in which it is executed.

    Args:
        graph: the network.

    Raises:
        DataError: an operator is unknown.
    """

    def __init__(self, graph: Graph) -> None:
        for node in graph.nodes:
            if node.operator not in OPERATORS and node.operator != NORM:
                raise DataError(unsupported(node, f"the operator {node.operator} is not supported"))
        self.graph = graph
        self._last = max((i for i, node in enumerate(graph.nodes) if node.operator in _PRODUCTS), default=-1)

    @cached_property
    def _dying(self) -> list[tuple[str, ...]]:
        """Names that no later node takes, by node."""
        last = {name: i for i, node in enumerate(self.graph.nodes) for name in (*node.inputs, *node.outputs)}
        last.pop(self.graph.output, None)
        return [
            tuple({name for name in (*node.inputs, *node.outputs) if last.get(name) == i})
            for i, node in enumerate(self.graph.nodes)
        ]

    def run(
        self,
        pictures: Tensor,
        values: Mapping[str, Value],
        norm: Callable[[Node, Tensor], Tensor],
        watch: Callable[[Node, list[Value]], None] | None = None,
    ) -> Value:
        """The output for a batch of pictures.

        The last product of matrices or convolution, and all after it, run in full precision.

        Args:
            pictures: [n, 3, size, size].
            values: weights and constants by name.
            norm: runs a BatchNormalization.
            watch: called before each node, with its inputs.
        """
        first = pictures.permute(0, 2, 3, 1) if self.graph.channels_last else pictures
        found: dict[str, Value] = {"": None, self.graph.input: first}
        nodes = list(zip(self.graph.nodes, self._dying, strict=True))
        self._run(nodes[: max(self._last, 0)], found, values, norm, watch)
        with full_precision(pictures.device):
            for name, value in found.items():
                if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16):
                    found[name] = value.float()
            self._run(nodes[max(self._last, 0) :], found, values, norm, watch)
        return found[self.graph.output]

    def _run(
        self,
        nodes: Iterable[tuple[Node, tuple[str, ...]]],
        found: dict[str, Value],
        values: Mapping[str, Value],
        norm: Callable[[Node, Tensor], Tensor],
        watch: Callable[[Node, list[Value]], None] | None,
    ) -> None:
        for node, dying in nodes:
            inputs = [found[name] if name in found else values[name] for name in node.inputs]
            if watch is not None:
                watch(node, inputs)
            if node.operator == NORM:
                result: Any = norm(node, inputs[0])
            else:
                result = OPERATORS[node.operator](*inputs, **node.attributes)
            results = result if node.operator == "Split" else (result,)
            found.update(zip(node.outputs, results, strict=False))
            for name in dying:
                found.pop(name, None)


def embedding_of(output: Value, count: int) -> Tensor | None:
    """The output as one vector per picture, or None if it is not one: a norm, a map, or no tensor of floats."""
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.shape[:1] != (count,):
        return None
    if output.ndim < 2 or max(output.shape[1:]) < 2 or output[0].numel() != max(output.shape[1:]):
        return None
    return output.flatten(1)


def check_shapes(program: Program, size: int) -> int:
    """Dimension of the embeddings, from a batch without data.

    Raises:
        DataError: a node does not run, which is named, or the output is not an embedding.
    """
    graph = program.graph
    device = torch.device("meta")
    weights = {name: torch.empty(shape, device=device) for name, shape in graph.parameters.items()}
    visited: list[Node] = []

    def norm(node: Node, x: Tensor) -> Tensor:
        fits = all(name in weights and weights[name].shape == x.shape[1:2] for name in node.inputs[1:])
        require(fits and len(node.inputs) == 5, "its statistics are not one weight a channel")
        require(isinstance(node.attributes.get("epsilon", 0.0), int | float), "its epsilon is not a number")
        return x * 1.0

    def watch(node: Node, inputs: list[Value]) -> None:
        visited.append(node)
        large = any(isinstance(each, Tensor) and each.numel() > MAX_ELEMENTS for each in inputs)
        require(not large, f"its inputs have more than {MAX_ELEMENTS:,} numbers")

    try:
        with torch.no_grad():
            output = program.run(
                torch.empty(2, 3, size, size, device=device), {**graph.constants, **weights}, norm, watch
            )
    except Exception as error:  # operators raise many kinds for inputs that do not fit
        reason = str(error).partition("\n")[0]
        if isinstance(error, TypeError) and "unexpected keyword argument" in reason:
            reason = f"its attribute {reason.rpartition(' ')[2]} is not supported"
        raise DataError(unsupported(visited[-1], reason) if visited else f"the graph is damaged: {reason}") from error
    embedding = embedding_of(output, 2)
    if embedding is None:
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise DataError(f"it is not an embedding (one vector per picture): its shape is {shape} for 2 pictures")
    return embedding.shape[1]


def unsupported(node: Node, reason: str) -> str:
    """Text of the error for a node that is not supported."""
    return f"{node} cannot be trained: {reason or 'its inputs are not supported'}"
