"""Losses between the embeddings of a network and those of its teacher, which is a constant."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from vplface.data.batches import Batch
from vplface.errors import ConfigError
from vplface.training.teacher import Teacher

GROUP = 128
"""The most samples whose triplets are compared with each other: their angles are as many as its cube."""
_SMALLEST = 1e-12
"""Squared distances below this have no gradient, of pictures that appear twice."""


def cosine_loss(student: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """The mean of 1 − cosθ between the two embeddings of a picture, half their squared distance.

    The hint loss of FitNets (Romero, Ballas, Kahou, Chassang, Gatta, Bengio, ICLR 2015) for features of unit length.

    Args:
        student: unit rows.
        teacher: unit rows.
    """
    return (1.0 - (student * teacher).sum(1)).mean()


def distance_loss(student: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch other"]) -> Float[Tensor, ""]:
    """RKD-D: mean over pairs i ≠ j of h(‖s_i − s_j‖/μ_s − ‖t_i − t_j‖/μ_t), where μ is the mean of these distances.

    h is the Huber loss, x²/2 up to 1 and |x| − 1/2 beyond (Park, Kim, Lu, Cho, "Relational Knowledge Distillation",
    CVPR 2019, equations 4 to 7). 0 for a single sample.

    Args:
        student: unit rows.
        teacher: unit rows, of any dimension.
    """
    if len(student) < 2:
        return student.sum() * 0.0
    total = smooth_l1_loss(_relative_distances(student), _relative_distances(teacher), reduction="sum")
    return total / math.perm(len(student), 2)


def angle_loss(student: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch other"]) -> Float[Tensor, ""]:
    """RKD-A: mean over triplets of h(cos∠s_i s_j s_k − cos∠t_i t_j t_k), with the Huber loss h.

    Park et al., equations 8 to 10; i, j and k are different. Ours: triplets are those of up to ``GROUP`` neighbours in
    the batch. 0 for fewer than three samples.

    Args:
        student: unit rows.
        teacher: unit rows, of any dimension.
    """
    groups = -(-len(student) // GROUP)
    pairs = zip(student.tensor_split(groups), teacher.tensor_split(groups), strict=True)
    if len(student) < 3 * groups:
        return student.sum() * 0.0
    means = [
        smooth_l1_loss(_angles(ours), _angles(theirs), reduction="sum") / math.perm(len(ours), 3)
        for ours, theirs in pairs
    ]
    return torch.stack(means).mean()


LOSSES = {"cosine": cosine_loss, "distance": distance_loss, "angle": angle_loss}
"""The losses by their keys in a recipe."""


class Distillation:
    """The weighted sum of losses between the embeddings of a step and those of a teacher.

    With several processes each takes the losses of its slice of the batch, and DistributedDataParallel the mean.

    Args:
        teacher: of the embeddings.
        weights: of each loss, by its key.
        dim: d of the network.

    Raises:
        ConfigError: if ``cosine`` is to compare embeddings of different sizes.

    Attributes:
        teacher: as given.
    """

    def __init__(self, teacher: Teacher, weights: Mapping[str, float], dim: int) -> None:
        if "cosine" in weights and teacher.dim != dim:
            raise ConfigError(
                f"distill.cosine compares embeddings of one size, and those of {teacher.path} have {teacher.dim}"
                f" numbers, those of this run {dim}; set backbone.embedding_dim={teacher.dim}, or use distill.distance"
                " and distill.angle, which compare them with each other"
            )
        self.teacher = teacher
        self._weights = dict(weights)
        self._last: dict[str, Tensor] = {}

    def targets(self, batch: Batch) -> Float[Tensor, "batch other"]:
        """The unit embeddings of the teacher of a batch, on the device of the batch."""
        return normalize(self.teacher(batch).to(batch.labels.device).float(), dim=1)

    def loss(self, embeddings: Float[Tensor, "batch dim"], targets: Float[Tensor, "batch other"]) -> Float[Tensor, ""]:
        """The weighted sum of the losses.

        Args:
            embeddings: of the network, of any length.
            targets: unit rows of the teacher.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            features = normalize(embeddings.float(), dim=1)
            losses = {kind: LOSSES[kind](features, targets) for kind in self._weights}
        self._last = {kind: loss.detach() for kind, loss in losses.items()}
        return torch.stack([weight * losses[kind] for kind, weight in self._weights.items()]).sum()

    def last_values(self) -> dict[str, float]:
        """The losses of the last forward pass, by their keys."""
        return {kind: float(value) for kind, value in self._last.items()}


def _relative_distances(rows: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch"]:
    """Distances between different rows, relative to their mean; 0 where they are not different."""
    squared = (2.0 - 2.0 * rows @ rows.t()).clamp_min(_SMALLEST)
    same = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    distances = squared.sqrt().masked_fill(same, 0.0)
    return distances * math.perm(len(rows), 2) / distances.sum()


def _angles(rows: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch batch"]:
    """cos∠ x_i x_j x_k of all triplets of different rows, at [j, i, k]; 0 where they are not different."""
    directions = normalize(rows.unsqueeze(0) - rows.unsqueeze(1), dim=2)  # from x_j to x_i, at [j, i]
    cosines = directions @ directions.transpose(1, 2)
    same = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return cosines.masked_fill(same.unsqueeze(0) | same.unsqueeze(1) | same.unsqueeze(2), 0.0)
