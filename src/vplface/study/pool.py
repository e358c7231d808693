"""Figures over seeds, and the paired difference of two arms over the seeds that both have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vplface.errors import ConfigError
from vplface.evaluation import Evaluation, compare
from vplface.evaluation.bootstrap import interval
from vplface.evaluation.student import t_interval

T_SEEDS = 3
"""From so many seeds on, Student's interval over seeds stands beside the bootstrap's."""


def pool(of_seeds: Sequence[Mapping[str, Evaluation]]) -> dict[str, Evaluation]:
    """One evaluation a set from those of several seeds: means, with replicates that resample people and seeds.

    Replicate r of a pooled figure is the mean, over as many seeds drawn with replacement, of their replicates r. The
    draw is the same for every arm, so that arms stay paired by seed. With few seeds it understates how much seeds
    differ by a factor of (k − 1)/k in variance.
    """
    if len(of_seeds) == 1:
        return dict(of_seeds[0])
    pooled = {}
    for name, evaluation in of_seeds[0].items():
        same = [evaluations[name] for evaluations in of_seeds]
        if len({one.fingerprint for one in same}) > 1:
            raise ConfigError(f"{name}: the seeds were not evaluated on the same pairs; use --overwrite")
        metrics: dict[str, dict[str, Any]] = {}
        replicates = {}
        for metric in evaluation.metrics:
            values = [one.metrics[metric]["value"] for one in same]
            if None in values:
                metrics[metric] = {"value": None, "reason": evaluation.metrics[metric].get("reason")}
                continue
            metrics[metric] = {
                "value": float(np.mean(values)),
                "std_over_seeds": float(np.std(values, ddof=1)),
                "per_seed": values,
            }
            if all(metric in one.replicates for one in same):
                stacked = np.stack([one.replicates[metric] for one in same])
                draws = np.random.default_rng(0).integers(len(same), size=stacked.shape)
                replicates[metric] = np.take_along_axis(stacked, draws, axis=0).mean(axis=0)
                ends = interval(replicates[metric], int(evaluation.protocol["identities"]))
                metrics[metric]["ci95"] = None if ends is None else list(ends)
        # Which pairs were told rightly is a matter of one seed.
        pooled[name] = replace(evaluation, metrics=metrics, replicates=replicates, correct=np.zeros(0, bool))
    return pooled


def paired(
    first: Mapping[int, Mapping[str, Evaluation]], second: Mapping[int, Mapping[str, Evaluation]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """How the second arm differs from the first, over the seeds that both have: {set: {metric: {...}}}.

    An entry holds ``difference``, the mean over seeds of second minus first; ``per_seed``; ``same_sign``, in how many
    of the ``seeds`` it has the sign of the mean; ``ci95``, of the bootstrap over people and seeds (see ``pool``), None
    without one; ``t_ci95``, from ``T_SEEDS`` seeds on: d̄ ± t·s/√k over the k differences of seeds, with k − 1 degrees
    of freedom, for these very people; and ``distinguishable``: there is a bootstrap interval, and 0 lies in neither.

    Args:
        first: {seed: {set: evaluation}}.
        second: the same of the other arm.

    Raises:
        ConfigError: the two were not evaluated on the same pairs.
    """
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        return {}
    pooled_first, pooled_second = (pool([arm[seed] for seed in seeds]) for arm in (first, second))
    differences: dict[str, dict[str, dict[str, Any]]] = {}
    for name in (name for name in pooled_first if name in pooled_second):
        try:
            resampled = compare(pooled_first[name], pooled_second[name])
        except ValueError as error:
            raise ConfigError(f"{name}: the arms were not evaluated on the same pairs") from error
        differences[name] = {}
        for metric, figure in pooled_first[name].metrics.items():
            other = pooled_second[name].metrics.get(metric, {})
            if figure["value"] is None or other.get("value") is None:
                continue
            per_seed = [
                second[seed][name].metrics[metric]["value"] - first[seed][name].metrics[metric]["value"]
                for seed in seeds
            ]
            mean = float(np.mean(per_seed))
            ends = resampled.get(metric, {}).get("ci95")
            entry: dict[str, Any] = {"difference": mean, "per_seed": per_seed, "seeds": len(seeds), "ci95": ends}
            entry["same_sign"] = int(np.sum(np.sign(per_seed) == np.sign(mean)))
            intervals = [ends]
            if len(seeds) >= T_SEEDS:
                entry["t_ci95"] = list(t_interval(per_seed))
                intervals.append(entry["t_ci95"])
            entry["distinguishable"] = all(each is not None and not each[0] <= 0 <= each[1] for each in intervals)
            differences[name][metric] = entry
    return differences
