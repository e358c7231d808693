"""A small network with a three-dimensional embedding, for a picture of prototypes and their distributions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from vplface.backbones import build
from vplface.data.augment import Augmentation
from vplface.data.batches import load_batches
from vplface.data.pictures import PictureSet, Preprocessing
from vplface.data.samplers import ShuffledBatches
from vplface.data.selection import Subset
from vplface.files import PRIVATE, replacing
from vplface.head import PrototypeHead
from vplface.margins import ArcFace
from vplface.progress import progress
from vplface.prototypes import Variational

CLASSES, STEPS, BATCH, WIDTH = 8, 240, 48, 8
SHOWN_PER_CLASS = 40


def embed_on_sphere(pictures: PictureSet, path: Path, lam: float, seed: int, preprocessing: Preprocessing) -> None:
    """Train a very small VPL network on the largest classes of a set, and write its points on the sphere.

    The file holds ``embeddings`` [n, 3], ``labels`` [n], ``prototypes`` v, ``memory`` M and ``variational`` u, each
    [classes, 3], ``timer`` [classes], and ``lam`` (numpy's npz).

    Args:
        pictures: the training pictures.
        path: the file.
        lam: λ of the injection.
        seed: of everything random.
        preprocessing: pictures → input of the network.
    """
    sizes = np.bincount(pictures.labels, minlength=len(pictures.identities))
    largest = np.argsort(-sizes, kind="stable")[:CLASSES]
    some = Subset(pictures, np.flatnonzero(np.isin(pictures.labels, largest)))
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    backbone = build("tiny", 3, width=WIDTH)
    variational = Variational(lam, delta_t=STEPS // 4, start=STEPS // 2)
    head = PrototypeHead(len(some.identities), 3, margin=ArcFace(16.0, 0.2), variational=variational, seed=seed)
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    augmentation = Augmentation(flip=0.5, shift=0.04, scale=0.06, rotate=6.0, light=0.2)
    order = ShuffledBatches(len(some), min(BATCH, len(some)), seed)
    embeddings: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    with progress("sphere", STEPS) as advance:
        for step, batch in enumerate(load_batches(some, order, augmentation, seed, 0, STEPS, 0, min_pictures=2)):
            optimizer.zero_grad()
            embedding = backbone(preprocessing(batch.pictures))
            head(embedding, batch.labels).backward()
            torch.nn.utils.clip_grad_norm_(backbone.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            advance(1)
            if step >= STEPS - SHOWN_PER_CLASS * CLASSES // BATCH:
                embeddings.append(normalize(embedding.detach(), dim=1))
                labels.append(batch.labels)
    torch.set_rng_state(state)
    assert head.memory is not None
    assert head.timer is not None
    arrays = {
        "embeddings": torch.cat(embeddings),
        "labels": torch.cat(labels),
        "prototypes": normalize(head.weight.detach(), dim=1),
        "memory": head.memory,
        "timer": head.timer,
        "variational": head.variational_prototypes().detach(),
        "lam": torch.tensor(lam),
    }
    with replacing(path, PRIVATE) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: tensor.numpy() for name, tensor in arrays.items()})
