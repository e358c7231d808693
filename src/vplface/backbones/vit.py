"""ViT, the standard vision transformers for face recognition, with insightface's parameter names.

Dosovitskiy et al., "An Image is Worth 16×16 Words" (ICLR 2021), with smaller patches, ReLU6, and no class token: the
embedding is computed from all 144 tokens, as IResNet uses all 49 cells. In training some tokens of each picture are
masked.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vplface.backbones.precision import full_precision

_PATCH = 9
_TOKENS = (112 // _PATCH) ** 2
_HEADS = 8


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        qkv = self.qkv(x).unflatten(2, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        with full_precision(x.device):
            query, key, value = qkv.to(self.qkv.weight.dtype)
            mixed = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class _Block(nn.Module):
    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.attn = _Attention(width)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(width, 4 * width), act=nn.ReLU6(), fc2=nn.Linear(4 * width, width))
        )
        self.drop_path = drop_path

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        x = x + self._drop_path(self.attn(self.norm1(x)))
        return x + self._drop_path(self.mlp(self.norm2(x)))

    def _drop_path(self, branch: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        if not self.training or self.drop_path == 0.0:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * kept / (1.0 - self.drop_path)


class ViT(nn.Module):
    """x ↦ BN(linear(BN(linear(all tokens of LN(blocks(patches(x) + position)))))).

    12×12 patches of 9×9 pixels (the last 4 rows and columns of a picture are ignored); eight attention heads; queries,
    keys and values without bias.

    In training, ⌊144·(1 − mask_ratio)⌋ random tokens of each picture (at least one) go through the blocks; afterwards a
    learned ``mask_token`` replaces the others. Block i of k adds each of its two branches, for a picture, with
    probability 1 − drop_path·(i−1)/(k−1), scaled by its inverse (stochastic depth: Huang et al., ECCV 2016). Evaluation
    is deterministic.

    Under autocast only the four linear maps of a block run in its type; patches, attention, the sum of the branches and
    everything after the blocks keep the type of the parameters.

    Args:
        width: token dimension.
        depth: number k of blocks.
        embedding_dim: dimension d of the embedding.
        drop_path: drop probability of the last block.
        mask_ratio: share of the tokens masked in training; with 0 the mask token is not trained.
        recompute: activation checkpointing: store only the inputs of the blocks and recompute the rest in the backward
            pass, which saves memory and takes a third more time.

    Raises:
        ValueError: ``drop_path`` or ``mask_ratio`` is outside [0, 1).
    """

    def __init__(
        self,
        width: int,
        depth: int,
        embedding_dim: int = 512,
        drop_path: float = 0.1,
        mask_ratio: float = 0.1,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        for name, share in (("drop_path", drop_path), ("mask_ratio", mask_ratio)):
            if not 0.0 <= share < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {share}")
        self.num_kept = max(int(_TOKENS * (1.0 - mask_ratio)), 1)
        self.recompute = recompute
        self.pos_embed = nn.Parameter(torch.empty(1, _TOKENS, width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, width), requires_grad=self.num_kept < _TOKENS)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, _PATCH, stride=_PATCH)})
        self.blocks = nn.ModuleList(_Block(width, drop_path * index / max(depth - 1, 1)) for index in range(depth))
        self.norm = nn.LayerNorm(width)
        self.feature = nn.Sequential(
            nn.Linear(_TOKENS * width, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, embedding_dim, bias=False),
            nn.BatchNorm1d(embedding_dim, eps=2e-5),
        )
        nn.init.normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "batch 3 112 112"]) -> Float[Tensor, "batch dim"]:
        """Return the embeddings, not normalised."""
        with full_precision(x.device):
            patches = self.patch_embed["proj"](x.to(self.pos_embed.dtype))
            tokens = patches.flatten(2).transpose(1, 2) + self.pos_embed
        masking = self.training and self.num_kept < _TOKENS
        if masking:
            positions = self._sample_tokens(tokens)
            tokens = tokens.gather(1, positions)
        for block in self.blocks:
            if self.recompute and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        with full_precision(x.device):
            tokens = self.norm(tokens)
            if masking:
                tokens = self.mask_token.expand(len(x), _TOKENS, -1).scatter(1, positions, tokens)
            embedding: Tensor = self.feature(tokens.flatten(1))
        return embedding

    def _sample_tokens(self, tokens: Float[Tensor, "batch tokens width"]) -> Int64[Tensor, "batch kept width"]:
        order = torch.rand(tokens.shape[:2], device=tokens.device).argsort(dim=1)
        return order[:, : self.num_kept, None].expand(-1, -1, tokens.shape[2])
