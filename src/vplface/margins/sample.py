"""The interface of margins that depend on more than one cosine: on norms, past steps, chance, or the other classes.

A sample margin has two parts. Before the softmax, ``strength`` computes one number m_i for each sample from its
inputs. In the softmax, ``target`` and ``negative`` are functions of a cosine and of that number, which can be computed
for a tile of classes at a time, and on the rank of the class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vplface.margins.margin import Margin


@dataclass(frozen=True)
class Samples:
    """The samples of a forward pass, those of all ranks, as a margin sees them before the softmax.

    Attributes:
        norms: a_i, the length of each embedding before it was normalised; ones unless the margin ``uses_norms``.
        cosines: of each sample with its own class, as constants.
        noise: a standard normal number for each sample, new in every step; zeros in eval mode and under ``no_grad``.
    """

    norms: Float[Tensor, " batch"]
    cosines: Callable[[], Float[Tensor, " batch"]]
    noise: Callable[[], Float[Tensor, " batch"]]


@dataclass(frozen=True)
class BinaryLoss:
    """A binary classification for every class, in place of the softmax: with the logits z_ij the loss of sample i is

        w/s·( λ·log(1 + exp(−z_iy)) + (1 − λ)·Σ_{j≠y} log(1 + exp(z_ij)) )

    Attributes:
        weight: w > 0.
        own_share: λ in (0, 1), the weight of the own class.
    """

    weight: float
    own_share: float


class SampleMargin(Margin):
    """A margin with a strength m_i of its own for each sample; every method defaults to no margin at all.

    Attributes:
        uses_norms: whether ``norms`` are used.
        needs_all_classes: whether a step has to compare with all classes, without ``sample_rate``.
        state: names and initial values of numbers that are kept from step to step. The head keeps them as buffers
            ``margin_NAME``, equal on all ranks.
    """

    uses_norms: ClassVar[bool] = False
    needs_all_classes: ClassVar[bool] = False
    state: ClassVar[Mapping[str, float]] = {}

    @property
    def binary_loss(self) -> BinaryLoss | None:
        """The loss that replaces the softmax; None for the softmax."""
        return None

    @property
    def changes_loss(self) -> bool:
        """Whether the loss is not a softmax, so that the probabilities of classes are independent."""
        return self.binary_loss is not None

    @property
    def has_strength(self) -> bool:
        """Whether samples differ in more than their cosine."""
        return type(self).strength is not SampleMargin.strength

    def parameters(self, num_classes: int) -> Mapping[str, float]:
        """Names and first values of numbers that are learned; the head has them as parameters ``margin_NAME``."""
        return {}

    @property
    def bound(self) -> float:
        """Bound: no logit of another class exceeds s times this in magnitude."""
        return 1.0

    @property
    def changes_negatives(self) -> bool:
        """Whether ``negative`` differs from the cosine."""
        return False

    def strength(self, samples: Samples, state: Mapping[str, Tensor]) -> Float[Tensor, " batch"] | None:
        """m_i of each sample, None if it is the same for all; a gradient reaches the norms through it."""
        return None

    def target(
        self, cosine: Float[Tensor, " batch"], strength: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        """The cosine of each sample with its own class, after the margin, before the scale.

        Args:
            cosine: before it.
            strength: m_i; None for that of an ordinary sample, for forecasts and instruments.
        """
        raise NotImplementedError

    def negative(
        self,
        cosine: Float[Tensor, "*shape"],
        target: Float[Tensor, "*samples"],
        strength: Float[Tensor, "*samples"] | None,
    ) -> Float[Tensor, "*shape"]:
        """Replace the cosine with another class, element by element; −∞ leaves the class out.

        Args:
            cosine: of samples and classes.
            target: t_i, constants that broadcast over classes.
            strength: m_i, likewise; None for that of an ordinary sample.
        """
        return cosine

    def observe(self, samples: Samples) -> Float[Tensor, " batch"]:
        """The number of each sample that the state follows; used only by margins with a state."""
        raise NotImplementedError

    def learn(self, state: Mapping[str, Tensor], observed: Float[Tensor, " batch"]) -> dict[str, Tensor]:
        """The state after a step, in new tensors.

        The strength of a forward pass uses the state updated with its own samples, as in the papers; the state that is
        kept is updated once, at the end of the step, with all of its samples.
        """
        raise NotImplementedError

    def penalty(self, norms: Float[Tensor, " batch"]) -> Float[Tensor, ""] | None:
        """A term that is added to the loss; None for none."""
        return None

    def expected_loss(
        self, own: float, others: Float[Tensor, " nodes"], shares: Float[Tensor, " nodes"], classes: float
    ) -> float:
        """Loss of a sample before the first step, from the distribution of its logits with other classes.

        Args:
            own: its logit with its own class.
            others: the logits at the nodes of a quadrature, without what is learned.
            shares: weights of the nodes, with sum 1.
            classes: N.
        """
        mean = float((others + shares.log()).logsumexp(0))
        return float(np.logaddexp(own, math.log(classes - 1) + mean)) - own


class _CosineMargin(SampleMargin):
    """A margin of the cosine alone, in the form of a sample margin."""

    def __init__(self, margin: Margin) -> None:
        self._margin = margin

    @property
    def scale(self) -> float:
        return self._margin.scale

    def target(
        self, cosine: Float[Tensor, " batch"], strength: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        return self._margin.target(cosine)


def sample_margin(margin: Margin) -> SampleMargin:
    """Any margin in the form of a sample margin, with the properties of one."""
    return margin if isinstance(margin, SampleMargin) else _CosineMargin(margin)


def negative_of(
    margin: Margin,
    cosine: Float[Tensor, "*shape"],
    target: Float[Tensor, "*samples"],
    strength: Float[Tensor, "*samples"] | None,
    threshold: float | None,
) -> Float[Tensor, "*shape"]:
    """The cosine with another class as ``margin`` changes it; −∞ where the cosine exceeds ``threshold``."""
    others = sample_margin(margin).negative(cosine, target, strength)
    return others if threshold is None else others.masked_fill(cosine > threshold, -torch.inf)


def changes_negatives(margin: Margin, threshold: float | None) -> bool:
    """Whether the logits of other classes differ from s·cosθ."""
    return threshold is not None or sample_margin(margin).changes_negatives
