"""Weights of an ONNX file for a backbone of the same structure.

Layers are matched by kind and shape, in the order in which they are computed. Where a file has no BatchNorm, since its
exporter has folded it into the layer before, that BatchNorm becomes the identity with the bias of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vplface.backbones.folded_norm import make_identity
from vplface.backbones.onnx_graph.execute import NORM
from vplface.backbones.onnx_graph.graph import Graph, Node
from vplface.backbones.onnx_graph.network import SIZE
from vplface.backbones.onnx_graph.operators import OPERATORS
from vplface.backbones.onnx_graph.read import ImportedGraph
from vplface.errors import DataError

_LAYERS = (nn.Conv2d, nn.Linear, _BatchNorm, nn.PReLU, nn.LayerNorm)


@dataclass
class _Norm:
    """BatchNorm of a file: γ, β, mean, variance and ε."""

    tensors: tuple[Tensor, ...]
    epsilon: float


@dataclass
class _FileLayer:
    """Weighted operator of a file, with what follows it."""

    node: str
    kind: str
    weight: Tensor
    bias: Tensor | None = None
    norm: _Norm | None = None


@dataclass
class _OwnLayer:
    """Weighted layer of a backbone, with the BatchNorm that follows it."""

    name: str
    kind: str
    weight: Tensor
    module: nn.Module | None
    norm: _BatchNorm | None = None
    output: Tensor | None = field(default=None, repr=False)


def load_by_structure(backbone: nn.Module, file: ImportedGraph, title: str) -> None:
    """Load the weights of a file into a backbone, all or none.

    Args:
        backbone: one whose layers are convolutions, linear maps, BatchNorm, PReLU and LayerNorm.
        file: contents of the ONNX file.
        title: name of the backbone, for errors.

    Raises:
        DataError: a layer has no counterpart; the first is named, with its shape and the layer that the file has there.
    """
    own, found = list(_own_layers(backbone)), list(_FileLayers(file))
    pairs, left = [], list(found)
    for layer in own:
        match = next(
            (each for each in left if (each.kind, each.weight.shape) == (layer.kind, layer.weight.shape)), None
        )
        if match is None:
            raise DataError(_mismatch(title, layer, left))
        left.remove(match)
        pairs.append((layer, match))
    if left:
        raise DataError(
            f"the file has more layers than {title}: the first without a counterpart is {left[0].node}, a"
            f" {left[0].kind} with weights of shape {tuple(left[0].weight.shape)}"
        )
    for layer, match in pairs:
        _require_fit(title, layer, match)
    with torch.no_grad():
        for layer, match in pairs:
            _copy(layer, match)


def _mismatch(title: str, layer: _OwnLayer, left: list[_FileLayer]) -> str:
    candidate = next((each for each in left if each.kind == layer.kind), None)
    there = (
        f"the file has no {layer.kind} left"
        if candidate is None
        else f"the file has {candidate.node} with weights of shape {tuple(candidate.weight.shape)}"
    )
    return (
        f"these weights are not for {title}: its layer {layer.name}, a {layer.kind}, has weights of shape"
        f" {tuple(layer.weight.shape)}, where {there}; to train the network of the file as it is, set"
        " backbone.name=onnx"
    )


def _own_layers(backbone: nn.Module) -> Iterator[_OwnLayer]:
    """Layers in the order of a forward pass; a BatchNorm belongs to the layer that it normalises."""
    layers: list[_OwnLayer] = []

    def record(name: str) -> Any:
        def hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            before = next((each for each in layers if each.output is inputs[0]), None)
            linear = before is not None and before.kind in ("convolution", "linear map")
            if isinstance(module, _BatchNorm) and before is not None and linear and before.norm is None:
                before.norm, before.output = module, output
            else:
                layers.append(_OwnLayer(name, _kind_of(module), module.weight, module, output=output))

        return hook

    handles = [
        module.register_forward_hook(record(name))
        for name, module in backbone.named_modules()
        if isinstance(module, _LAYERS)
    ]
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            backbone(torch.zeros(1, 3, SIZE, SIZE, device=next(backbone.parameters()).device))
    finally:
        backbone.train(training)
        for handle in handles:
            handle.remove()
    held = {id(p) for layer in layers for p in _parameters_of(layer)}
    for name, parameter in backbone.named_parameters():
        if id(parameter) not in held and parameter.ndim > 1 and name != "mask_token":
            layers.append(_OwnLayer(name, "sum", parameter, None))
    yield from layers


def _parameters_of(layer: _OwnLayer) -> Iterator[Tensor]:
    for module in (layer.module, layer.norm):
        if module is not None:
            yield from module.parameters(recurse=False)


def _kind_of(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        return "convolution"
    if isinstance(module, nn.Linear):
        return "linear map"
    return {nn.PReLU: "PReLU", nn.LayerNorm: "LayerNorm"}.get(type(module), "BatchNorm")


class _FileLayers:
    """Layers of a file, in its order."""

    def __init__(self, file: ImportedGraph) -> None:
        self._graph: Graph = file.graph
        self._values: dict[str, Any] = {"": None, **file.graph.constants, **file.tensors}
        self._layer_of: dict[str, _FileLayer] = {}
        self._divided: set[str] = set()

    def __iter__(self) -> Iterator[_FileLayer]:
        layers: list[_FileLayer] = []
        for node in self._graph.nodes:
            layer = self._take(node)
            if layer is not None:
                layers.append(layer)
        return iter(layers)

    def _take(self, node: Node) -> _FileLayer | None:
        """The layer that a node begins; None if it begins none, or belongs to the layer before."""
        if node.operator != NORM and all(name in self._values for name in node.inputs):
            result = OPERATORS[node.operator](*(self._values[name] for name in node.inputs), **node.attributes)
            self._values |= zip(node.outputs, result if node.operator == "Split" else (result,), strict=False)
            return None
        before = self._layer_of.get(node.inputs[0]) or self._layer_of.get(node.inputs[-1])
        weights = [self._values[name] for name in node.inputs if isinstance(self._values.get(name), Tensor)]
        layer = None
        if node.operator == NORM:
            norm = _Norm(tuple(weights), node.attributes["epsilon"])
            if before is not None and before.kind in ("convolution", "linear map") and before.norm is None:
                before.norm = norm
                self._layer_of[node.outputs[0]] = before
            else:
                layer = _FileLayer(str(node), "BatchNorm", weights[0], norm=norm)
        elif node.operator == "Conv":
            layer = _FileLayer(str(node), "convolution", weights[0], weights[1] if len(weights) > 1 else None)
        elif node.operator == "Gemm" and weights:
            matrix = weights[0] if node.attributes.get("transB") else weights[0].t()
            layer = _FileLayer(str(node), "linear map", matrix, weights[1] if len(weights) > 1 else None)
        elif node.operator == "MatMul" and weights and weights[0].ndim == 2:
            layer = _FileLayer(str(node), "linear map", weights[0].t())
        elif node.operator == "PRelu":
            layer = _FileLayer(str(node), "PReLU", weights[0].flatten())
        elif node.operator == "LayerNormalization":
            layer = _FileLayer(str(node), "LayerNorm", weights[0], weights[1] if len(weights) > 1 else None)
        elif node.operator == "Div":
            self._divided.add(node.outputs[0])
        elif node.operator == "Mul" and weights and not self._divided.isdisjoint(node.inputs):
            layer = _FileLayer(str(node), "LayerNorm", weights[0])
        elif node.operator == "Add" and weights:
            if before is not None and before.bias is None and weights[0].ndim == 1:
                before.bias = weights[0]
                self._layer_of[node.outputs[0]] = before
            else:
                layer = _FileLayer(str(node), "sum", weights[0])
        if layer is not None:
            self._layer_of[node.outputs[0]] = layer
        return layer


def _require_fit(title: str, layer: _OwnLayer, match: _FileLayer) -> None:
    """Raise DataError where a file has a BatchNorm or bias for which the layer has no place."""
    surplus = "a BatchNorm" if match.norm is not None and layer.norm is None and layer.kind != "BatchNorm" else None
    if match.bias is not None and layer.norm is None and getattr(layer.module, "bias", None) is None:
        surplus = f"a bias of shape {tuple(match.bias.shape)}"
    if surplus is not None:
        raise DataError(
            f"these weights are not for {title}: {match.node} has {surplus}, for which its layer"
            f" {layer.name} has no place"
        )


def _copy(layer: _OwnLayer, match: _FileLayer) -> None:
    module = layer.module
    if isinstance(module, _BatchNorm):
        assert match.norm is not None
        _copy_norm(module, match.norm, None)
        return
    layer.weight.copy_(match.weight)
    bias = match.bias
    own_bias = getattr(module, "bias", None)
    if own_bias is not None:
        own_bias.zero_() if bias is None else own_bias.copy_(bias)
        bias = None
    if layer.norm is not None and match.norm is not None:
        _copy_norm(layer.norm, match.norm, bias)
    elif layer.norm is not None:
        if own_bias is not None and match.bias is not None:
            own_bias.zero_()
        make_identity(layer.norm, match.bias)


def _copy_norm(norm: _BatchNorm, given: _Norm, bias: Tensor | None) -> None:
    """Copy a BatchNorm; a bias of the layer before becomes part of its mean, a difference in ε of its variance."""
    weight, own_bias, mean, variance = given.tensors
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.weight.copy_(weight)
    norm.bias.copy_(own_bias)
    norm.running_mean.copy_(mean if bias is None else mean - bias)
    norm.running_var.copy_(variance + given.epsilon - norm.eps)
