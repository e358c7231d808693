"""Convolutions into which an exporter has folded BatchNorm."""

from __future__ import annotations

from dataclasses import replace

from vplface.backbones.onnx_graph.execute import NORM
from vplface.backbones.onnx_graph.graph import Graph, Node


def convolutions_without_norm(graph: Graph) -> list[Node]:
    """Convolutions with a bias and without a BatchNormalization after them."""
    normalised = {node.inputs[0] for node in graph.nodes if node.operator == NORM}
    return [
        node
        for node in graph.nodes
        if node.operator == "Conv"
        and len(node.inputs) > 2
        and node.inputs[1] in graph.parameters
        and node.inputs[2] in graph.parameters
        and node.outputs[0] not in normalised
    ]


def with_norms(graph: Graph) -> tuple[Graph, frozenset[str]]:
    """The graph with a BatchNormalization after each of these convolutions, and the names of the added nodes."""
    nodes: list[Node] = []
    parameters, added = dict(graph.parameters), set()
    folded = {node.outputs[0] for node in convolutions_without_norm(graph)}
    for node in graph.nodes:
        output = node.outputs[0]
        if output not in folded:
            nodes.append(node)
            continue
        names = tuple(f"{output}/fresh/{role}" for role in ("input", "weight", "bias", "mean", "var"))
        parameters |= dict.fromkeys(names[1:], graph.parameters[node.inputs[2]])
        norm = Node(NORM, names, (output,), {}, f"{node.name}/fresh")
        added.add(norm.name)
        nodes += [replace(node, outputs=(names[0],)), norm]
    return replace(graph, nodes=tuple(nodes), parameters=parameters), frozenset(added)
