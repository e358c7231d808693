"""Forecast of a run from its sizes: cost, coverage and length."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vplface import bounds
from vplface.data.samplers import ShuffledBatches
from vplface.footprint.count import footprint
from vplface.footprint.network_size import NetworkSize
from vplface.footprint.parts import Footprint
from vplface.footprint.run_size import RunSize


@dataclass(frozen=True)
class Forecast:
    """Cost, coverage and length of a run, calculated without data.

    Attributes:
        footprint: memory, traffic and checkpoints.
        coverage: Δt in steps → expected share of the classes whose memory is alive, all of the same size.
        half_covered: the Δt at which it is one half.
        steps_per_epoch: optimiser steps; None without a number of pictures.
        steps: of the whole run; None without a number of epochs.
    """

    footprint: Footprint
    coverage: dict[int, float]
    half_covered: int
    steps_per_epoch: int | None
    steps: int | None


def forecast(
    run: RunSize, network: NetworkSize, delta_t: int, pictures: int | None = None, epochs: float | None = None
) -> Forecast:
    """Cost, coverage and length of a run from its sizes.

    Args:
        run: its sizes.
        network: the sizes of its backbone.
        delta_t: Δt ≥ 1, steps; coverage is given for others around it.
        pictures: of all classes together.
        epochs: length of the run.

    Raises:
        ValueError: for fewer pictures than classes or than a batch, for epochs of unknown length, or none.
    """
    per_epoch = steps = None
    if pictures is not None:
        if pictures < max(run.classes, run.batch):
            what = f"{run.classes:,} classes" if pictures < run.classes else f"a batch of {run.batch:,}"
            raise ValueError(f"{pictures:,} pictures are too few for {what}")
        per_epoch = len(ShuffledBatches(pictures, run.batch, seed=0))
    if epochs is not None:
        if not 0.0 < epochs <= bounds.LARGEST:
            raise ValueError(f"epochs must be positive, and at most {bounds.LARGEST:,}, got {epochs:g}")
        if per_epoch is None:
            raise ValueError("epochs need a number of pictures, from which their steps follow")
        steps = round(epochs * per_epoch)
    return Forecast(
        footprint=footprint(run, network),
        coverage={lifetime: run.coverage(lifetime) for lifetime in lifetimes(delta_t)},
        half_covered=max(math.ceil(math.log(2) * run.classes / run.batch), 1),
        steps_per_epoch=per_epoch,
        steps=steps,
    )


def lifetimes(delta_t: int) -> list[int]:
    """Lifetimes around the given one, each twice as long as the one before."""
    return sorted({max(round(delta_t * factor), 1) for factor in (0.25, 0.5, 1, 2, 4)})
