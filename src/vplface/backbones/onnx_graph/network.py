"""Networks of ONNX files as modules of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vplface.backbones.folded_norm import make_identity
from vplface.backbones.onnx_graph.execute import NORM, Program, check_shapes
from vplface.backbones.onnx_graph.folded import convolutions_without_norm, with_norms
from vplface.backbones.onnx_graph.graph import Graph, Node
from vplface.errors import ConfigError, DataError

SIZE = 112
"""Width and height of the pictures."""

_ROLES = {
    "Conv": ("input", "weight", "bias"),
    "Gemm": ("input", "weight", "bias"),
    "MatMul": ("input", "weight"),
    "LayerNormalization": ("input", "weight", "bias"),
    "InstanceNormalization": ("input", "weight", "bias"),
    NORM: ("input", "weight", "bias", "running_mean", "running_var"),
    "PRelu": ("input", "slope"),
}
_STD = 0.05


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the second axis of a tensor with any number of others."""

    def _check_input_dim(self, input: Tensor) -> None:
        return


class OnnxBackbone(nn.Module):
    """The network of an ONNX file, with its weights as parameters and each BatchNormalization as a module.

    ``layers`` holds the weights by operator, in the order of the graph: ``layers.conv12.weight``,
    ``layers.prelu13.slope``. They are random until those of the file, or of a model, are loaded. Autocast ends before
    the last convolution or product of matrices.

    Args:
        embedding_dim: dimension d of the embedding, which has to be that of the graph.
        graph: text of the graph, see :class:`vplface.backbones.onnx_graph.graph.Graph`.
        norm: for convolutions with a bias and without BatchNorm, into which an exporter has folded it: ``"none"``
            trains them as they are; ``"fresh"`` adds a BatchNorm that changes no embedding, with statistics of the
            training pictures, see :func:`vplface.backbones.folded_norm.measure_statistics`.

    Raises:
        ConfigError: the graph cannot be read or executed, gives embeddings of another dimension, or has nothing folded
            where ``norm`` is ``"fresh"``.
    """

    def __init__(self, embedding_dim: int, graph: str, norm: Literal["none", "fresh"] = "none") -> None:
        super().__init__()
        self.graph = graph
        parsed, added = Graph.from_text(graph), frozenset[str]()
        folded = len(convolutions_without_norm(parsed))
        if norm == "fresh":
            if not folded:
                raise ConfigError("backbone onnx: norm is 'fresh', but no BatchNorm of this network is folded")
            parsed, added = with_norms(parsed)
        try:
            self._program = Program(parsed)
            dim = check_shapes(self._program, SIZE)
        except DataError as error:
            raise ConfigError(f"backbone onnx: {error}") from error
        if dim != embedding_dim:
            raise ConfigError(
                f"backbone onnx: the network gives embeddings of {dim} dimensions; set embedding_dim to {dim}, not to "
                f"{embedding_dim}"
            )
        self.layers = nn.ModuleDict()
        self._places: dict[str, tuple[str, str]] = {}
        for index, node in enumerate(parsed.nodes):
            self._add_layer(f"{node.operator.lower()}{index}", node, fresh=node.name in added)
        norms = sum(node.operator == NORM for node in parsed.nodes) - len(added)
        remedy = "new ones added" if added else "norm=fresh adds new ones"
        self.description = f"{norms} BatchNorm" + (f", {folded} folded into convolutions ({remedy})" if folded else "")

    def _add_layer(self, key: str, node: Node, *, fresh: bool) -> None:
        """Add the module with the weights that a node is the first to take."""
        shapes, roles = self._program.graph.parameters, _ROLES.get(node.operator, ())
        taken = {
            name: roles[position] if position < len(roles) else f"input{position}"
            for position, name in enumerate(node.inputs)
            if name in shapes and name not in self._places
        }
        if not taken:
            return
        if node.operator == NORM:
            norm = BatchNorm(shapes[node.inputs[1]][0], eps=node.attributes.get("epsilon", 1e-5))
            self.layers[key] = make_identity(norm) if fresh else norm
        else:
            self.layers[key] = nn.ParameterDict(
                {role: nn.Parameter(torch.randn(_stored(role, shapes[name])) * _STD) for name, role in taken.items()}
            )
        self._places |= {name: (key, role) for name, role in taken.items()}

    def forward(self, x: Float[Tensor, "batch 3 112 112"]) -> Float[Tensor, "batch dim"]:
        """Return the embeddings as the network gives them."""
        graph = self._program.graph
        weights = {name: self._tensor(name).view(graph.parameters[name]) for name in self._places}
        output: Tensor = self._program.run(x, {**graph.constants, **weights}, self._normalise)
        return output.flatten(1)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Load weights by their names in the graph; those of fresh BatchNorm are left out."""
        with torch.no_grad():
            for name, tensor in tensors.items():
                own = self._tensor(name)
                own.copy_(tensor.view(own.shape))

    def extra_repr(self) -> str:
        """Which BatchNorm the network has."""
        return self.description

    def _tensor(self, name: str) -> Tensor:
        key, role = self._places[name]
        layer = self.layers[key]
        tensor: Tensor = layer[role] if isinstance(layer, nn.ParameterDict) else getattr(layer, role)
        return tensor

    def _normalise(self, node: Node, x: Tensor) -> Tensor:
        normalised: Tensor = self.layers[self._places[node.inputs[1]][0]](x)
        return normalised


def _stored(role: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a parameter: slopes have one axis, as in torch, by which the optimiser knows them."""
    return tuple(length for length in shape if length != 1) or (1,) if role == "slope" else shape
