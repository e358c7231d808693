"""Conditions under which a head takes the fused step."""

from __future__ import annotations

import math
import os
from typing import Any

import torch

from vplface.margins import Margin
from vplface.margins.sample import SampleMargin
from vplface.optim import PrototypeSGD
from vplface.prototypes import LastFeature, Variational
from vplface.ranks import Ranks
from vplface.softmax import fastest_backend
from vplface.softmax.head_softmax import HeadSoftmax

DIMENSIONS = (64, 128, 256, 512)
"""The embedding dimensions for which the kernels have tiles."""
BOUNDED = 84.0
"""Exponentials of logits are summed without a maximum taken out; sums up to e^84 leave room for factors in float32."""


# size: each argument is a condition
def reason_against_fused(
    weight: torch.Tensor,
    *,
    softmax: HeadSoftmax,
    margin: Margin,
    variational: Variational | None,
    optimizer: PrototypeSGD | None,
    terms: Any,
    ranks: Ranks | None,
) -> str | None:
    """Why a head cannot take the fused step; None if it can.

    The fused step is for CUDA devices of compute capability 8.0 or more (or on ``"meta"``, or in
    Triton's interpreter), W in float32 with an embedding dimension in ``DIMENSIONS``, a margin of the cosine alone,
    ``FusedSGD`` with momentum, ``LastFeature`` or no memory, and a softmax over all
    classes with one prototype each.

    Args:
        weight: W.
        softmax: of the head, with its options.
        margin: of the head.
        variational: of the head.
        optimizer: of W.
        terms: of the head; empty for none.
        ranks: that share the classes, if any.
    """
    classes = len(weight) if ranks is None else ranks.classes
    for holds, reason in (
        (_is_triton(softmax, weight.device), f"backend is {softmax.backend!r}"),
        (_can_run(weight.device), f"device is {weight.device}"),
        (weight.dtype == torch.float32, f"dtype is {weight.dtype}"),
        (weight.ndim == 2, "classes have sub-centres"),
        (weight.shape[-1] in DIMENSIONS, f"embedding_dim is {weight.shape[-1]}, not one of {DIMENSIONS}"),
        (ranks is None or classes >= ranks.world, "a rank has no classes"),
        (not isinstance(margin, SampleMargin), f"{type(margin).__name__} depends on more than the cosine"),
        (optimizer is not None, "optimizer is None"),
        (optimizer is None or optimizer.param_groups[0]["momentum"] > 0, "FusedSGD has no momentum"),
        (variational is None or type(variational.memory) is LastFeature, "the memory is not LastFeature"),
        (not terms, "the head has terms"),
        (softmax.sample_rate == 1.0, "sample_rate is below 1"),
        (softmax.interclass_threshold is None, "interclass_threshold is set"),
        (softmax.filter is None, "filter_bound is set"),
        (margin.scale + math.log(classes) <= BOUNDED, f"scale + log N exceeds {BOUNDED:g}"),
    ):
        if not holds:
            return reason
    return None


def _is_triton(softmax: HeadSoftmax, device: torch.device) -> bool:
    return softmax.backend == "triton" or (softmax.backend == "auto" and fastest_backend(device) == "triton")


def _can_run(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "meta" or (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")
