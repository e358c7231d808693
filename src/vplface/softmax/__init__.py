"""Logits → loss and gradients."""

from vplface.softmax import reference, tiled
from vplface.softmax.reference import class_prototypes
from vplface.softmax.tiled import Filter
from vplface.softmax.workspace import Workspace

BACKENDS = ("reference", "tiled")

__all__ = ["BACKENDS", "Filter", "Workspace", "class_prototypes", "reference", "tiled"]
