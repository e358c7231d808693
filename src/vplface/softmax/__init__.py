"""Logits → loss and gradients."""

from vplface.softmax.reference import Injection, class_prototypes, margin_softmax

__all__ = ["Injection", "class_prototypes", "margin_softmax"]
