"""Quantiles of Student's t, from the incomplete beta function."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_TINY = 1e-300


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean: x̄ ± t·s/√k, with k − 1 degrees of freedom.

    Raises:
        ValueError: fewer than two values.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"an interval of a mean needs at least two values, got {count}")
    mean = float(np.mean(values))
    reach = t_quantile(0.975, count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return mean - reach, mean + reach


def t_quantile(probability: float, freedom: float) -> float:
    """The t with P(T ≤ t) = ``probability``, to about 12 digits.

    P(|T| > t) = I_x(ν/2, 1/2) with x = ν/(ν + t²), found by bisection (NIST Digital Library of Mathematical Functions,
    8.17).

    Args:
        probability: in (0, 1).
        freedom: ν > 0, the degrees of freedom.

    Raises:
        ValueError: an argument out of range.
    """
    if not 0.0 < probability < 1.0 or not freedom > 0:
        raise ValueError(f"need a probability in (0, 1) and freedom > 0, got {probability} and {freedom}")
    if probability < 0.5:
        return -t_quantile(1.0 - probability, freedom)
    two_tails = 2.0 * (1.0 - probability)

    def beyond(t: float) -> float:
        return incomplete_beta(freedom / (freedom + t * t), t * t / (freedom + t * t), freedom / 2.0, 0.5)

    low, high = 0.0, 1.0
    while beyond(high) > two_tails:
        low, high = high, 2.0 * high
    while high - low > 1e-14 * high:
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        low, high = (middle, high) if beyond(middle) > two_tails else (low, middle)
    return (low + high) / 2.0


def incomplete_beta(x: float, one_minus_x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22).

    Args:
        x: in 0..1.
        one_minus_x: 1 − x, without the cancellation that a small one would suffer.
        a: > 0.
        b: > 0.
    """
    if x <= 0.0 or one_minus_x <= 0.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):  # there the fraction of the other tail converges fast
        return 1.0 - incomplete_beta(one_minus_x, x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(one_minus_x)
    # Lentz's method: the fraction is the product of the ratios of successive numerators and denominators.
    value, c, d = 1.0, 1.0, 0.0
    for m in range(500):
        terms = [-(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))]
        if m:
            terms.insert(0, m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)))
        before = value
        for term in terms:
            d = 1.0 / ((1.0 + term * d) or _TINY)
            c = (1.0 + term / c) or _TINY
            value *= c * d
        if abs(value - before) < 1e-16 * abs(value):
            break
    return math.exp(log_front) / (a * value)
