"""MobileFaceNet, a face network of a million parameters (Chen et al., "MobileFaceNets", CCBR 2018, table 1).

Inverted residuals as in MobileNetV2 with PReLU. A global depthwise convolution (GDConv), one learned 7×7 weight map per
channel, replaces average pooling, which would weigh the corners of a face like its centre. insightface's ``mbf`` and
``mbf_large`` have more channels between the inverted residuals, and as many inside them. Parameter names are
insightface's.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vplface.backbones.precision import full_precision


class _Layers(nn.Module):
    def __init__(self, *layers: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


def _conv(
    channels_in: int, channels_out: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1
) -> _Layers:
    linear = _linear_conv(channels_in, channels_out, kernel, stride, padding, groups)
    return _Layers(*linear.layers, nn.PReLU(channels_out))


def _linear_conv(
    channels_in: int, channels_out: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1
) -> _Layers:
    return _Layers(
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
    )


def _bottleneck(channels_in: int, inner: int, channels_out: int, stride: int) -> _Layers:
    return _Layers(
        _conv(channels_in, inner, 1),
        _conv(inner, inner, 3, stride, 1, groups=inner),
        _linear_conv(inner, channels_out, 1),
        residual=stride == 1,
    )


def _bottlenecks(channels: int, inner: int, count: int) -> _Layers:
    return _Layers(*(_bottleneck(channels, inner, channels, stride=1) for _ in range(count)))


def _chain(stage: nn.Module) -> list[nn.Module]:
    """The bottlenecks of what ``_bottlenecks`` returns; of anything else the stage itself."""
    parts = list(stage.layers) if isinstance(stage, _Layers) else []
    of_convolutions = [isinstance(part, _Layers) and isinstance(part.layers[0], _Layers) for part in parts]
    return parts if all(of_convolutions) else [stage]


class MobileFaceNet(nn.Module):
    """x ↦ BN(linear(GDConv(conv(bottlenecks(stem(x)))))).

    Autocast ends after the bottlenecks.

    Args:
        embedding_dim: dimension d of the embedding; 128 in the paper, which makes a million parameters.
        blocks: number of bottlenecks at 56×56, 28×28, 14×14 and 7×7, after those with stride 2; (1, 4, 6, 2) in the
            paper. A 1 in first place means one grouped convolution instead.
        scale: factor on the channels between bottlenecks, 1 in the paper; inside they have 128, 256 or 512 channels.

    Raises:
        ValueError: ``blocks`` are not four positive numbers, or ``scale`` is below 1.
    """

    def __init__(self, embedding_dim: int = 512, blocks: Sequence[int] = (1, 4, 6, 2), scale: int = 1) -> None:
        super().__init__()
        if len(blocks) != 4 or min(blocks) < 1:
            raise ValueError(f"blocks must be four numbers of at least 1, got {blocks}")
        if scale < 1:
            raise ValueError(f"scale must be at least 1, got {scale}")
        narrow, wide = 64 * scale, 128 * scale
        self.layers = nn.ModuleList(
            [
                _conv(3, narrow, 3, stride=2, padding=1),
                _conv(narrow, narrow, 3, padding=1, groups=64)
                if blocks[0] == 1
                else _bottlenecks(narrow, 128, blocks[0]),
                _bottleneck(narrow, 128, narrow, stride=2),
                _bottlenecks(narrow, 128, blocks[1]),
                _bottleneck(narrow, 256, wide, stride=2),
                _bottlenecks(wide, 256, blocks[2]),
                _bottleneck(wide, 512, wide, stride=2),
                _bottlenecks(wide, 256, blocks[3]),
            ]
        )
        self.conv_sep = _conv(wide, 512, 1)
        self.features = _Layers(
            _linear_conv(512, 512, 7, groups=512),
            nn.Flatten(),
            nn.Linear(512, embedding_dim, bias=False),
            nn.BatchNorm1d(embedding_dim),
        )

    @property
    def blocks(self) -> list[nn.Module]:
        """The bottlenecks, and the grouped convolution where it takes the place of the first ones, in forward order."""
        return [block for stage in self.layers[1:] for block in _chain(stage)]

    def forward(self, x: Float[Tensor, "batch 3 112 112"]) -> Float[Tensor, "batch dim"]:
        """Return the embeddings, not normalised."""
        for layer in self.layers:
            x = layer(x)
        with full_precision(x.device):
            embedding: Tensor = self.features(self.conv_sep(x.to(next(self.parameters()).dtype)))
        return embedding
