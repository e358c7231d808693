"""A small network on generated faces, trained in seconds: what the figures of the argument look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import normalize

from vplface import PrototypeHead
from vplface.data.augment import Augmentation
from vplface.data.pictures import Preprocessing
from vplface.data.samplers import ShuffledBatches
from vplface.progress import progress
from vplface.training.schedules import LearningRate
from vplface_synthetic import SyntheticFaces

BATCH = 64


class Faces(NamedTuple):
    """Generated pictures, in the order of their labels."""

    pictures: UInt8[Tensor, "n 112 112 3"]
    labels: Int[Tensor, " n"]

    def __add__(self, other: Faces) -> Faces:  # type: ignore[override]
        """Both, the people of ``other`` counted on from those here."""
        labels = other.labels + self.labels[-1] + 1
        return Faces(torch.cat([self.pictures, other.pictures]), torch.cat([self.labels, labels]))


class Step(NamedTuple):
    """What a step of training saw."""

    number: int
    loss: float
    features: Float[Tensor, "batch dim"]  # x, unit rows
    labels: Int[Tensor, " batch"]


def generate(people: int, each: int, seed: int, first: int = 0) -> Faces:
    """Pictures of people number ``first`` and on, ``each`` of every one."""
    faces = SyntheticFaces(people, each, seed=seed, first_identity=first)
    pictures = torch.empty(len(faces), 112, 112, 3, dtype=torch.uint8)
    with progress("faces", len(faces)) as advance:
        for index in range(len(faces)):
            pictures[index] = torch.from_numpy(faces.picture(index))
            advance(1)
    return Faces(pictures, torch.from_numpy(faces.labels))


def train(
    backbone: nn.Module,
    head: PrototypeHead,
    faces: Faces,
    schedule: LearningRate,
    seed: int,
    *,
    name: str,
    rate: float = 0.1,
    augmentation: Augmentation | None = None,
    remember_another: bool = False,
) -> Iterator[Step]:
    """Train in epochs of shuffled batches, and yield every step when it is done.

    Args:
        backbone: what embeds.
        head: the classes.
        faces: the training pictures.
        schedule: of the learning rate; also says how many steps there are.
        seed: of the order.
        name: for the progress bar.
        rate: base learning rate.
        augmentation: random changes of the pictures, if any.
        remember_another: a control; a class is given the feature of another picture of its batch to remember.
    """
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=5e-4)
    factor = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.factor)
    batches, prepare = ShuffledBatches(len(faces.labels), min(BATCH, len(faces.labels)), seed), Preprocessing()
    with progress(name, schedule.steps) as advance:
        for step in range(schedule.steps):
            rows = torch.as_tensor(batches.batch(step)[1])
            optimizer.zero_grad()
            pictures = faces.pictures[rows]
            if augmentation is not None:
                rng = np.random.default_rng((seed, step))
                pictures = torch.from_numpy(np.stack([augmentation(picture, rng) for picture in pictures.numpy()]))
            embeddings = backbone(prepare(pictures))
            labels = faces.labels[rows]
            loss = head(embeddings, labels, embeddings.detach().roll(1, 0) if remember_another else None)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
            factor.step()
            advance(1)
            yield Step(step, float(loss.detach()), normalize(embeddings.detach(), dim=1), labels)


@torch.no_grad()
def embed(backbone: nn.Module, faces: Faces) -> Float[Tensor, "n dim"]:
    """Features x of all pictures, unit rows, as the network in use would give them."""
    training = backbone.training
    backbone.eval()
    prepare = Preprocessing()
    features = torch.cat([normalize(backbone(prepare(some)), dim=1) for some in faces.pictures.split(128)])
    backbone.train(training)
    return features
