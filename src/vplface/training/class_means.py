"""Prototypes that start from the mean embedding of their class."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from vplface.training.plain_pictures import plain_pictures
from vplface.training.run_state import RunState

_BATCH = 64


@torch.no_grad()
def init_from_means(run: RunState) -> None:
    """Turn each prototype towards the mean of the unit embeddings of its class; its length stays as drawn.

    The network embeds in evaluation mode, as it is now, and pictures are not augmented. Of several sub-centres the
    first is turned. A class without a readable picture keeps its drawn prototype. Each rank embeds the pictures of its
    own classes.

    Args:
        run: before its first step.
    """
    head = run.head
    first = head.weight.view(len(head.classes), -1, head.embedding_dim)[:, 0]
    means = mean_directions(run, np.arange(head.classes.start, head.classes.stop))
    first.copy_(torch.where(means.any(1, keepdim=True), means * first.norm(dim=1, keepdim=True), first))


@torch.no_grad()
def mean_directions(run: RunState, classes: Int64[np.ndarray, " k"]) -> Float[Tensor, "k dim"]:
    """Direction of the mean of the unit embeddings of each class, over its readable pictures; 0 where there are none.

    Args:
        run: its backbone embeds in evaluation mode; pictures that cannot be read are added to ``run.unreadable``.
        classes: labels, rising.
    """
    chosen = np.flatnonzero(np.isin(run.pictures.labels, classes))
    place = {int(label): row for row, label in enumerate(classes)}
    sums = torch.zeros(len(classes), run.head.embedding_dim, device=run.device)
    run.backbone.eval()
    for pictures, numbers in plain_pictures(run, chosen, _BATCH, "class means"):
        rows = [place[int(label)] for label in run.pictures.labels[numbers]]
        features = normalize(run.backbone(pictures).float(), dim=1)
        sums.index_add_(0, torch.tensor(rows, device=run.device), features)
    run.backbone.train()
    return normalize(sums, dim=1)
