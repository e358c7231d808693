"""McNemar's exact test: do two models err on the same questions equally often?

Only the questions that one model answers rightly and the other wrongly tell. If neither model is better, each of these
n is a toss of a fair coin, so that the smaller of the two counts is binomial(n, ½).
"""

from __future__ import annotations

import numpy as np


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value, min(1, 2·P(X <= min(only_first, only_second))) with X ~ binomial(n, ½).

    It takes the questions to be independent. Pairs that share a person are not: where it and the bootstrap over people
    disagree, believe the bootstrap.

    Args:
        only_first: questions that the first model alone answers rightly.
        only_second: questions that the second model alone answers rightly.

    Raises:
        ValueError: a negative count.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"counts cannot be negative, got {only_first} and {only_second}")
    n, fewer = only_first + only_second, min(only_first, only_second)
    k = np.arange(1, fewer + 1)
    log_terms = np.concatenate([[0.0], np.cumsum(np.log((n + 1 - k) / k))]) - n * np.log(2.0)
    return min(1.0, 2.0 * float(np.exp(log_terms).sum()))
