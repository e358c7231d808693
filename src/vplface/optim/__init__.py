"""Optimisers of prototypes, which take the gradient of W a tile of classes at a time."""

from vplface.optim.fused_sgd import FusedSGD, Momentum, PrototypeSGD, Update, hand_over_gradient, piece_size

__all__ = ["FusedSGD", "Momentum", "PrototypeSGD", "Update", "hand_over_gradient", "piece_size"]
