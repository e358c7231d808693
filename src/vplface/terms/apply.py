"""Terms of a head: their state, and the loss of a step with all that they contribute."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vplface.gradient_hooks import scale_gradient
from vplface.once import once
from vplface.terms.term import Batch, BoundTerm, Term

_T = TypeVar("_T")

MainLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Takes unit features, class ids and further logits; returns the classification loss."""


class TermSet(nn.ModuleDict):
    """The terms of a head with their state, by name: that of the class in small letters.

    Args:
        terms: hyper-parameters, one of each class at most.
        classes: rows of W here.
        dim: d.

    Raises:
        ValueError: for two terms of one class.
    """

    def __init__(self, terms: Iterable[Term], classes: int, dim: int) -> None:
        self.titles: dict[str, str] = {}  # names as messages quote them
        bound: dict[str, BoundTerm] = {}
        for term in terms:
            title = type(term).__name__
            name = title.lower()
            if name in bound:
                raise ValueError(f"terms holds several {title}; keep one")
            bound[name] = term.bind(classes, dim)
            self.titles[name] = title
        super().__init__(bound)

    def by_title(self) -> dict[str, BoundTerm]:
        """The terms, by the name of their class."""
        return {self.titles[name]: term for name, term in self.bound().items()}

    def bound(self) -> dict[str, BoundTerm]:
        """The terms, by name."""
        return dict(self.items())  # type: ignore[arg-type]  # torch knows them as modules

    def loss(
        self, batch: Batch, features: Float[Tensor, "batch dim"], main: MainLoss, *, is_part: bool
    ) -> Float[Tensor, ""]:
        """The loss of a step, with all that the terms contribute.

        Args:
            batch: the step as the terms see it.
            features: the same unit rows, for the gradient of the classification loss.
            main: the classification loss.
            is_part: whether the step has had a forward pass before.

        Raises:
            ValueError: if two terms make a contribution of which there can be only one.
            RuntimeError: if a term needs the whole batch and the step has several forward passes.
        """
        terms, labels = self.bound(), batch.labels
        for name, term in terms.items():
            if is_part and term.whole_batch:
                raise RuntimeError(
                    f"{self.titles[name]} weights past samples against those of a whole batch, so a step cannot consist"
                    f" of several micro-batches; use the whole batch at once, or remove {self.titles[name]}"
                )
        rows, targets = features, labels
        negatives = _only("negatives", [term.negatives(batch) for term in terms.values()])
        past = _only("past", [term.past(batch) for term in terms.values()])
        if past is not None:
            # The mean is over more rows, but the gradient of an embedding is that of the mean over the batch.
            more = 1.0 + len(past.labels) / len(labels)
            rows = torch.cat([scale_gradient(features, more), past.features.to(features.dtype)])
            targets = torch.cat([labels, past.labels])
            if negatives is not None:
                nothing = negatives.new_full((len(past.labels),), -torch.inf)
                negatives = torch.cat([scale_gradient(negatives, more), nothing])
        loss = main(rows, targets, negatives)
        if past is not None:
            title = next(self.titles[name] for name, term in terms.items() if term.adds_samples)
            loss = once(loss, f"{title} treats past samples, which depend on W, as constants")
        # A backward pass runs in reverse order: everything that reads W runs before FusedSGD updates it.
        extra = [added for term in terms.values() if (added := term.loss(batch)) is not None]
        return torch.stack([loss, *extra]).sum()

    def remember(
        self, features: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"], rows: Int[Tensor, " batch"]
    ) -> None:
        """End a step; the arguments are those of ``BoundTerm.remember``."""
        for term in self.bound().values():
            term.remember(features, labels, rows)

    def last_values(self) -> dict[str, float]:
        """The ``value`` of each term in the last step in which it took part; none for a term that has not started."""
        values = {name: float(term.value) for name, term in self.bound().items()}
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def shared_keys(self) -> tuple[str, ...]:
        """Keys of the state that does not belong to classes and is equal on all ranks."""
        per_class = {f"{name}.{key}" for name, term in self.bound().items() for key in term.per_class}
        return tuple(key for key in self.state_dict() if key not in per_class)


def _only(place: str, contributions: list[_T | None]) -> _T | None:
    """The only contribution to a place; None without any."""
    found = [each for each in contributions if each is not None]
    if len(found) > 1:
        raise ValueError(f"{len(found)} terms give {place}, but only one may; keep one of them")
    return found[0] if found else None
