"""Measurements of the effect of injection on prototypes and gradients, on the features of a step.

Everything here is computed a tile of classes at a time, from at most ``SAMPLES`` features, and over all ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from vplface.head import PrototypeHead
from vplface.margins.sample import sample_margin
from vplface.prototypes import Injection
from vplface.prototypes.batch import gather_batch
from vplface.prototypes.memory import number_type
from vplface.softmax.reference import class_prototypes, nearest_cosines

SAMPLES = 64
"""Maximum number of features that are measured."""

CLASSES = 4096
"""Maximum number of classes whose angle is measured."""

_TILE = 8192


def measure(
    head: PrototypeHead, embeddings: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]
) -> dict[str, Any]:
    """All measurements of this module except ``own_cosines``, for the journal; empty before the memory exists.

    Also empty where classes have several sub-centres or the margin changes the loss, as ``SphereFace2`` does.

    Called inside ``micro_batches()``, with the current batch, it uses the memory that the batch was compared with.

    Args:
        head: with a process group, of this rank; all ranks must make this call.
        embeddings: of this rank, of any length.
        labels: class ids.
    """
    injection = head.injection
    if injection is None or head.subcenters > 1 or sample_margin(head.margin).changes_loss:
        return {}
    features, labels = first_samples(head, embeddings.detach(), labels)
    mean, high = injected_angle(head)
    return {
        "injected_angle": {"mean": mean, "p95": high},
        "gradient_norm": {
            "injected": gradient_norm(head, features, labels, injection),
            "plain": gradient_norm(head, features, labels, None),
        },
        "nearer_to_memory": nearer_to_memory(head, features, labels),
    }


def first_samples(
    head: PrototypeHead, embeddings: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]
) -> tuple[Float[Tensor, "samples dim"], Int[Tensor, " samples"]]:
    """Unit features and class ids of the first ``SAMPLES`` samples of the whole batch, on every rank."""
    features, labels = normalize(embeddings[:SAMPLES].to(number_type(head.weight.dtype)), dim=1), labels[:SAMPLES]
    if head.ranks is not None:
        (features, labels), _ = head.ranks.gather(features, labels)
    return features[:SAMPLES], labels[:SAMPLES]


@torch.no_grad()
def own_cosines(
    head: PrototypeHead, embeddings: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]
) -> tuple[float, float | None]:
    """Mean cosines of samples to the prototype and to what is injected into their class, over all ranks.

    Args:
        head: with a process group, of this rank; all ranks must make this call.
        embeddings: of this rank, of any length.
        labels: class ids.

    Returns:
        The mean over samples, and that over samples whose class has a memory that is alive; None without such.
    """
    head.finish_step()
    batch = gather_batch(embeddings, labels, None, num_classes=head.num_classes, weight=head.weight, ranks=head.ranks)
    rows = head.prototype_memory.rows(batch.labels)
    features, rows = batch.features[rows >= 0], rows[rows >= 0]
    to_prototype = nearest_cosines(features, class_prototypes(head.weight[rows], None)).sum()
    sums = [to_prototype, to_prototype.new_tensor(len(rows))]
    injection = head.injection
    if injection is not None:
        alive = injection.timer[rows] > 0
        sums += [(features[alive] * injection.memory_rows(rows[alive]).to(features.dtype)).sum(), alive.sum()]
    else:
        sums += [to_prototype.new_tensor(0.0)] * 2
    totals = torch.stack([each.double() for each in sums])
    prototype, samples, memory, living = (totals if head.ranks is None else head.ranks.sum(totals)).tolist()
    return prototype / samples, memory / living if living else None


@torch.no_grad()
def injected_angle(head: PrototypeHead) -> tuple[float | None, float | None]:
    """The angle by which injection turns a prototype: angle(u_j, v_j) over classes with a living memory, in degrees.

    angle(u, v) = 2·asin(‖u/‖u‖ − v‖/2), which is exact for small angles too. With more than ``CLASSES`` such classes,
    every k-th of them counts.

    Returns:
        The mean and the 95th percentile; None where no memory is alive.
    """
    injection = head.injection
    angles: list[Tensor] = [head.weight.new_zeros(0)]
    if injection is not None:
        rows = (injection.timer > 0).nonzero().squeeze(1)
        living = torch.tensor(len(rows), device=rows.device)
        every = -(-int(living if head.ranks is None else head.ranks.sum(living)) // CLASSES)
        for some in torch.split(rows[:: max(every, 1)], _TILE):
            prototypes = normalize(head.weight[some].to(number_type(head.weight.dtype)), dim=1)
            chord = (normalize(injection(prototypes, some), dim=1) - prototypes).norm(dim=1)
            angles.append(torch.rad2deg(2 * torch.asin((chord / 2).clamp(max=1))))
    found = torch.cat(angles)
    if head.ranks is not None:
        (found,), _ = head.ranks.gather(found)
    if len(found) == 0:
        return None, None
    return float(found.mean()), float(found.quantile(0.95))


def gradient_norm(
    head: PrototypeHead,
    features: Float[Tensor, "samples dim"],
    labels: Int[Tensor, " samples"],
    injection: Injection | None,
) -> float:
    """‖dL/dW‖, Frobenius, of the mean margin softmax L over these samples and all classes.

    A margin that depends on more than cosines is that of an ordinary sample. Changes of the logits of other classes by
    margins or thresholds are ignored.

    With p_ij the softmax of the logits z_ij, dL/dz_ij = (p_ij − [j = y_i])/b. That is also the gradient of

        (1/b)·Σ_ij exp(z_ij − c_i) − (1/b)·Σ_i z_iy        c_i = log Σ_j exp(z_ij), held constant

    which is a sum over classes: a first pass over tiles of classes finds c, a second the rows of the gradient, whose
    squares are added and which are never kept. Extra terms, weight decay and a draw of classes are left out.

    Args:
        head: W and margin.
        features: x, unit rows, the same on all ranks.
        labels: class ids.
        injection: makes the prototypes u of v; None for v, as if there were no memory.
    """
    rows = labels if head.ranks is None else head.ranks.local(labels)
    highest = features.new_full((len(features),), -torch.inf)
    total = torch.zeros_like(highest)
    for tile in _tiles(head):
        with torch.no_grad():
            logits = _logits(head, features, rows, tile, head.weight[tile].to(features.dtype), injection)
            higher = torch.maximum(highest, logits.amax(dim=1))
            total = total * (highest - higher).exp() + (logits - higher.unsqueeze(1)).exp().sum(dim=1)
            highest = higher
    if head.ranks is not None:
        higher = head.ranks.largest(highest)
        total, highest = head.ranks.sum(total * (highest - higher).exp()), higher
    constant = (total.log() + highest).unsqueeze(1)
    squares = torch.zeros((), dtype=torch.float64, device=features.device)
    for tile in _tiles(head):
        with torch.enable_grad():
            weight = head.weight[tile].detach().to(features.dtype).requires_grad_()
            logits = _logits(head, features, rows, tile, weight, injection)
            own = _own(rows, tile)
            loss = ((logits - constant).exp().sum() - logits[own].sum()) / len(features)
            (gradient,) = torch.autograd.grad(loss, weight)
        squares += gradient.double().square().sum()
    return float((squares if head.ranks is None else head.ranks.sum(squares)).sqrt())


@torch.no_grad()
def nearer_to_memory(
    head: PrototypeHead, features: Float[Tensor, "samples dim"], labels: Int[Tensor, " samples"]
) -> float | None:
    """Share of the samples i with max_j cos(x_i, M_j) > max_j cos(x_i, v_j) over living classes j ≠ y_i.

    For these samples the memory has a harder negative than any prototype: only there can injection add a negative that
    the plain softmax lacks.

    Args:
        head: W, M and T.
        features: x, unit rows, the same on all ranks.
        labels: class ids.

    Returns:
        The share; None if for some sample no other class has a living memory.
    """
    rows = labels if head.ranks is None else head.ranks.local(labels)
    injection = head.injection
    nearest = features.new_full((2, len(features)), -torch.inf)
    for tile in _tiles(head) if injection is not None else ():
        assert injection is not None
        alive = injection.timer[tile] > 0
        foreign = alive.expand(len(features), -1).clone()
        foreign[_own(rows, tile)] = False
        kinds = injection.memory_rows(tile).to(features.dtype), normalize(head.weight[tile].to(features.dtype), dim=1)
        for kind, points in enumerate(kinds):
            cosine = torch.where(foreign, features @ points.t(), -torch.inf)
            nearest[kind] = torch.maximum(nearest[kind], cosine.amax(dim=1))
    if head.ranks is not None:
        nearest = head.ranks.largest(nearest)
    memory, prototype = nearest
    if not prototype.isfinite().all():
        return None
    return float((memory > prototype).double().mean())


def _tiles(head: PrototypeHead) -> Iterator[slice]:
    classes = len(head.weight)
    return (slice(first, min(first + _TILE, classes)) for first in range(0, classes, _TILE))


def _own(rows: Int[Tensor, " samples"], tile: slice) -> tuple[Tensor, Tensor]:
    """Samples whose class lies in a tile, and where."""
    samples = ((rows >= tile.start) & (rows < tile.stop)).nonzero().squeeze(1)
    return samples, rows[samples] - tile.start


def _logits(
    head: PrototypeHead, features: Tensor, rows: Tensor, tile: slice, weight: Tensor, injection: Injection | None
) -> Float[Tensor, "samples tile"]:
    prototypes = class_prototypes(weight, None)
    if injection is not None:
        prototypes = injection(prototypes, tile)
    cosine = features @ prototypes.t()
    own = _own(rows, tile)
    return head.margin.scale * cosine.index_put(own, head.margin.target(cosine[own]))
