"""Backbone networks that map pictures [batch, 3, 112, 112] to embeddings [batch, dim], not normalised."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, get_type_hints

from torch import nn

from vplface.backbones.iresnet import IResNet
from vplface.backbones.mobilefacenet import MobileFaceNet
from vplface.backbones.onnx_graph import OnnxBackbone, from_onnx
from vplface.backbones.pretrained import load_insightface, load_timm, load_weights
from vplface.backbones.table import BACKBONES
from vplface.backbones.timm import PREFIX, Timm
from vplface.backbones.tiny import Tiny
from vplface.backbones.vit import ViT
from vplface.errors import ConfigError
from vplface.suggest import did_you_mean

__all__ = [
    "BACKBONES",
    "IResNet",
    "MobileFaceNet",
    "OnnxBackbone",
    "Timm",
    "Tiny",
    "ViT",
    "build",
    "from_onnx",
    "load_insightface",
    "load_timm",
    "load_weights",
    "option_types",
]


ONNX = "onnx"
"""Name of the backbone that is the network of an ONNX file."""


def build(name: str, embedding_dim: int = 512, **options: Any) -> nn.Module:
    """Build a backbone with random weights.

    Args:
        name: a key of ``BACKBONES``, ``"timm:"`` followed by the name of a timm model, or ``"onnx"`` with the option
            ``graph``.
        embedding_dim: dimension d of the embedding.
        options: keyword arguments of the backbone, e.g. ``dropout`` of IResNet.

    Raises:
        ConfigError: an unknown name or option (the message suggests the nearest), or an invalid value.
        MissingExtraError: a timm model without the extra ``timm``.
    """
    if embedding_dim < 1:
        raise ConfigError(f"backbone {name}: embedding_dim must be at least 1, got {embedding_dim}")
    if name.startswith(PREFIX):
        return Timm(name.removeprefix(PREFIX), embedding_dim, **options)
    if name != ONNX and name not in BACKBONES:
        raise ConfigError(
            f"unknown backbone {name!r}{did_you_mean(name, BACKBONES) or '.'} Known: {', '.join(BACKBONES)}, and"
            f" {PREFIX}NAME for any model of timm, {ONNX} for the network of an .onnx file"
        )
    known = list(option_types(name) or ())
    for option in options:
        if option not in known:
            raise ConfigError(
                f"backbone {name}: unknown option {option!r}{did_you_mean(option, known) or '.'} Its options are"
                f" {', '.join(known)}"
            )
    if name == ONNX and "graph" not in options:
        raise ConfigError(f"backbone {ONNX}: has no network; set backbone.weights to an .onnx file, or use from_onnx")
    try:
        return _factory(name)(embedding_dim=embedding_dim, **options)
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:  # sizes that overflow or do not fit into memory
        raise ConfigError(f"backbone {name}: {str(error).partition(chr(10))[0] or 'too large for memory'}") from error


def _factory(name: str) -> Callable[..., nn.Module]:
    return OnnxBackbone if name == ONNX else BACKBONES[name]


def option_types(name: str) -> dict[str, Any] | None:
    """Types of a backbone's options by name; None for a timm model or an unknown name."""
    if name != ONNX and name not in BACKBONES:
        return None
    factory = _factory(name)
    types = get_type_hints((factory.func if isinstance(factory, partial) else factory).__init__)
    return {option: types[option] for option in inspect.signature(factory).parameters if option != "embedding_dim"}
