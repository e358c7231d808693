"""The cost of log-likelihood ratios, C_llr, and its smallest value for the order of the scores, minC_llr.

With LLR(s) = ln p(s | one person) / p(s | two people),

    C_llr = ½ · mean over genuine pairs of log₂(1 + e^−LLR) + ½ · mean over impostor pairs of log₂(1 + e^LLR),

in bits. A ratio that says nothing, LLR = 0, costs 1. minC_llr is the cost after the best monotone map of the scores, so
that C_llr − minC_llr is lost by calibration and minC_llr by discrimination. Source: Brümmer and du Preez,
"Application-independent evaluation of speaker detection", Computer Speech & Language 20, 2006.

Pairs are counted in bins of similarity; a pair has the score of the centre of its bin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from vplface.errors import import_extra


def cllr(
    llr: Float64[np.ndarray, " bins"], genuine: Float[np.ndarray, " bins"], impostor: Float[np.ndarray, " bins"]
) -> float:
    """C_llr in bits; NaN without pairs of both kinds.

    Args:
        llr: log-likelihood ratio of each bin, natural logarithm; infinite only where no pair disagrees.
        genuine: weight of the genuine pairs in each bin.
        impostor: weight of the impostor pairs in each bin.
    """
    sides = ((genuine, np.logaddexp(0.0, -llr)), (impostor, np.logaddexp(0.0, llr)))
    with np.errstate(invalid="ignore"):
        means = [np.sum(weight[weight > 0] * cost[weight > 0]) / weight.sum() for weight, cost in sides]
    return float(sum(means) / (2 * np.log(2)))


def monotone_llr(
    genuine: Float[np.ndarray, " bins"], impostor: Float[np.ndarray, " bins"]
) -> Float64[np.ndarray, " bins"]:
    """The log-likelihood ratio that rises with the score and has the smallest C_llr.

    The share of genuine pairs at a prior of ½ is made monotone by pooling adjacent violators. It is infinite where only
    one kind of pairs is. A bin without pairs has that of the next lower bin with pairs; the lowest bins have that of
    the first.

    Args:
        genuine: weight of the genuine pairs in each bin; some are above 0.
        impostor: weight of the impostor pairs in each bin; some are above 0.
    """
    optimize: Any = import_extra("scipy.optimize", "train")
    both = genuine / genuine.sum(), impostor / impostor.sum()
    weight = both[0] + both[1]
    filled = np.flatnonzero(weight)
    pooled = optimize.isotonic_regression(both[0][filled] / weight[filled], weights=weight[filled])
    bounds = pooled.blocks[:-1]
    block = np.repeat(np.arange(len(bounds)), np.diff(pooled.blocks))
    with np.errstate(divide="ignore"):
        ratio = np.log(np.add.reduceat(both[0][filled], bounds)) - np.log(np.add.reduceat(both[1][filled], bounds))
    place = np.searchsorted(filled, np.arange(len(weight)), side="right") - 1
    llr: Float64[np.ndarray, " bins"] = ratio[block][np.maximum(place, 0)]
    return llr


def min_cllr(genuine: Float[np.ndarray, " bins"], impostor: Float[np.ndarray, " bins"]) -> float:
    """minC_llr in bits; NaN without pairs of both kinds."""
    if not genuine.any() or not impostor.any():
        return float("nan")
    return cllr(monotone_llr(genuine, impostor), genuine, impostor)
