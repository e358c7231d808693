"""Weight decay towards the weights that a backbone starts from (L2-SP)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class StartingPoint:
    """L2-SP, in the place of weight decay: the gradient of (α/2)·‖w − w⁰‖² over the weights w of a backbone that train.

    w⁰ are the weights before the first step, biases and the scales of norms included (Li, Grandvalet, Davoine,
    "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", ICML 2018). The prototypes, which are
    new, keep their ordinary decay, which is the paper's β. Ours: the decay is coupled or not as that of the optimiser,

        SGD    g ← g + α·(w − w⁰)       after clipping, before momentum, as torch's weight decay
        AdamW  w ← w − η·α·(w − w⁰)     before the step, as its decoupled decay

    Weights without a gradient in a step stay as they are.

    Args:
        backbone: its weights with ``requires_grad`` are taken for w⁰.
        strength: α ≥ 0.
    """

    def __init__(self, backbone: nn.Module, strength: float) -> None:
        self.strength = strength
        self._weights = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
        self._start: dict[str, Tensor] = {}
        self.take()

    def take(self) -> None:
        """Take the weights as they are now for w⁰."""
        self._start = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def pull(self, optimizer: torch.optim.Optimizer) -> None:
        """Pull the weights, or their gradients, towards w⁰; to be called before the step of the optimiser."""
        start_of = {self._weights[name]: start for name, start in self._start.items()}
        for group in optimizer.param_groups:
            weights = [weight for weight in group["params"] if weight in start_of and weight.grad is not None]
            if not weights:
                continue
            away = torch._foreach_sub(weights, [start_of[weight] for weight in weights])
            if isinstance(optimizer, torch.optim.AdamW):
                torch._foreach_add_(weights, away, alpha=-group["lr"] * self.strength)
            else:
                torch._foreach_add_([weight.grad for weight in weights], away, alpha=self.strength)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights w⁰ by name."""
        return dict(self._start)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load w⁰; raises KeyError for a weight that is missing."""
        self._start = {name: state[name].to(weight.device) for name, weight in self._weights.items()}
