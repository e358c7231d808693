"""MobileFaceNet: a million parameters, made for faces (Chen et al., "MobileFaceNets", CCBR 2018, table 1).

Inverted residuals as in MobileNetV2 with PReLU, and instead of average pooling, which weighs the corner of a face like
its centre, a global depthwise convolution (GDConv): one learned 7×7 weight map per channel.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from vplface.backbones.precision import full_precision

_BOTTLENECKS = (
    # expansion, channels, repeats, stride of the first
    (2, 64, 5, 2),
    (4, 128, 1, 2),
    (2, 128, 6, 1),
    (4, 128, 1, 2),
    (2, 128, 2, 1),
)


def _conv(
    channels_in: int,
    channels_out: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    linear: bool = False,
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=padding, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
    ]
    if not linear:
        layers.append(nn.PReLU(channels_out))
    return nn.Sequential(*layers)


class _Bottleneck(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        self.expand = _conv(channels_in, inner, 1)
        self.depthwise = _conv(inner, inner, 3, stride=stride, padding=1, groups=inner)
        self.project = _conv(inner, channels_out, 1, linear=True)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch out h2 w2"]:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileFaceNet(nn.Module):
    """x ↦ linear(GDConv(conv(bottlenecks(stem(x))))).

    Autocast ends before the GDConv.

    Args:
        embedding_dim: d; 128 in the paper, a million parameters then.
    """

    def __init__(self, embedding_dim: int = 512) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv(3, 64, 3, stride=2, padding=1),
            _conv(64, 64, 3, padding=1, groups=64),
        )
        bottlenecks: list[nn.Module] = []
        channels_in = 64
        for expansion, channels, repeats, first_stride in _BOTTLENECKS:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                bottlenecks.append(_Bottleneck(channels_in, channels, expansion, stride))
                channels_in = channels
        self.bottlenecks = nn.Sequential(*bottlenecks)
        self.conv = _conv(channels_in, 512, 1)
        self.gdconv = _conv(512, 512, 7, groups=512, linear=True)
        self.linear = _conv(512, embedding_dim, 1, linear=True)

    def forward(self, x: Float[Tensor, "batch 3 112 112"]) -> Float[Tensor, "batch dim"]:
        """Embeddings, not normalised."""
        x = self.conv(self.bottlenecks(self.stem(x)))
        with full_precision(x.device):
            embedding: Tensor = self.linear(self.gdconv(x.to(next(self.gdconv.parameters()).dtype))).flatten(1)
        return embedding
