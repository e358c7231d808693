"""Variational Prototype Learning for deep face recognition."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from vplface.telemetry import switch_off

if TYPE_CHECKING:
    from vplface.embedder import Embedder
    from vplface.head import PrototypeHead
    from vplface.hub import from_pretrained, push_to_hub
    from vplface.margins import (
        AdaFace,
        ArcFace,
        CombinedMargin,
        CosFace,
        CurricularFace,
        ElasticFace,
        MagFace,
        NormSoftmax,
        SphereFace,
        SphereFace2,
        SphereFaceR,
        X2Softmax,
    )
    from vplface.optim import FusedSGD
    from vplface.plugin import plug
    from vplface.prototypes import (
        BorrowedSpread,
        Gaussian,
        LastFeature,
        RunningMean,
        SeveralFeatures,
        ShuffledMemory,
        Variational,
        VonMisesFisher,
    )
    from vplface.terms import EPL, UNPG, XBM, BroadFace, UniTSFace

switch_off()

__version__ = version("vplface")

__all__ = [
    "EPL",
    "UNPG",
    "XBM",
    "AdaFace",
    "ArcFace",
    "BorrowedSpread",
    "BroadFace",
    "CombinedMargin",
    "CosFace",
    "CurricularFace",
    "ElasticFace",
    "Embedder",
    "FusedSGD",
    "Gaussian",
    "LastFeature",
    "MagFace",
    "NormSoftmax",
    "PrototypeHead",
    "RunningMean",
    "SeveralFeatures",
    "ShuffledMemory",
    "SphereFace",
    "SphereFace2",
    "SphereFaceR",
    "UniTSFace",
    "Variational",
    "VonMisesFisher",
    "X2Softmax",
    "__version__",
    "from_pretrained",
    "plug",
    "push_to_hub",
]

_HOME = {
    "AdaFace": "margins",
    "ArcFace": "margins",
    "BorrowedSpread": "prototypes",
    "BroadFace": "terms",
    "CombinedMargin": "margins",
    "CosFace": "margins",
    "CurricularFace": "margins",
    "ElasticFace": "margins",
    "Embedder": "embedder",
    "EPL": "terms",
    "from_pretrained": "hub",
    "FusedSGD": "optim",
    "Gaussian": "prototypes",
    "LastFeature": "prototypes",
    "MagFace": "margins",
    "NormSoftmax": "margins",
    "PrototypeHead": "head",
    "plug": "plugin",
    "push_to_hub": "hub",
    "RunningMean": "prototypes",
    "SeveralFeatures": "prototypes",
    "ShuffledMemory": "prototypes",
    "SphereFace": "margins",
    "SphereFace2": "margins",
    "SphereFaceR": "margins",
    "UniTSFace": "terms",
    "UNPG": "terms",
    "Variational": "prototypes",
    "VonMisesFisher": "prototypes",
    "X2Softmax": "margins",
    "XBM": "terms",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: ``vplface --help`` should not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'vplface' has no attribute {name!r}")
    return getattr(import_module(f"vplface.{_HOME[name]}"), name)
