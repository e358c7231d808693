"""Table of backbones by name; those of insightface load its weights (IResNet-50 is its ``r50``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from vplface.backbones.iresnet import BLOCKS, IResNet
from vplface.backbones.mobilefacenet import MobileFaceNet
from vplface.backbones.tiny import Tiny
from vplface.backbones.vit import ViT

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "tiny": Tiny,
    "mobilefacenet": MobileFaceNet,
    "mbf": partial(MobileFaceNet, blocks=(1, 4, 6, 2), scale=2),
    "mbf_large": partial(MobileFaceNet, blocks=(2, 8, 12, 4), scale=4),
    **{f"iresnet{depth}": partial(IResNet, blocks) for depth, blocks in BLOCKS.items()},
    "vit_t": partial(ViT, 256, 12),
    "vit_t_dp005_mask0": partial(ViT, 256, 12, drop_path=0.05, mask_ratio=0.0),
    "vit_s": partial(ViT, 512, 12),
    "vit_s_dp005_mask_0": partial(ViT, 512, 12, drop_path=0.05, mask_ratio=0.0),
    "vit_b": partial(ViT, 512, 24, recompute=True),
    # Named 005, but insightface's training masks a tenth wherever the ratio is not 0.
    "vit_b_dp005_mask_005": partial(ViT, 512, 24, drop_path=0.05, recompute=True),
    "vit_l_dp005_mask_005": partial(ViT, 768, 24, drop_path=0.05, recompute=True),
}
"""Name → function that builds the backbone, given ``embedding_dim`` and options by keyword."""
