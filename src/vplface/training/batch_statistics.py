"""Statistics of BatchNorm layers, estimated again from the training pictures of a run."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from vplface.data.pictures import UnreadablePictureError
from vplface.progress import progress
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
    """
    backbone = run.backbone
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    backbone.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None  # the mean over all batches
    chosen = np.linspace(0, len(run.pictures) - 1, min(len(run.pictures), PICTURES)).astype(np.int64)
    with progress("batch statistics", len(chosen)) as advance:
        for some in np.array_split(chosen, -(-len(chosen) // _BATCH)):
            read = []
            for index in some.tolist():
                try:
                    read.append(torch.from_numpy(run.pictures.picture(index)))
                except UnreadablePictureError as error:
                    run.unreadable.add(str(error))
            if len(read) > 1:
                backbone(run.preprocessing(torch.stack(read)).to(run.device))
            advance(len(some))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    backbone.train()
    for average in (run.average, run.encoder):
        if average is not None:
            average.module.load_state_dict(backbone.state_dict())
