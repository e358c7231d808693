"""Exponential moving average of a network."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """The exponential moving average of the weights and buffers of a network: a ← a + (1 − decay)·(w − a).

    It is torch's ``AveragedModel`` with ``get_ema_multi_avg_fn(decay)``, state and values included. Only the update
    differs, which reads nothing from a GPU and sends nothing to it; and the average of a whole number that stands still
    is that number, which torch's may round down.

    Args:
        network: copied; the first update copies it again.
        decay: between 0 and 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the average with the current network."""
        averages, values = ([*module.parameters(), *module.buffers()] for module in (self.module, model))
        if int(self.n_averaged) == 0:  # always on the CPU
            torch._foreach_copy_(averages, values)
        else:
            real = [pair for pair in zip(averages, values, strict=True) if pair[0].is_floating_point()]
            torch._foreach_lerp_([pair[0] for pair in real], [pair[1] for pair in real], 1 - self.decay)
            for average, value in zip(averages, values, strict=True):
                if not average.is_floating_point():
                    mixed = (average * self.decay + value * (1 - self.decay)).to(average.dtype)
                    average.copy_(torch.where(average == value, value, mixed))
        self.n_averaged += 1
