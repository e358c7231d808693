"""IResNet, the standard residual networks for face recognition, with insightface's parameter names.

The residual unit of Deng et al., "ArcFace" (CVPR 2019, section 3.1) after Han et al., "Deep Pyramidal Residual
Networks": BN - conv - BN - PReLU - conv - BN, the stride in the second convolution, no activation after the sum.
The stem keeps the full 112×112, four stages halve it to 7×7, and a fully connected layer reads those 49 cells.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from vplface.backbones.precision import full_precision

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}
"""Depth → residual units in each of the four stages."""

_CHANNELS = (64, 128, 256, 512)


class _Unit(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.prelu = nn.PReLU(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch out h2 w2"]:
        shortcut = x if self.downsample is None else self.downsample(x)
        inner = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        residual: Tensor = self.bn3(self.conv2(inner))
        return residual + shortcut


class IResNet(nn.Module):
    """x ↦ BN(fc(dropout(BN(stages(stem(x)))))).

    ``features.weight``, the scale of the last BatchNorm, is fixed to 1: the head normalises embeddings anyway. Autocast
    ends before ``fc``.

    Args:
        blocks: residual units per stage, a value of :data:`BLOCKS`.
        embedding_dim: dimension d of the embedding.
        dropout: dropout probability before ``fc``.
    """

    def __init__(self, blocks: tuple[int, int, int, int], embedding_dim: int = 512, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(
                _Unit(channels_in, channels_out, stride=2),
                *(_Unit(channels_out, channels_out, stride=1) for _ in range(units - 1)),
            )
            for channels_in, channels_out, units in zip((64, *_CHANNELS), _CHANNELS, blocks, strict=False)
        )
        self.bn2 = nn.BatchNorm2d(512)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(512 * 7 * 7, embedding_dim)
        self.features = nn.BatchNorm1d(embedding_dim)
        self.features.weight.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)

    @property
    def blocks(self) -> list[nn.Module]:
        """The residual units, in the order of the forward pass."""
        return [unit for stage in (self.layer1, self.layer2, self.layer3, self.layer4) for unit in stage]

    def forward(self, x: Float[Tensor, "batch 3 112 112"]) -> Float[Tensor, "batch dim"]:
        """Return the embeddings, not normalised."""
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.dropout(self.bn2(x).flatten(1))
        with full_precision(x.device):
            embedding: Tensor = self.features(self.fc(x.to(self.fc.weight.dtype)))
        return embedding
