"""Variational Prototype Learning for deep face recognition."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vplface.embedder import Embedder
    from vplface.head import PrototypeHead
    from vplface.margins import ArcFace, CombinedMargin, CosFace, NormSoftmax
    from vplface.optim import FusedSGD
    from vplface.prototypes import Variational
    from vplface.terms import EPL, UNPG, XBM, BroadFace, UniTSFace

__version__ = version("vplface")

__all__ = [
    "EPL",
    "UNPG",
    "XBM",
    "ArcFace",
    "BroadFace",
    "CombinedMargin",
    "CosFace",
    "Embedder",
    "FusedSGD",
    "NormSoftmax",
    "PrototypeHead",
    "UniTSFace",
    "Variational",
    "__version__",
]

_HOME = {
    "ArcFace": "margins",
    "BroadFace": "terms",
    "CombinedMargin": "margins",
    "CosFace": "margins",
    "Embedder": "embedder",
    "EPL": "terms",
    "FusedSGD": "optim",
    "NormSoftmax": "margins",
    "PrototypeHead": "head",
    "UniTSFace": "terms",
    "UNPG": "terms",
    "Variational": "prototypes",
    "XBM": "terms",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: ``vplface --help`` should not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'vplface' has no attribute {name!r}")
    return getattr(import_module(f"vplface.{_HOME[name]}"), name)
