"""Online estimates of the mean direction and the spread of the features of a class on the sphere.

Unit features with weights that sum to 1 have a mean m = Σ w_i·x_i = R·μ within the sphere, and their variance
V = Σ w_i·‖x_i − m‖² is 1 − R². So μ (in ``memory``), V and the effective number n = 1/Σ w_i² (Kish, "Survey Sampling",
1965) of a class are all that is kept. A step that sees x updates them, with a = max(1/(n+1), 1 − α),

    m ← m + a·(x − m)        V ← (1 − a)·(V + a·‖x − m‖²)        1/n ← (1 − a)²/n + a²

plain statistics at first, and exponential ones with the momentum α later (Finch, "Incremental calculation of weighted
mean and variance", 2009). A class whose memory has died starts again.

Before it is taken into the mean, x is a sample that the mean has not seen, with E‖x − m‖² = σ²(1 + 1/n). The residuals
r = (x − m)/√(1 + 1/n) of all classes give the variance σ² that they share. The variance of a class with few
samples, which is uncertain, is shrunk towards it, as if the class had κ more degrees of freedom:

    σ_j² = (n_j·V_j + κ·σ²) / (n_j − 1 + κ)

With n_j = 1 that is σ²; with many samples it is the unbiased variance of the class. The features drift while they are
collected, and σ² includes their drift in the meantime.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from vplface import devices
from vplface.bounds import require_whole
from vplface.prototypes.memory import State, number_type, read_rows, rows_here, write_rows

PER_CLASS = ("memory", "timer", "memory_variance", "memory_count")
"""μ [N, d], T [N], V [N], n [N]."""
SHARED = ("memory_shared_variance", "memory_residuals")
"""σ², and the number of residuals that it was estimated from."""
HORIZON = 4096
"""Residuals after which σ² forgets older ones."""
WIDEST = 0.99
"""The largest σ_j². At 1 a class has no mean direction."""


def require_in_range(momentum: float, prior: float, bank: int) -> None:
    """Check the options of kinds that estimate a spread.

    Raises:
        ValueError: naming the one that is out of its range.
    """
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
    if not 0.0 < prior < math.inf:
        raise ValueError(f"prior must be positive, got {prior}")
    require_whole(bank=bank)
    if bank < 1:
        raise ValueError(f"bank must hold at least 1 vector, got {bank}")


def unknown(classes: int, dtype: torch.dtype, device: torch.device) -> State:
    """The state, besides μ and T, of classes that have not been seen."""
    numbers = number_type(dtype)
    return {
        "memory_variance": torch.zeros(classes, dtype=numbers, device=device),
        "memory_count": torch.zeros(classes, dtype=numbers, device=device),
        "memory_shared_variance": torch.zeros((), dtype=numbers, device=device),
        "memory_residuals": torch.zeros((), dtype=torch.int64, device=device),
    }


def follow(
    state: State, features: Float[Tensor, "seen dim"], rows: Int[Tensor, " seen"], delta_t: int, momentum: float
) -> Float[Tensor, "seen dim+1"]:
    """Add a feature to the mean of each class and set its timer; the arguments are those of ``remember``.

    Returns:
        r, and in the last column 1; 0 for classes on other ranks, and for those that had no living memory.
    """
    memory, timer, variance, count = (state[name] for name in PER_CLASS)
    place = torch.where(rows >= 0, torch.arange(len(rows), device=rows.device), -1)
    residuals = features.new_zeros(len(features), features.shape[1] + 1, dtype=variance.dtype)
    _, place = rows_here(rows, place)
    rows, x = rows_here(rows, features.to(variance.dtype))
    known = read_rows(timer, rows) > 0
    n = torch.where(known, read_rows(count, rows), 0.0)
    v = torch.where(known, read_rows(variance, rows), 1.0)
    difference = x - (1.0 - v).clamp_min(0.0).sqrt().unsqueeze(1) * read_rows(memory, rows).to(x.dtype)
    rate = (1.0 / (n + 1.0)).clamp_min(1.0 - momentum)
    write_rows(memory, rows, normalize(x - (1.0 - rate).unsqueeze(1) * difference, dim=1).to(memory.dtype))
    write_rows(variance, rows, (1.0 - rate) * (v + rate * difference.square().sum(1)))
    seen = torch.where(known, 1.0 / ((1.0 - rate).square() / n.clamp_min(1.0) + rate.square()), 1.0)
    write_rows(count, rows, seen)
    timer.sub_(1).clamp_(min=0)
    write_rows(timer, rows, timer.new_full(rows.shape, delta_t))
    write_rows(residuals, place, torch.cat([difference * (n / (n + 1.0)).sqrt().unsqueeze(1), known.unsqueeze(1)], 1))
    return residuals


def pool(state: State, squares: Float[Tensor, " seen"], known: Bool[Tensor, " seen"]) -> None:
    """Update σ² with the squared lengths of a step's residuals, of all ranks.

    Args:
        state: changed in place.
        squares: of each class that was seen.
        known: whether it has a residual.
    """
    variance, seen = state["memory_shared_variance"], state["memory_residuals"]
    count: int | Tensor
    if devices.reading_waits(squares.device):
        count = known.sum()
        mean = torch.where(known, squares, 0.0).sum() / count.clamp_min(1)
    else:
        squares = squares[known]
        if len(squares) == 0:
            return
        count, mean = len(squares), squares.mean()
    rate = count / (seen.clamp(max=HORIZON) + count).clamp_min(1)
    variance += rate * (mean - variance)
    seen += count


def pool_lengths(state: State, residuals: Float[Tensor, "seen components"], total: Callable[[Tensor], Tensor]) -> None:
    """The same from the results of ``follow`` on each rank; ranks exchange two numbers per class."""
    squares = residuals[:, :-1].square().sum(1)
    squares, known = total(torch.stack([squares, residuals[:, -1]], 1)).unbind(1)
    pool(state, squares, known > 0)


def shrunk_variance(state: State, prior: float) -> Float[Tensor, " classes"]:
    """σ_j² of each class, ``prior`` being κ; at most WIDEST. A class without samples has σ²."""
    count, shared = state["memory_count"], state["memory_shared_variance"]
    variance = (count * state["memory_variance"] + prior * shared) / ((count - 1.0).clamp_min(0.0) + prior)
    return variance.clamp_max(WIDEST)
