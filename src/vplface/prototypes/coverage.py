"""Coverage: the share of classes whose memory is alive, measured and expected."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int64
from torch import Tensor

from vplface.prototypes.memory import living


def coverage(timer: Int[Tensor, "classes ..."] | None) -> float:
    """The share of classes with T_j > 0, in any slot; 0 before the memory exists."""
    return 0.0 if timer is None else float((living(timer) > 0).double().mean())


def expected_coverage(class_sizes: Int[np.ndarray, " classes"], batch_size: int, delta_t: int) -> float:
    """The coverage that shuffled sampling will reach: the mean over classes of 1 − exp(−p_j·B·Δt).

    Args:
        class_sizes: n_j, pictures per class; p_j = n_j/Σn.
        batch_size: B, over all ranks.
        delta_t: Δt, steps.
    """
    share = class_sizes / class_sizes.sum()
    return float(np.mean(-np.expm1(-share * batch_size * delta_t)))


def covering(class_sizes: Int[np.ndarray, " classes"], batch_size: int, target: float) -> int:
    """The smallest Δt whose ``expected_coverage`` reaches a target.

    Args:
        class_sizes: n_j ≥ 1, pictures per class.
        batch_size: B, over all ranks.
        target: share of classes, in (0, 1).

    Raises:
        ValueError: if the target lies outside its range, or cannot be reached because of classes without pictures.
    """
    if not 0.0 < target < 1.0:
        raise ValueError(f"a coverage target must lie in (0, 1), got {target}")
    reachable = float((class_sizes > 0).mean())
    if target >= reachable:
        raise ValueError(f"a coverage of {target} cannot be reached: only {reachable:.1%} of the classes have pictures")
    too_short, enough = 0, 1
    while expected_coverage(class_sizes, batch_size, enough) < target:
        too_short, enough = enough, 2 * enough
    while enough - too_short > 1:
        middle = (too_short + enough) // 2
        if expected_coverage(class_sizes, batch_size, middle) < target:
            too_short = middle
        else:
            enough = middle
    return enough


class SimulatedMemory(NamedTuple):
    """Statistics of the memory under an order of pictures.

    Attributes:
        own: share of the pictures that meet a living memory of their own class.
        age: mean age of those memories, in steps; NaN if there are none.
        coverage: share of classes with a living memory, T_j > 0, mean over the steps.
    """

    own: float
    age: float
    coverage: float


def simulate_memory(
    steps: Int64[np.ndarray, " pictures"],
    labels: Int64[np.ndarray, " pictures"],
    num_classes: int,
    delta_t: int,
    since: int,
) -> SimulatedMemory:
    """Follow the timers over a given order of pictures, from an empty memory.

    Args:
        steps: the step in which each picture is seen.
        labels: its class.
        num_classes: N.
        delta_t: Δt, steps.
        since: the first step that is counted.
    """
    order = np.lexsort((steps, labels))
    step, label = steps[order], labels[order]
    new = np.ones(len(step), dtype=bool)  # otherwise a class occurs again in the same step, which makes no new memory
    new[1:] = (step[1:] != step[:-1]) | (label[1:] != label[:-1])
    pictures = np.diff(np.append(np.flatnonzero(new), len(step)))
    step, label = step[new], label[new]
    again = np.append(label[1:] == label[:-1], False)  # whether the class comes back
    age = np.full(len(step), delta_t + 1)
    age[1:][again[:-1]] = np.diff(step)[again[:-1]]
    alive = (age <= delta_t) & (step >= since)
    met = int(pictures[alive].sum())
    end = int(steps.max()) + 1
    dies = np.minimum(np.where(again, np.append(step[1:], end), end), step + delta_t)
    lived = np.maximum(np.minimum(dies, end) - np.maximum(step, since), 0).sum()
    return SimulatedMemory(
        own=met / int(pictures[step >= since].sum()),
        age=float((age * pictures)[alive].sum() / met) if met else float("nan"),
        coverage=float(lived / (num_classes * (end - since))),
    )
