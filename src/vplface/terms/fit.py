"""Checks that a margin, terms and options of a head are compatible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from vplface.margins import Margin
from vplface.margins.sample import sample_margin
from vplface.terms.term import BoundTerm, Term


def require_fit(
    margin: Margin,
    terms: Mapping[str, BoundTerm] | None = None,
    *,
    sample_rate: float = 1.0,
    subcenters: int = 1,
    filter_bound: float | None = None,
    variational: bool = False,
) -> None:
    """Raise ValueError if a margin is not compatible with what it is combined with.

    Args:
        margin: of the head.
        terms: of the head, by the names that messages quote.
        sample_rate: share of the classes that a step compares with.
        subcenters: K.
        filter_bound: ε.
        variational: whether the prototypes have a memory.
    """
    name, needs = type(margin).__name__, sample_margin(margin)
    if needs.needs_all_classes and sample_rate < 1.0:
        raise ValueError(
            f"{name} weights a sample's own class against the sum over all others, and sample_rate would drop"
            " a part of it; remove one of the two"
        )
    if filter_bound is not None and needs.changes_negatives:
        raise ValueError(
            f"filter_bound bounds omitted gradients by probabilities, but with {name}, which changes the logits of"
            " other classes, gradients do not follow probabilities; remove one of the two"
        )
    for title, term in (terms or {}).items():
        if term.adds_samples and variational:
            raise ValueError(
                f"{title} classifies past samples, which variational prototypes remember: a sample would meet its own"
                " feature. Take one of the two"
            )
        if term.adds_samples and needs.has_strength:
            raise ValueError(
                f"{title} classifies past samples, whose norm and difficulty {name} does not know; use a margin"
                f" of the cosine alone, such as ArcFace, or remove {title}"
            )
        if term.adds_negatives and needs.changes_loss:
            raise ValueError(
                f"{title} adds negatives to the denominator of a softmax, which {name} does not have; leave one of the"
                " two out"
            )
        if term.needs_prototype and subcenters > 1:
            raise ValueError(
                f"{title} asks for the prototype of a class, which has {subcenters} sub-centres; leave one of the two"
                " out"
            )


def bind_without_storage(terms: Iterable[Term]) -> dict[str, BoundTerm]:
    """Bound terms on the meta device, without storage, by the names that messages quote."""
    with torch.device("meta"):
        return {type(term).__name__: term.bind(1, 1) for term in terms}
