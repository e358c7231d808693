"""Tiny, a face network for laptop CPUs with plain 3×3 convolutions at low resolution.

The stem reduces 112×112 to 28×28 at once, because large maps are bound by memory traffic. Depthwise convolutions are
avoided for the same reason. For pictures with little detail, averages over squares of pixels take the place of pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vplface.backbones.precision import full_precision

_BLOCKS = (1, 2, 1)
_STEM_STRIDE = 4
_REDUCE = (1, 2, 4)
_SLOPE = 0.25


class Tiny(nn.Module):
    """Residual network of three stages, 28×28×w, 14×14×2w and 7×7×4w, with a linear layer over the whole last map.

    Args:
        embedding_dim: dimension d of the embedding.
        width: channels w of the first stage; cost grows with w². Multiples of 8 run best.
        norm: ``"batch"``, or ``"none"`` for a network without batch statistics, where a picture's embedding and
            gradient do not depend on the rest of the batch. Its residual branches start at zero, which lets it train
            (SkipInit: De and Smith, "Batch Normalization Biases Residual Blocks Towards the Identity Function in
            Deep Networks", NeurIPS 2020).
        dropout: probability of dropping a feature before the linear layer.
        reduce: r, 1, 2 or 4: the network sees the means of squares of r×r pixels, and maps of 1/r of the side, rounded
            up, at about 1/r² of the cost.

    Raises:
        ValueError: a size below 1, an unknown norm, a dropout outside [0, 1) or another ``reduce``.
    """

    def __init__(
        self,
        embedding_dim: int = 128,
        width: int = 32,
        norm: Literal["batch", "none"] = "batch",
        dropout: float = 0.0,
        reduce: int = 1,
    ) -> None:
        super().__init__()
        if embedding_dim < 1 or width < 1:
            raise ValueError(f"embedding_dim and width must be at least 1, got {embedding_dim} and {width}")
        if norm not in ("batch", "none"):
            raise ValueError(f"norm must be 'batch' or 'none', got {norm!r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        if reduce not in _REDUCE:
            raise ValueError(f"reduce must be 1, 2 or 4, got {reduce}")
        self.reduce = reduce
        widths = [width, 2 * width, 4 * width]
        self.stem = nn.Sequential(_convolution(3, width, norm, kernel=7, stride=_STEM_STRIDE), _activation())
        side = 112 // reduce // _STEM_STRIDE
        stages: list[nn.Module] = []
        for stage, (channels, blocks) in enumerate(zip(widths, _BLOCKS, strict=True)):
            if stage > 0:
                down = _convolution(channels // 2, channels, norm, kernel=3, stride=2)
                stages += [down, _activation()]
                side = (side + 1) // 2
            stages += [_Block(channels, norm) for _ in range(blocks)]
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.embedding = nn.Linear(widths[-1] * side * side, embedding_dim, bias=norm == "none")
        self.embedding_norm = nn.BatchNorm1d(embedding_dim) if norm == "batch" else nn.Identity()

    @property
    def blocks(self) -> list[nn.Module]:
        """The residual units, in the order of the forward pass."""
        return [stage for stage in self.stages if isinstance(stage, _Block)]

    def forward(self, pictures: Float[Tensor, "batch 3 112 112"]) -> Float[Tensor, "batch dim"]:
        """Return the embeddings, not normalised."""
        seen = nn.functional.avg_pool2d(pictures, self.reduce) if self.reduce > 1 else pictures
        maps = self.stages(self.stem(seen))
        with full_precision(pictures.device):
            flat = self.dropout(maps.flatten(1).to(self.embedding.weight.dtype))
            embedding: Tensor = self.embedding_norm(self.embedding(flat))
        return embedding


class _Block(nn.Module):
    """x → activation(x + gain·branch(x)), where the branch is two convolutions."""

    def __init__(self, channels: int, norm: Literal["batch", "none"]) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _convolution(channels, channels, norm), _activation(), _convolution(channels, channels, norm)
        )
        self.gain = nn.Parameter(torch.zeros(())) if norm == "none" else None
        self.activation = _activation()

    def forward(self, maps: Tensor) -> Tensor:
        branch = self.branch(maps)
        result: Tensor = self.activation(maps + (branch if self.gain is None else self.gain * branch))
        return result


def _convolution(
    inputs: int, outputs: int, norm: Literal["batch", "none"], kernel: int = 3, stride: int = 1
) -> nn.Sequential:
    plain = norm == "none"
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=plain)
    nn.init.kaiming_normal_(convolution.weight, a=_SLOPE, mode="fan_in")
    return nn.Sequential(convolution, nn.Identity() if plain else nn.BatchNorm2d(outputs))


def _activation() -> nn.Module:
    """Leaky ReLU with PReLU's usual initial slope; learning the slope would cost a fifth of the training time."""
    return nn.LeakyReLU(_SLOPE, inplace=True)
