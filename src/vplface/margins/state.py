"""State of margins, the tensors ``margin_NAME`` of a head, and the results of a margin for the samples of a step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vplface import devices
from vplface.gradient_hooks import scale_gradient
from vplface.margins.margin import Margin
from vplface.margins.sample import Samples, sample_margin
from vplface.prototypes import Draw

_SAMPLES = 2**32
"""The first stream of random numbers for samples; those for classes come before it."""


class SampleMargins(NamedTuple):
    """The result of a margin for the samples of a batch, before the softmax; all None for a margin of the cosine alone.

    Attributes:
        strength: m_i of each sample.
        penalty: added to the loss.
        observed: the number of each sample that the state of the margin follows.
    """

    strength: Float[Tensor, " batch"] | None = None
    penalty: Float[Tensor, ""] | None = None
    observed: Float[Tensor, " batch"] | None = None

    def add_penalty(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The loss with the penalty, if there is one."""
        return loss if self.penalty is None else loss + self.penalty


def register_margin(
    head: nn.Module, margin: Margin, num_classes: int, *, device: torch.device | str | None, dtype: torch.dtype
) -> None:
    """Give a head the parameters that its margin learns, and buffers for the state of the margin.

    Args:
        head: gets them as ``margin_NAME``.
        margin: of the head.
        num_classes: N.
        device: where to put them.
        dtype: of W. Buffers are at least float32, in which small updates of a moving mean are not rounded away.
    """
    needs = sample_margin(margin)
    for name, value in needs.parameters(num_classes).items():
        head.register_parameter(f"margin_{name}", nn.Parameter(torch.tensor(value, device=device, dtype=dtype)))
    for name, value in needs.state.items():
        buffer = torch.tensor(value, device=device, dtype=torch.promote_types(dtype, torch.float32))
        head.register_buffer(f"margin_{name}", buffer)


def margin_keys(margin: Margin, num_classes: int) -> tuple[str, ...]:
    """The keys of a margin in the ``state_dict()`` of its head."""
    needs = sample_margin(margin)
    return tuple(f"margin_{name}" for name in (*needs.parameters(num_classes), *needs.state))


def margin_state(head: nn.Module, margin: Margin) -> dict[str, Tensor]:
    """The state of the margin of a head, by the margin's own names."""
    return {name: getattr(head, f"margin_{name}") for name in sample_margin(margin).state}


def set_margin_state(head: nn.Module, state: dict[str, Tensor]) -> None:
    """Replace the state of the margin of a head."""
    for name, value in state.items():
        setattr(head, f"margin_{name}", value)


def sample_margins(
    margin: Margin, state: dict[str, Tensor], samples: Samples, *, in_step: bool, world: int
) -> SampleMargins:
    """Compute the result of a margin for the samples of a batch.

    Args:
        margin: of the head.
        state: see ``margin_state``; it stays as it is.
        samples: of all ranks.
        in_step: whether they take part in a step; otherwise nothing is observed.
        world: number of ranks. Each computes the penalty of all norms, whose gradients are added up over ranks.
    """
    needs = sample_margin(margin)
    observed = needs.observe(samples).detach() if state and in_step else None
    if observed is not None:
        state = needs.learn(state, observed)
    penalty = needs.penalty(scale_gradient(samples.norms, 1.0 / world))
    return SampleMargins(needs.strength(samples, state), penalty, observed)


def sample_noise(like: Float[Tensor, " batch"], *, seed: int, step: int, part: int) -> Float[Tensor, " batch"]:
    """Standard normal numbers of the samples of a step; the same whatever the number of ranks.

    Args:
        like: a tensor of the shape, type and device of the result.
        seed: of the head.
        step: steps taken before; each has other numbers.
        part: forward passes of the step before; each has other numbers.
    """
    uniform = Draw(range(len(like)), seed, step).uniform(_SAMPLES + part)
    noise: Tensor = torch.special.ndtri(uniform.clamp_min(2.0**-54)).to(like.dtype)
    return devices.send(noise, like.device)
