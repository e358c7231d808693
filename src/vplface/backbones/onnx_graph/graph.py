"""Networks as lists of operators, without their weights, and their compact text form.

The text is stored with a model, which needs neither the ONNX file nor the package onnx after that. It may come from an
untrusted file: nothing in it is executed, and its size is bounded.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vplface.errors import ConfigError

MAX_TEXT_BYTES = 16 * 2**20
"""Largest decompressed text of a graph, in bytes."""
MAX_NODES = 20_000
_VERSION = 1


@dataclass(frozen=True)
class Node:
    """One operator.

    Attributes:
        operator: name of the ONNX operator.
        inputs: names of its inputs; an empty name is an absent input.
        outputs: names of its outputs.
        attributes: numbers, texts and lists of them.
        name: name in the ONNX file, for errors.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    name: str

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.operator})"


@dataclass(frozen=True)
class Graph:
    """A network from pictures to embeddings.

    Attributes:
        nodes: the operators, each after those whose outputs it takes.
        input: name of the pictures.
        output: name of the embeddings.
        channels_last: whether the pictures are [n, size, size, 3].
        parameters: shape of each weight.
        constants: numbers and lists of whole numbers that are no weights.
    """

    nodes: tuple[Node, ...]
    input: str
    output: str
    channels_last: bool
    parameters: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Any]

    def to_text(self) -> str:
        """Compressed JSON in base64."""
        values = {
            "version": _VERSION,
            "nodes": [[n.operator, n.inputs, n.outputs, n.attributes, n.name] for n in self.nodes],
            "input": self.input,
            "output": self.output,
            "channels_last": self.channels_last,
            "parameters": self.parameters,
            "constants": self.constants,
        }
        return base64.b64encode(zlib.compress(json.dumps(values, separators=(",", ":")).encode(), 9)).decode()

    @classmethod
    def from_text(cls, text: str) -> Graph:
        """Read back :meth:`to_text`.

        Raises:
            ConfigError: the text is damaged, too long, or of a later version.
        """
        try:
            decompressor = zlib.decompressobj()
            data = decompressor.decompress(base64.b64decode(text, validate=True), MAX_TEXT_BYTES)
            values = json.loads(data)
            if not decompressor.eof or values["version"] != _VERSION or len(values["nodes"]) > MAX_NODES:
                raise ValueError("too long, or of another version")
            return cls(
                tuple(
                    Node(str(operator), _names(inputs), _names(outputs), dict(attributes), str(name))
                    for operator, inputs, outputs, attributes, name in values["nodes"]
                ),
                str(values["input"]),
                str(values["output"]),
                bool(values["channels_last"]),
                {str(name): _shape(shape) for name, shape in values["parameters"].items()},
                {str(name): _as_tuples(value) for name, value in values["constants"].items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, zlib.error) as error:
            raise ConfigError(
                f"the graph of the network cannot be read: {error}; it is damaged, or of another version of vplface"
            ) from error


def _names(values: list[Any]) -> tuple[str, ...]:
    if not values:
        raise ValueError("a node has no inputs or no outputs")
    return tuple(map(str, values))


def _shape(values: list[Any]) -> tuple[int, ...]:
    shape = tuple(map(int, values))
    if any(length < 0 for length in shape):
        raise ValueError(f"a weight has shape {shape}")
    return shape


def _as_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_as_tuples(each) for each in value)
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return value
