"""McNemar's exact test: whether two models err equally often on the same questions.

Only the questions that exactly one of the models answers correctly carry information. If neither model is better, each
of these n is the toss of a fair coin, so the smaller of the two counts is binomial(n, ½).
"""

from __future__ import annotations

from typing import Any

from vplface.errors import import_extra

special: Any = import_extra("scipy.special", "train")  # scipy.stats takes a second to import


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value, min(1, 2·P(X <= min(only_first, only_second))) with X ~ binomial(n, ½).

    The test assumes independent questions. Pairs that share a person are not independent: where the test and the
    bootstrap over people disagree, trust the bootstrap.

    Args:
        only_first: number of questions that only the first model answers correctly.
        only_second: number of questions that only the second model answers correctly.

    Raises:
        ValueError: a negative count.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"counts cannot be negative, got {only_first} and {only_second}")
    return min(1.0, 2.0 * float(special.bdtr(min(only_first, only_second), only_first + only_second, 0.5)))
