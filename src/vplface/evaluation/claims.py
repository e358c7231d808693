r"""Claims about a false match rate: how many people one needs, whatever people have in common.

People are drawn independently; pairs of them are not independent, because one person is in many. A person who resembles
everybody makes many false matches at once, and a set in which that person is missing makes none. So a claim counts
people, not pairs.

Let p be the false match rate, and give each pair of people a weight, such that the weights of the pairs of one person
sum to at most 1. Let m be the largest total of such weights, the fractional matching number of the graph of pairs: for
all pairs of n people m = n/2, and for pairs in which nobody occurs twice the number of pairs. By the inequality of
Finner ("A generalization of Hölder's inequality and some probability inequalities", 1992) the probability of no false
match is at most (1 − p)^m, whoever resembles whom. It is that where some people match everybody. So with no false match

    p ≤ 1 − 0.05^(1/m) ≈ 3/m

with 95 % confidence: the rule of three, for m **independent comparisons**. A claim p ≤ FAR needs ln 0.05 / ln(1 − FAR)
of them, and twice as many people. If all pairs of people were independent, as is often assumed, m would be n(n − 1)/2.
With several pictures of a person, a false match of any two counts. People are taken to have the same rate, on average,
whatever the number of their pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from vplface.errors import import_extra

LEVEL = 0.05
"""The probability that a one-sided 95 % bound does not hold."""


@dataclass(frozen=True)
class Needed:
    """The size of a set that supports a claim, if it shows no false match.

    Attributes:
        far: the false accept rate that is claimed not to be exceeded.
        comparisons: independent comparisons, pairs of people in which nobody occurs twice.
        people: on these pairs. All pairs of so many people give no more independent comparisons.
        fewest_people: people that would do if all pairs of people were independent of each other.
        fewest_pairs: pairs of people that these give.
    """

    far: float
    comparisons: int
    people: int
    fewest_people: int
    fewest_pairs: int


def needed(far: float) -> Needed:
    """The size of a set that supports a claim.

    Raises:
        ValueError: a rate that is not between 0 and 1.
    """
    if not 0 < far < 1:
        raise ValueError(f"a claim is about a false accept rate between 0 and 1, got {far:g}")
    exact = math.log(LEVEL) / math.log1p(-far)
    comparisons = math.ceil(exact)
    fewest = math.ceil((1 + math.sqrt(1 + 8 * comparisons)) / 2)
    return Needed(far, comparisons, math.ceil(2 * exact), fewest, fewest * (fewest - 1) // 2)


def bound_without_matches(comparisons: float, level: float = LEVEL) -> float:
    """The upper bound of a false match rate where no false match is seen: 1 − level^(1/comparisons)."""
    return -math.expm1(math.log(level) / comparisons) if comparisons else 1.0


def supported(comparisons: float, fars: Iterable[float]) -> dict[str, Any]:
    """The claims that a set supports if it shows no false match, JSON-ready.

    Args:
        comparisons: independent comparisons among its impostor pairs.
        fars: false accept rates that might be claimed.

    Returns:
        ``"independent_comparisons"``, ``"smallest_far"`` that can be claimed, and of each false accept rate that
        cannot ``"people_needed"``.
    """
    smallest = bound_without_matches(comparisons)
    return {
        "independent_comparisons": comparisons,
        "smallest_far": smallest,
        "people_needed": {f"{far:g}": needed(far).people for far in sorted(set(fars), reverse=True) if far < smallest},
    }


def independent_comparisons(people: Int[np.ndarray, "p 2"]) -> float:
    """The fractional matching number m of the graph of some pairs of people.

    It is half the largest matching of the bipartite graph that has each person on both sides and each pair twice.

    Args:
        people: on each pair; a pair may occur several times.
    """
    if not len(people):
        return 0.0
    sparse: Any = import_extra("scipy.sparse", "train")
    graphs: Any = import_extra("scipy.sparse.csgraph", "train")
    count = int(people.max()) + 1
    both = np.concatenate([people, people[:, ::-1]])
    graph = sparse.csr_matrix((np.ones(len(both), bool), both.T), shape=(count, count))
    matched = graphs.maximum_bipartite_matching(graph, perm_type="column")
    return float((matched >= 0).sum()) / 2
