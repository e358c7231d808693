"""Statistics of BatchNorm layers, estimated again from the training pictures of a run."""

from __future__ import annotations

import torch
from torch import nn

from vplface.training.plain_pictures import evenly_spaced
from vplface.training.run_state import RunState

PICTURES = 4096
"""The most pictures that statistics are estimated from."""
_BATCH = 128


@torch.no_grad()
def reestimate(run: RunState) -> None:
    """Replace the statistics of all BatchNorm layers of the backbone by those of evenly spaced training pictures.

    This is adaptive batch normalisation (Li, Wang, Shi, Liu, Hou, "Revisiting Batch Normalization For Practical Domain
    Adaptation", 2016). Pictures are not augmented. In each layer mean and variance are the averages of those of batches
    of some 128 pictures, which the layers before it have normalised by their own. Every rank estimates the same.

    Args:
        run: before its first step; its averages of the backbone follow.

    Raises:
        DataError: no training picture can be read.
    """
    backbone = run.backbone
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    backbone.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None  # the mean over all batches
    for pictures in evenly_spaced(run, PICTURES, _BATCH, "batch statistics"):
        if len(pictures) > 1:
            backbone(pictures)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    backbone.train()
    for average in (run.average, run.encoder):
        if average is not None:
            average.module.load_state_dict(backbone.state_dict())
