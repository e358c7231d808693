"""What a margin is that looks at more than one cosine: at norms, at past steps, at chance, at the other classes.

A sample margin has two parts. Before the softmax, ``strength`` makes of all that it looks at one number m_i for each
sample. In the softmax, ``target`` and ``negative`` are functions of a cosine and of that number, which can be taken a
tile of classes at a time and on the rank where a class lives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

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
        noise: a standard normal number for each sample, others in every step; zeros in eval mode and under ``no_grad``.
    """

    norms: Float[Tensor, " batch"]
    cosines: Callable[[], Float[Tensor, " batch"]]
    noise: Callable[[], Float[Tensor, " batch"]]


class SampleMargin(Margin):
    """A margin with a strength m_i of its own for each sample; what is not said here is as without a margin.

    Attributes:
        uses_norms: whether ``norms`` are looked at.
        state: names of numbers that past steps leave to those that follow, and what they are at first. The head keeps
            them as buffers ``margin_NAME``, equal on all ranks.
    """

    uses_norms: ClassVar[bool] = False
    state: ClassVar[Mapping[str, float]] = {}

    @property
    def bound(self) -> float:
        """No logit of another class exceeds s times this in magnitude."""
        return 1.0

    @property
    def changes_negatives(self) -> bool:
        """Whether ``negative`` is anything but the cosine."""
        return False

    def strength(self, samples: Samples, state: Mapping[str, Tensor]) -> Float[Tensor, " batch"] | None:
        """m_i of each sample, None if all are alike; a gradient reaches the norms through it."""
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
        """What stands in place of the cosine with another class, element by element; −∞ leaves it out.

        Args:
            cosine: of samples and classes.
            target: t_i, constants that broadcast over classes.
            strength: m_i, likewise; None for that of an ordinary sample.
        """
        return cosine

    def observe(self, samples: Samples) -> Float[Tensor, " batch"]:
        """What the state follows, a number for each sample; asked where there is a state."""
        raise NotImplementedError

    def learn(self, state: Mapping[str, Tensor], observed: Float[Tensor, " batch"]) -> dict[str, Tensor]:
        """The state after a step, in new tensors.

        The strength of a forward pass follows from the state as it is with these samples, as the papers have it; what
        is kept follows from all samples of the step, once, when it ends.
        """
        raise NotImplementedError

    def penalty(self, norms: Float[Tensor, " batch"]) -> Float[Tensor, ""] | None:
        """What is added to the loss."""
        return None


def target_of(
    margin: Margin, cosine: Float[Tensor, " batch"], strength: Float[Tensor, " batch"] | None
) -> Float[Tensor, " batch"]:
    """t_i of any margin."""
    return margin.target(cosine, strength) if isinstance(margin, SampleMargin) else margin.target(cosine)


def negative_of(
    margin: Margin,
    cosine: Float[Tensor, "*shape"],
    target: Float[Tensor, "*samples"],
    strength: Float[Tensor, "*samples"] | None,
    threshold: float | None,
) -> Float[Tensor, "*shape"]:
    """What stands in place of the cosine with another class; −∞ where that exceeds a threshold."""
    others = margin.negative(cosine, target, strength) if isinstance(margin, SampleMargin) else cosine
    return others if threshold is None else others.masked_fill(cosine > threshold, -torch.inf)


def changes_negatives(margin: Margin, threshold: float | None) -> bool:
    """Whether the logits of other classes are anything but s·cosθ."""
    return threshold is not None or (isinstance(margin, SampleMargin) and margin.changes_negatives)


def has_strength(margin: Margin) -> bool:
    """Whether samples differ in more than their cosine."""
    return isinstance(margin, SampleMargin) and type(margin).strength is not SampleMargin.strength
