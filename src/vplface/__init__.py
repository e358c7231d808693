"""Variational Prototype Learning for deep face recognition."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from vplface.telemetry import switch_off

if TYPE_CHECKING:  # for type checkers and editors; at run time __getattr__ imports the same names
    from vplface.clipping import clip_grad_norm_
    from vplface.embedder import Embedder
    from vplface.head import PrototypeHead
    from vplface.hub import from_pretrained, push_to_hub
    from vplface.margins import *
    from vplface.optim import FusedSGD
    from vplface.plugin import plug
    from vplface.prototypes import Variational
    from vplface.prototypes.memories import *
    from vplface.terms import *

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
    "clip_grad_norm_",
    "from_pretrained",
    "plug",
    "push_to_hub",
]

_HOME = {
    "Embedder": "embedder",
    "FusedSGD": "optim",
    "PrototypeHead": "head",
    "Variational": "prototypes",
    "clip_grad_norm_": "clipping",
    "from_pretrained": "hub",
    "plug": "plugin",
    "push_to_hub": "hub",
}
_FAMILIES = ("vplface.margins", "vplface.prototypes.memories", "vplface.terms")
"""Packages that hold every public name without an entry in ``_HOME``."""

if not TYPE_CHECKING:  # to a type checker a module with __getattr__ has every attribute

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first asked for: ``vplface --help`` should not wait for torch."""
        if name in _HOME:
            return getattr(import_module(f"vplface.{_HOME[name]}"), name)
        if name in __all__:
            for family in map(import_module, _FAMILIES):
                if hasattr(family, name):
                    return getattr(family, name)
        raise AttributeError(f"module 'vplface' has no attribute {name!r}")
