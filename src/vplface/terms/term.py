"""The interface of terms: hyper-parameters, which ``bind`` turns into a module that holds the state.

A term takes part in a step in one or several of four places:

- ``loss`` is added to the classification loss;
- ``negatives`` join the denominator of the softmax;
- ``past`` samples are classified beside those of the batch, and train the prototypes alone;
- ``remember`` ends the step, as it does for the memory: after the loss is formed, in no other step.

Every rank holds the whole batch, so all of them compute the same, and what is remembered is equal on all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vplface import devices
from vplface.bounds import require_whole
from vplface.margins import Margin
from vplface.prototypes import Injection


@dataclass(frozen=True)
class Batch:
    """A step as terms see it.

    Attributes:
        features: x, unit rows of all ranks. A gradient counts once, although every rank computes it.
        labels: y, global class ids.
        scale: s of the margin.
        step: steps taken before this one.
        prototypes: v of the classes with the given ids, on any rank, as constants.
        softmax: the mean loss of the batch over the prototypes of an injection into constant v, after a margin; on the
            backend of the head and over the classes that the step compares with.
    """

    features: Float[Tensor, "batch dim"]
    labels: Int[Tensor, " batch"]
    scale: float
    step: int
    prototypes: Callable[[Tensor], Tensor]
    softmax: Callable[[Injection, Margin], Tensor]


class Past(NamedTuple):
    """Samples of other steps.

    Attributes:
        features: constant unit rows.
        labels: global class ids.
    """

    features: Float[Tensor, "past dim"]
    labels: Int[Tensor, " past"]


class BoundTerm(nn.Module):
    """The state of a term, and its contribution in each of the places; by default nothing.

    Attributes:
        per_class: names of the buffers that have a row for each class here; all other state is equal on all ranks.
        whole_batch: whether a step has to be one forward pass.
        needs_prototype: whether it needs a single prototype of each class, so that sub-centres are refused.
        value: a figure of the last step, for logs; NaN for none.
    """

    per_class: tuple[str, ...] = ()
    whole_batch: bool = False
    needs_prototype: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.value = torch.tensor(torch.nan)

    @property
    def adds_negatives(self) -> bool:
        """Whether it has ``negatives``, which join the denominator of a softmax."""
        return type(self).negatives is not BoundTerm.negatives

    @property
    def adds_samples(self) -> bool:
        """Whether it has ``past`` samples."""
        return type(self).past is not BoundTerm.past

    def loss(self, batch: Batch) -> Float[Tensor, ""] | None:
        """A loss that is added to the classification loss; None for none."""
        return None

    def negatives(self, batch: Batch) -> Float[Tensor, " batch"] | None:
        """log Σ_k exp(s·cosθ_ik) over what each sample is compared with beside the classes; −∞ for nothing."""
        return None

    def past(self, batch: Batch) -> Past | None:
        """Samples that train the prototypes."""
        return None

    def remember(
        self, features: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"], rows: Int[Tensor, " batch"]
    ) -> None:
        """End a step.

        Args:
            features: features to remember, unit rows in the order of the global batch.
            labels: global class ids.
            rows: local row numbers of the labels; −1 for classes of other ranks.
        """


class Term(Protocol):
    """Hyper-parameters of a term."""

    def bind(self, classes: int, dim: int) -> BoundTerm:
        """The state of the term in one head.

        Args:
            classes: rows of W here.
            dim: d.
        """
        ...


def cosines(a: Float[Tensor, "rows dim"], b: Float[Tensor, "columns dim"]) -> Float[Tensor, "rows columns"]:
    """a·bᵀ, computed at least in float32, also under autocast."""
    kind = torch.promote_types(a.dtype, torch.float32)
    with devices.without_autocast(a.device):
        return a.to(kind) @ b.to(kind).t()


def require_positive(name: str, value: float) -> None:
    """Raise ValueError unless the value is positive and finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive, got {value}")


def require_steps(name: str, value: int) -> None:
    """Raise ValueError unless ``value`` is a whole number of at least 0."""
    require_whole(**{name: value})
    if value < 0:
        raise ValueError(f"{name} must be a step count of at least 0, got {value}")
