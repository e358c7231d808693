"""The margin softmax as it is defined, in plain autograd: every faster backend is tested against this file."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, normalize

from vplface.margins import Margin
from vplface.margins.sample import changes_negatives, negative_of, sample_margin
from vplface.prototypes import Injection
from vplface.ranks import Ranks


def class_prototypes(
    weight: Float[Tensor, "classes ... dim"], injection: Injection | None
) -> Float[Tensor, "classes ... dim"]:
    """v = W/‖W‖, or the variational u where there is an injection; of every sub-centre, if classes have several."""
    if weight.ndim == 3:
        of_subcenters = None if injection is None else injection.of_subcenters(weight.detach())
        return class_prototypes(weight.flatten(0, 1), of_subcenters).view(weight.shape)
    prototypes = normalize(weight, dim=1)
    return prototypes if injection is None else injection(prototypes)


def nearest_cosines(
    features: Float[Tensor, "samples dim"], prototypes: Float[Tensor, "samples ... dim"]
) -> Float[Tensor, " samples"]:
    """The cosine of each sample with its own unit prototype, or with the nearest of several."""
    several = prototypes if prototypes.ndim == 3 else prototypes.unsqueeze(1)
    return (several * features.unsqueeze(1)).sum(2).amax(1)


@torch.no_grad()
def own_cosines(
    features: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    weight: Float[Tensor, "classes ... dim"],
    injection: Injection | None,
    ranks: Ranks | None,
) -> Float[Tensor, " batch"]:
    """Cosines of all samples with the (nearest) prototypes of their classes, whichever rank has them.

    Args:
        features: x, unit rows.
        labels: y, global class ids.
        weight: W of the classes here.
        injection: memory to mix into the prototypes.
        ranks: who holds the other classes.
    """
    features = features.to(torch.promote_types(weight.dtype, torch.float32))

    def of_rows(rows: Tensor) -> Tensor:
        of_classes = None if injection is None else injection.of(rows)
        return nearest_cosines(features, class_prototypes(weight[rows].to(features.dtype), of_classes))

    if ranks is None:
        return of_rows(labels)
    rows, part = ranks.local(labels), features.new_zeros(len(features))
    if len(weight):
        part = torch.where(rows >= 0, of_rows(rows.clamp_min(0)), part)
    return ranks.sum(part)


@torch.no_grad()
def prototypes_of(
    labels: Int[Tensor, " batch"], weight: Float[Tensor, "classes dim"], ranks: Ranks | None
) -> Float[Tensor, "batch dim"]:
    """v of the classes with the given ids, whichever rank has them."""
    if ranks is None:
        return normalize(weight[labels], dim=1)
    rows, part = ranks.local(labels), weight.new_zeros(len(labels), weight.shape[1])
    if len(weight):
        part = torch.where((rows >= 0).unsqueeze(1), normalize(weight[rows.clamp_min(0)], dim=1), part)
    return ranks.sum(part)


# size: the definition, with one argument for each symbol of the equation
def margin_softmax(
    features: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    weight: Float[Tensor, "classes ... dim"],
    margin: Margin,
    injection: Injection | None = None,
    *,
    strength: Float[Tensor, " batch"] | None = None,
    threshold: float | None = None,
    negatives: Float[Tensor, " batch"] | None = None,
    ranks: Ranks | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy over N classes of the logits s·cosθ_ij, the target's after its margin.

    cosθ_ij = u_j·x_i, with K sub-centres of a class max_k u_jk·x_i (Deng et al., "Sub-center ArcFace: Boosting Face
    Recognition by Large-Scale Noisy Web Faces", ECCV 2020). Under autocast the product runs in autocast's type; margin
    and softmax never run below float32.

    Args:
        features: x, unit rows.
        labels: y, row numbers of ``weight``; −1 where the class lives on another rank.
        weight: W, rows of any length; [N, d], or [N, K, d] with K sub-centres of each class.
        margin: changes the target cosine and gives the scale s.
        injection: memory to mix into the prototypes; None for the plain softmax.
        strength: m_i of each sample, for a margin that has one; the same on every rank. Its gradient, like that of a
            target, is found where the class of the sample lives.
        threshold: other classes with a larger cosθ_ij are left out of the softmax of sample i; None for none.
        negatives: one more logit for each sample, log Σ_k exp(s·cosθ_ik) over whatever else it is compared with; −∞ for
            nothing. The same on every rank, as is its gradient. None for no sample.
        ranks: who holds the other classes; None if there are none.
    """
    logits, own = class_logits(
        features, labels, weight, margin, injection, strength=strength, threshold=threshold, ranks=ranks
    )
    if ranks is not None:
        return ranks.cross_entropy(logits, *own, negatives)
    if negatives is not None:
        logits = torch.cat([logits, negatives.to(logits.dtype).unsqueeze(1)], 1)
    return cross_entropy(logits, labels)


def class_logits(
    features: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    weight: Float[Tensor, "classes ... dim"],
    margin: Margin,
    injection: Injection | None,
    *,
    strength: Float[Tensor, " batch"] | None,
    threshold: float | None,
    ranks: Ranks | None,
) -> tuple[Float[Tensor, "batch classes"], tuple[Tensor, Tensor]]:
    """The logits of the classes here, and where among them those are of samples with their own class.

    The arguments are those of ``margin_softmax``.
    """
    prototypes = class_prototypes(weight, injection)
    cosine = linear(features, prototypes.flatten(0, -2))
    if weight.ndim == 3:
        cosine = cosine.view(len(features), *weight.shape[:2]).max(2).values
    cosine = cosine.to(torch.promote_types(cosine.dtype, torch.float32))
    samples = (labels >= 0).nonzero().squeeze(1)
    own = samples, labels[samples]
    target = sample_margin(margin).target(cosine[own], None if strength is None else strength[samples])
    others = cosine
    if changes_negatives(margin, threshold):
        every = cosine.new_zeros(len(cosine)).index_put((samples,), target.detach())
        every = every if ranks is None else ranks.sum(every)
        own_strength = None if strength is None else strength.detach().unsqueeze(1)
        others = negative_of(margin, cosine, every.unsqueeze(1), own_strength, threshold)
    return margin.scale * others.index_put(own, target), own
