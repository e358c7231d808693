"""Backbones: picture → embedding. Every one maps [batch, 3, 112, 112] to [batch, dim], not normalised."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, get_type_hints

from torch import nn

from vplface.backbones.iresnet import IResNet
from vplface.backbones.mobilefacenet import MobileFaceNet
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
    "Timm",
    "Tiny",
    "ViT",
    "build",
    "load_insightface",
    "load_timm",
    "load_weights",
    "option_types",
]


def build(name: str, embedding_dim: int = 512, **options: Any) -> nn.Module:
    """A new backbone with random weights.

    Args:
        name: a key of ``BACKBONES``, or ``"timm:"`` and the name of a model of timm.
        embedding_dim: d.
        options: of that backbone, e.g. ``dropout`` of IResNet.

    Raises:
        ConfigError: unknown name or option (the nearest known one is named), or a value that the backbone refuses.
        MissingExtraError: a model of timm without the extra ``timm``.
    """
    if embedding_dim < 1:
        raise ConfigError(f"backbone {name}: embedding_dim must be at least 1, got {embedding_dim}")
    if name.startswith(PREFIX):
        return Timm(name.removeprefix(PREFIX), embedding_dim, **options)
    if name not in BACKBONES:
        raise ConfigError(
            f"unknown backbone {name!r}{did_you_mean(name, BACKBONES) or '.'} Known: {', '.join(BACKBONES)}, and"
            f" {PREFIX}NAME for any model of timm"
        )
    known = list(option_types(name) or ())
    for option in options:
        if option not in known:
            raise ConfigError(
                f"backbone {name}: unknown option {option!r}{did_you_mean(option, known) or '.'} Its options are"
                f" {', '.join(known)}"
            )
    try:
        return BACKBONES[name](embedding_dim=embedding_dim, **options)
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:  # sizes that overflow, or that nobody has
        raise ConfigError(f"backbone {name}: {str(error).partition(chr(10))[0] or 'too large for memory'}") from error


def option_types(name: str) -> dict[str, Any] | None:
    """The options of a backbone and their types; None for a model of timm, or a name that is not known."""
    if name not in BACKBONES:
        return None
    made = BACKBONES[name]
    types = get_type_hints((made.func if isinstance(made, partial) else made).__init__)
    return {option: types[option] for option in inspect.signature(made).parameters if option != "embedding_dim"}
