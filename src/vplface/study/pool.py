"""Figures over seeds, and the paired difference of two arms over the seeds that both have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vplface.errors import ConfigError
from vplface.evaluation import Evaluation
from vplface.evaluation.figure import Difference, Figure, Interval, Seeds
from vplface.evaluation.result import paired_differences
from vplface.evaluation.student import t_interval

T_SEEDS = 3
"""Minimum number of seeds for Student's interval over seeds."""


def pool(of_seeds: Sequence[Mapping[str, Evaluation]]) -> dict[str, Evaluation]:
    """One evaluation per set from those of several seeds: means, with replicates that resample people and seeds.

    Replicate r of a pooled figure is the mean, over as many seeds drawn with replacement, of their replicates r. The
    draw is the same for every arm, so that arms stay paired by seed. With few seeds it understates the variance
    between seeds, by a factor of (k − 1)/k.
    """
    if len(of_seeds) == 1:
        return dict(of_seeds[0])
    pooled = {}
    for name, evaluation in of_seeds[0].items():
        same = [evaluations[name] for evaluations in of_seeds]
        if len({one.fingerprint for one in same}) > 1:
            raise ConfigError(f"{name}: the seeds were not evaluated on the same pairs; use --overwrite")
        metrics: dict[str, Figure] = {}
        replicates = {}
        for metric, figure in evaluation.metrics.items():
            values = [value for one in same if (value := one.metrics[metric].value) is not None]
            if len(values) < len(same):
                metrics[metric] = Figure(None, details={"reason": figure.details.get("reason")})
                continue
            over_seeds = {"std_over_seeds": float(np.std(values, ddof=1)), "per_seed": values}
            pooled_figure = Figure(float(np.mean(values)), None, over_seeds, int(evaluation.protocol["identities"]))
            if all(metric in one.replicates for one in same):
                stacked = np.stack([one.replicates[metric] for one in same])
                draws = np.random.default_rng(0).integers(len(same), size=stacked.shape)
                replicates[metric] = np.take_along_axis(stacked, draws, axis=0).mean(axis=0)
                pooled_figure = pooled_figure.resampled(replicates[metric])
            metrics[metric] = pooled_figure
        # Which pairs were classified correctly is known only for each seed.
        pooled[name] = replace(evaluation, metrics=metrics, replicates=replicates, correct=np.zeros(0, bool))
    return pooled


def paired(
    first: Mapping[int, Mapping[str, Evaluation]], second: Mapping[int, Mapping[str, Evaluation]]
) -> dict[str, dict[str, Difference]]:
    """How the second arm differs from the first, the mean over the seeds that both have: {set: {metric: difference}}.

    The interval of a difference is that of the bootstrap over people and seeds, see :func:`pool`. From ``T_SEEDS``
    seeds on there is also Student's: d̄ ± t·s/√k over the k differences of seeds, with k − 1 degrees of freedom.

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
    differences: dict[str, dict[str, Difference]] = {}
    for name in (name for name in pooled_first if name in pooled_second):
        try:
            resampled = paired_differences(pooled_first[name], pooled_second[name])
        except ValueError as error:
            raise ConfigError(f"{name}: the arms were not evaluated on the same pairs") from error
        differences[name] = {}
        for metric, figure in pooled_first[name].metrics.items():
            other = pooled_second[name].metrics.get(metric)
            if figure.value is None or other is None or other.value is None:
                continue
            before, after = (
                np.array([arm[seed][name].metrics[metric].value for seed in seeds], np.float64)
                for arm in (first, second)
            )
            per_seed = tuple((after - before).tolist())
            by_people = resampled[metric].interval if metric in resampled else None
            differences[name][metric] = _over_seeds(per_seed, by_people)
    return differences


def _over_seeds(per_seed: tuple[float, ...], by_people: Interval | None) -> Difference:
    """The mean difference; distinguishable if neither the bootstrap's interval nor Student's contains 0."""
    mean = float(np.mean(per_seed))
    by_seeds = t_interval(per_seed) if len(per_seed) >= T_SEEDS else None
    intervals = [by_people] if by_seeds is None else [by_people, by_seeds]
    return Difference(
        mean,
        by_people,
        distinguishable=all(ends is not None and not ends[0] <= 0 <= ends[1] for ends in intervals),
        over_seeds=Seeds(per_seed, int(np.sum(np.sign(per_seed) == np.sign(mean))), by_seeds),
    )
