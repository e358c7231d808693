"""A class as a von Mises–Fisher distribution, from which each step draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn.functional import normalize

from vplface.prototypes.draw import Draw
from vplface.prototypes.memories import spread
from vplface.prototypes.memories.gaussian import Gaussian
from vplface.prototypes.memories.noise import across
from vplface.prototypes.memory import ReadRows, State

_ATTEMPTS = 64
"""Wood's method accepts at least about two thirds of its proposals in any dimension: 64 suffice."""


@dataclass(frozen=True)
class VonMisesFisher(Gaussian):
    """A draw from the density ∝ exp(κ_j·μ_j·x) on the sphere, the normal distribution's counterpart there.

    κ_j follows from R_j² = 1 − σ_j², the shrunk variance of ``spread``, by the approximation of Banerjee, Dhillon,
    Ghosh and Sra, "Clustering on the Unit Hypersphere using von Mises-Fisher Distributions", JMLR 2005:

        κ_j = (R_j·d − R_j³) / (1 − R_j²)

    The cosine w of a draw with μ_j is sampled by the rejection method of Wood, "Simulation of the von Mises Fisher
    distribution", 1994; its direction around μ_j, ξ, is that of a row of the bank:  draw = w·μ_j + √(1 − w²)·ξ. As with
    ``Gaussian``, E‖draw − R_j·μ_j‖² = σ_j², and beyond a few dozen dimensions the two hardly differ; in few
    dimensions, as when one looks at a sphere, this one is the maximum-entropy distribution with that mean.

    Options and costs are those of ``Gaussian``, plus some random numbers for each class and step, on the CPU.
    """

    def reader(self, state: State, draw: Draw) -> ReadRows:
        """Draw w of each class, and the bank row that gives its direction."""
        bank, timer = state["memory_bank"], state["timer"]
        dim = bank.shape[1]
        # on the CPU and in float64, so that a proposal is accepted on every device or on none
        kappa = concentration(spread.shrunk_variance(state, self.prior).cpu().double(), dim)
        w = cosines(kappa, dim, draw, (timer > 0).cpu()).to(device=bank.device, dtype=bank.dtype)
        along, aside = w.unsqueeze(1), (1.0 - w.square()).clamp_min_(0.0).sqrt_().unsqueeze(1)
        chosen = draw.below(self.bank, stream=1, device=bank.device)

        def read_rows(memory: Tensor, rows: Int[Tensor, " rows"] | slice) -> Float[Tensor, "rows dim"]:
            mean = memory[rows].to(bank.dtype)
            return (along[rows] * mean + aside[rows] * normalize(across(bank[chosen[rows]], mean), dim=1)).to(
                memory.dtype
            )

        return read_rows


def concentration(variance: Float64[Tensor, " classes"], dim: int) -> Float64[Tensor, " classes"]:
    """κ of a von Mises–Fisher distribution with R² = 1 − variance, by Banerjee et al.'s approximation."""
    length = (1.0 - variance).sqrt()
    return length * (dim - 1.0 + variance) / variance.clamp_min(1e-12)


def cosines(
    kappa: Float64[Tensor, " classes"], dim: int, draw: Draw, wanted: Bool[Tensor, " classes"]
) -> Float64[Tensor, " classes"]:
    """w = μ·x for x ~ vMF(μ, κ) in d ≥ 2 dimensions (Wood 1994); 1 where it is not needed.

    The proposals' symmetric Beta((d−1)/2, (d−1)/2) is computed from two uniform numbers as
    Z = ½(1 + √(1 − U^{2/(d−2)})·cos 2πV) (Ulrich, "Computer generation of distributions on the m-sphere", 1984).
    """
    w = torch.ones_like(kappa)
    waiting = wanted.nonzero().squeeze(1)
    for attempt in range(_ATTEMPTS):
        if len(waiting) == 0:
            break
        u, v, bar = (draw.uniform(2 + 3 * attempt + number)[waiting] for number in range(3))
        k = kappa[waiting]
        b = (dim - 1) / (2 * k + (4 * k.square() + (dim - 1) ** 2).sqrt())
        x0 = (1 - b) / (1 + b)
        z = 0.5 * (1 + (1 - (2 * u.log() / (dim - 2)).exp()).sqrt() * (2 * torch.pi * v).cos())
        proposal = (1 - (1 + b) * z) / (1 - (1 - b) * z)
        w[waiting] = proposal
        excess = k * (proposal - x0) + (dim - 1) * ((1 - x0 * proposal) / (1 - x0.square())).log()
        waiting = waiting[~(excess >= bar.log())]
    return w
