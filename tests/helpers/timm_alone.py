"""timm without torchvision, whose wheels on PyPI are built for CUDA and do not import beside a CPU build of torch.

timm names classes of torchvision as it is imported, for frozen batch norms and for reading ImageNet; its networks need
none of them. Where torchvision is missing, names take their place while timm is imported.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType

import pytest

_MODULES = ("", ".datasets", ".models", ".models.feature_extraction", ".ops", ".ops.misc", ".transforms")
_PLACES = [f"torchvision{name}" for name in (*_MODULES, ".transforms.functional")]


class _Named(type):
    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Names(ModuleType):
    __path__ = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Named(name, (), {})


def import_timm() -> ModuleType:
    """timm; skips the test where it is not installed."""
    alone = find_spec("torchvision") is None and "timm" not in sys.modules
    if alone:
        sys.modules.update({place: _Names(place) for place in _PLACES})
        for place in _PLACES[1:]:
            parent, _, name = place.rpartition(".")
            setattr(sys.modules[parent], name, sys.modules[place])
    try:
        return pytest.importorskip("timm", reason="timm is not installed")
    finally:
        if alone:
            for place in _PLACES:
                del sys.modules[place]
