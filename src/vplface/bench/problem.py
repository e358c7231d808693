"""Inputs of a measured step: its size, and the W, M, T, features and labels that every arm takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

SCALE, MARGIN, LAM = 64.0, 0.5, 0.15
LR, MOMENTUM, WEIGHT_DECAY, MAX_NORM = 0.1, 0.9, 5e-4, 5.0

Step = Callable[[], float]
"""Forward, backward and update; returns the loss."""


@dataclass(frozen=True)
class Setting:
    """The size of a step.

    Attributes:
        classes: N.
        batch: B.
        dim: d.
        dtype: of the products; everything else is float32.
        device: where it runs.
        workspace_mb: of the tiled head.
    """

    classes: int
    batch: int
    dim: int = 512
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    workspace_mb: float = 256

    @property
    def state_bytes(self) -> int:
        """W, momentum, M and T."""
        return self.classes * (3 * 4 * self.dim + 4)


@dataclass
class Problem:
    """Inputs of every arm: W, M, T, features of unit length, labels."""

    setting: Setting
    weight: Tensor
    memory: Tensor
    timer: Tensor
    features: Tensor
    labels: Tensor

    def autocast(self) -> torch.autocast:
        """Products in the type of the setting."""
        return torch.autocast(
            self.weight.device.type, dtype=torch.bfloat16, enabled=self.setting.dtype == "bfloat16", cache_enabled=False
        )

    def leaf(self) -> Tensor:
        """The features as a leaf tensor that requires a gradient."""
        return self.features.clone().requires_grad_()


def problem_of(setting: Setting) -> Problem:
    """Random numbers of the given size, half of the memory alive."""
    generator = torch.Generator().manual_seed(0)
    rows = setting.classes, setting.dim
    weight, memory = (torch.empty(rows).normal_(0, 0.05, generator=generator) for _ in range(2))
    timer = 10**9 * (torch.rand(setting.classes, generator=generator) < 0.5).int()
    features = F.normalize(torch.randn(setting.batch, setting.dim, generator=generator))
    labels = torch.randint(setting.classes, (setting.batch,), generator=generator)
    F.normalize(memory, out=memory)
    return Problem(setting, *(each.to(setting.device) for each in (weight, memory, timer, features, labels)))
