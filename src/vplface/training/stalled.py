"""Diagnosis of a run whose loss stays near its first value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vplface.margins.sample import sample_margin
from vplface.training.first_loss import expected_first_loss, lowest_loss
from vplface.training.run_state import RunState

NEAR = 0.97
"""A loss above this share of the first one stays near it."""
_FIRST, _LAST = 3, 5
"""Logged losses whose means are compared."""
_PATIENCE = 0.1, 200, 2000
"""The share of the steps after the warm-up, at least and at most how many, that a run has to learn something in."""
_SMALL_RATE = {"sgd": 1e-3, "adamw": 1e-5}


def judged_after(steps: int, warmup: int) -> int:
    """The step, counted from 1, from which the loss of a run is judged: the warm-up and a tenth of what follows.

    Args:
        steps: of the run.
        warmup: steps of the warm-up.
    """
    share, least, most = _PATIENCE
    return warmup + min(max(math.ceil(share * (steps - warmup)), least), most)


def diagnose(run: RunState, losses: Sequence[tuple[int, float]]) -> dict[str, Any] | None:
    """A diagnosis where the loss of a run stays near its first value; None where it does not.

    Losses are not compared while ``ramps`` change what they mean, nor where prototypes start from class means: the
    first loss is then not that of a network that has learned nothing.

    Args:
        run: after the last of these steps.
        losses: logged steps, counted from 1, and their losses.

    Returns:
        ``first`` and ``now``, means of the first and last losses; ``expected``, that of a network that has learned
        nothing; ``lowest``, that the scale allows; and ``advice``, what to try, most likely first.
    """
    if len(losses) < _FIRST + _LAST or run.ramps.values(0) != run.ramps.values(run.step):
        return None
    if run.config.prototypes == "means":
        return None
    first = sum(loss for _, loss in losses[:_FIRST]) / _FIRST
    now = sum(loss for _, loss in losses[-_LAST:]) / _LAST
    if now < NEAR * first:
        return None
    head = run.head
    compared = 1 + (head.num_classes - 1) * _share_of_classes(run)
    is_softmax = not sample_margin(head.margin).changes_loss
    found = {
        "first": first,
        "now": now,
        "expected": expected_first_loss(head.margin, compared, head.embedding_dim),
        "lowest": lowest_loss(head.margin.scale, compared) if is_softmax else 0.0,
    }
    causes = [_learning_rate(run, rises=now > first / NEAR)]
    if is_softmax:
        causes += _scale(head.margin.scale, compared, found)
    labels = "look at the labels (vplface data check): pictures of one person under many names teach nothing"
    ordered = sorted(causes, key=lambda cause: not cause[0])
    return {**found, "advice": [*(advice for _, advice in ordered), labels]}


def sentence(step: int, found: dict[str, Any]) -> str:
    """A diagnosis as one warning."""
    return (
        f"the loss stays near its first value: {found['first']:.2f} at first, {found['now']:.2f} after {step:,} steps"
        f" ({found['expected']:.2f} is expected of a network that has learned nothing). Try in this order: "
        + "; ".join(found["advice"])
    )


def _learning_rate(run: RunState, *, rises: bool) -> tuple[bool, str]:
    """Whether the learning rate is the likely cause, and what to do about it."""
    options = run.config.optimizer
    if rises:
        return True, f"lower optimizer.lr ({options.lr:g}) by a factor of ten, or lengthen schedule.warmup"
    advice = f"try another optimizer.lr ({options.lr:g}), ten times as large and a tenth"
    return options.lr < _SMALL_RATE[options.name], advice


def _scale(scale: float, compared: float, found: dict[str, float]) -> list[tuple[bool, str]]:
    """The same for the scale, of ``compared`` classes; empty where it is not at fault."""
    guessing = math.log(compared)
    if found["lowest"] > 0.5 * found["first"]:
        advice = f"raise margin.scale ({scale:g}): with {compared:,.0f} classes no loss below {found['lowest']:.2f}"
        return [(True, f"{advice} is possible")]
    if found["expected"] > 2.0 * guessing:
        advice = f"lower margin.scale ({scale:g}), or let the margin grow (ramps.margin.margin): guessing among"
        return [
            (False, f"{advice} {compared:,.0f} classes costs {guessing:.1f}, the first loss {found['expected']:.1f}")
        ]
    return []


def _share_of_classes(run: RunState) -> float:
    """The share of the classes that a step is expected to compare with: those drawn, and those of its batch."""
    rate = run.head.sample_rate
    of_batch = -math.expm1(-run.batches.batch_size / run.head.num_classes)
    return rate + (1.0 - rate) * of_batch
