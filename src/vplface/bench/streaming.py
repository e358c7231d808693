"""Throughput of a training loop that loads its pictures in worker processes, beside what its parts allow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vplface.bench.machine import cores, synchronize
from vplface.data.augment import Augmentation
from vplface.data.batches import load_batches
from vplface.data.formats.recordio import RecordIO
from vplface.data.samplers import ShuffledBatches
from vplface.data.workers import PREFETCH
from vplface.progress import progress

if TYPE_CHECKING:
    from vplface.bench.loop import Loop


def streamed(loop: Loop, records: RecordIO, parts: Mapping[str, float], workers: int, title: str) -> dict[str, Any]:
    """Time steps whose pictures come from worker processes, once the batches that they hold in advance are used up.

    Args:
        loop: to time, from whatever state it is in.
        records: its pictures.
        parts: median seconds of the parts of a step that loads its pictures itself.
        workers: number of worker processes, at least 1.
        title: of the progress bar.

    Returns:
        ``workers``; ``pictures_per_second``; ``allowed``: the most that the parts allow, and ``share`` of it.
    """
    setting = loop.problem.setting
    held = workers * (PREFETCH + 1) + 1
    steps = 4 * held
    batches = ShuffledBatches(len(records), setting.batch, seed=0)
    loaded = load_batches(records, batches, Augmentation(), 0, 0, held + steps, workers)
    streaming = replace(loop, pictures=_pictures(loaded))
    with progress(title, held + steps) as advance:
        for _ in range(held):
            streaming.step(lambda part: None)
            advance(1, "first batches")
        synchronize(setting.device)
        began = time.perf_counter()
        for _ in range(steps):
            streaming.step(lambda part: None)
            advance(1, f"{workers} workers")
        synchronize(setting.device)
        seconds = (time.perf_counter() - began) / steps
    allowed = setting.batch / least_seconds(parts, workers, setting.device)
    found = setting.batch / seconds
    return {"workers": workers, "pictures_per_second": found, "allowed": allowed, "share": found / allowed}


def least_seconds(parts: Mapping[str, float], workers: int, device: str) -> float:
    """The least seconds of a step whose pictures are loaded beside it.

    A step takes as long as its other parts, and as long as the workers take to load its batch. On a CPU both share the
    cores: then it also takes as long as all cores together need for the work of both.

    Args:
        parts: seconds of each part where one process does all of them in turn.
        workers: processes that load.
        device: of the other parts.
    """
    load = parts["load"]
    rest = sum(parts.values()) - load
    together = (rest * min(torch.get_num_threads(), cores()) + load) / cores() if device == "cpu" else 0.0
    return max(rest, load / workers, together)


def _pictures(loaded: Iterator[Any]) -> Iterator[Tensor]:
    for batch in loaded:
        yield batch.pictures
