"""The cost of a study before it is started: steps from the data, speed from finished runs or from a few steps."""

from __future__ import annotations

import dataclasses
import heapq
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from vplface.config import Config, VariationalConfig
from vplface.data.pictures import SIZE, PictureSet
from vplface.errors import ConfigError, DataError, VplfaceError
from vplface.progress import progress
from vplface.prototypes import Variational
from vplface.report import read_run
from vplface.run_folder import RunFolder
from vplface.study.grid import Cell, Grid
from vplface.study.single import standing
from vplface.terms import Term
from vplface.training.evaluation_sets import pictures_of_fold
from vplface.training.freezing import freezing_of
from vplface.training.networks import backbone_of, device_of, head_of, optimizer_of, preprocessing_of
from vplface.training.sources import open_training

WARM_UP, TIMED = 2, 3
"""Steps that are timed with random pictures where no finished run gives the speed."""


@dataclass(frozen=True)
class SetSize:
    """The size of an evaluation set, of which all pairs are compared.

    Attributes:
        people: number of people.
        pictures: number of their pictures.
        genuine: pairs of pictures of one person.
        impostors: pairs of pictures of two people.
    """

    people: int
    pictures: int
    genuine: int
    impostors: int

    @classmethod
    def of(cls, pictures: PictureSet) -> SetSize:
        """The size of a set."""
        each = np.bincount(pictures.labels).astype(np.int64)
        count, genuine = len(pictures), int((each * (each - 1) // 2).sum())
        return cls(len(pictures.identities), count, genuine, count * (count - 1) // 2 - genuine)


@dataclass(frozen=True)
class Cost:
    """The cost of one run.

    Attributes:
        cell: the run.
        identities: classes.
        pictures: number of training pictures.
        steps: of the whole run.
        taken: steps that its log holds already.
        state: see ``Standing``.
        pictures_per_second: of training.
        measured_on: the source of the speed: ``runs``, finished ones of the same backbone and batch, or ``random``
            pictures, a few steps of backbone and head without the loading of pictures.
        seconds: of training that are left.
        tested: the size of each evaluation set in the fold; empty where people are not divided.
    """

    cell: Cell
    identities: int
    pictures: int
    steps: int
    taken: int
    state: str
    pictures_per_second: float
    measured_on: Literal["runs", "random"]
    seconds: float
    tested: Mapping[str, SetSize] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """The cost of the chosen runs of a study.

    Attributes:
        costs: a run each.
        workers: number of runs at a time.
        seconds: until the last run is over; evaluation is not counted.
    """

    costs: Sequence[Cost]
    workers: int
    seconds: float


@dataclass(frozen=True)
class _Extent:
    identities: int
    pictures: int
    per_epoch: int
    steps: int
    tested: Mapping[str, SetSize]


def estimate(grid: Grid) -> Estimate:
    """Open the data and estimate what the chosen runs take; nothing is written, not even generated faces.

    Raises:
        ConfigError: naming a run that cannot be carried out.
        DataError: pictures or lists are missing or damaged.
    """
    extents: dict[str, _Extent] = {}
    speeds = _speeds_of_finished(grid)
    tried: dict[tuple[str, int], float] = {}
    costs = []
    with progress("estimating", len(grid.chosen)) as advance:
        for cell in grid.chosen:
            try:
                extent = _extent(cell.config, extents)
                found, speed = standing(cell.config), speeds.get(_kind(cell.config))
                measured_on: Literal["runs", "random"] = "runs"
                if speed is None:
                    measured_on, key = "random", (_kind(cell.config), extent.identities)
                    if key not in tried:
                        tried[key] = pictures_per_second(cell.config, extent.identities, extent.per_epoch)
                    speed = tried[key]
            except VplfaceError as error:
                raise (DataError if isinstance(error, DataError) else ConfigError)(f"{cell.name}: {error}") from error
            taken = 0
            if found.state in ("begun", "finished"):
                taken = int(RunFolder(cell.folder).last_metrics().get("step", 0))
            left = 0 if found.state == "finished" else max(extent.steps - taken, 0)
            costs.append(
                Cost(
                    cell,
                    extent.identities,
                    extent.pictures,
                    extent.steps,
                    taken,
                    found.state,
                    speed,
                    measured_on,
                    left * cell.config.batch_size / speed,
                    extent.tested,
                )
            )
            advance(1, cell.name)
    return Estimate(costs, grid.workers, lasting([cost.seconds for cost in costs], grid.workers))


def lasting(seconds: Sequence[float], workers: int) -> float:
    """When the last of some runs is over, if each goes to the first worker that is free."""
    free = [0.0] * workers
    for each in seconds:
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)


def pictures_per_second(config: Config, classes: int, per_epoch: int) -> float:
    """Speed of training on random pictures: backbone, head and the update of both, without loading.

    Args:
        config: the run.
        classes: of its data.
        per_epoch: steps of an epoch.
    """
    device, threads = device_of(config.device), torch.get_num_threads()
    torch.set_num_threads(config.threads or threads)
    generator = torch.Generator().manual_seed(0)
    backbone = backbone_of(config, device).train()
    freezing_of(config, backbone, per_epoch)  # what moves later counts as moving
    head = head_of(config, classes, _injected(config.variational), _started(config.resolved_terms(per_epoch)), device)
    optimizers = [optimizer_of(config, backbone, head), *([head.optimizer] if head.optimizer is not None else [])]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = 0.0
    preprocessing = preprocessing_of(config)
    parts = config.accumulate
    began = 0.0
    for step in range(WARM_UP + TIMED):
        if step == WARM_UP:
            began = _now(device)
        pictures = torch.randint(256, (config.batch_size, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
        labels = torch.randint(classes, (config.batch_size,), generator=generator).to(device)
        for optimizer in optimizers:
            optimizer.zero_grad()
        with head.micro_batches():
            for some, of in zip(pictures.tensor_split(parts), labels.tensor_split(parts), strict=True):
                with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                    loss = head(backbone(preprocessing(some).to(device)), of)
                loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    took = _now(device) - began
    torch.set_num_threads(threads)
    return TIMED * config.batch_size / took


def _injected(injection: VariationalConfig | None) -> Variational | None:
    """An injection whose first step costs as much as a step of the given one after its start."""
    if injection is None:
        return None
    return Variational(injection.lam, start=0, renormalise=injection.renormalise, memory=injection.memory)


def _started(terms: Sequence[Term]) -> list[Any]:
    """Terms whose first step costs as much as a step of the given ones after their start."""
    # Every term is a dataclass, which the protocol Term cannot express.
    return [dataclasses.replace(term, start=0) if hasattr(term, "start") else term for term in terms]  # type: ignore[type-var]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _extent(config: Config, known: dict[str, _Extent]) -> _Extent:
    """The size of the data of a run; opened once for all runs that share them."""
    relevant = (config.data, config.batch_size, config.evaluation.seed, config.schedule.length)
    key = repr(relevant if config.fold is None else (*relevant, config.fold, config.evaluation))
    if key not in known:
        tested = pictures_of_fold(config, write=False)
        people = {name for of_set in tested.values() for name in of_set.identities}
        pictures, _ = open_training(config.data, config.evaluation.seed, people, write=False)
        try:
            per_epoch = len(config.data.sampler.batches(pictures.labels, config.batch_size, config.seed))
        except ValueError as error:
            raise ConfigError(f"data.sampler: {error}; raise batch_size") from error
        steps = config.schedule.length.steps(per_epoch)
        known[key] = _Extent(
            len(pictures.identities),
            len(pictures),
            per_epoch,
            steps,
            {name: SetSize.of(of_set) for name, of_set in tested.items()},
        )
    return known[key]


def _kind(config: Config) -> str:
    """The part of a configuration that decides the speed of training, as a key."""
    relevant = config.model_dump(
        mode="json", include={"batch_size", "accumulate", "precision", "device", "threads", "terms", "finetune"}
    )
    relevant |= {"backbone": config.backbone.model_dump(mode="json", exclude={"weights"})}
    return json.dumps(relevant, sort_keys=True)


def _speeds_of_finished(grid: Grid) -> dict[str, float]:
    """The median speed in the logs of finished runs, by kind."""
    logged: dict[str, list[float]] = {}
    for cell in grid.cells:
        if standing(cell.config).state == "finished":
            speeds = [
                line["pictures_per_second"]
                for line in read_run(cell.folder).training
                if isinstance(line.get("pictures_per_second"), int | float)
            ]
            logged.setdefault(_kind(cell.config), []).extend(speed for speed in speeds if speed > 0)
    return {kind: float(np.median(speeds)) for kind, speeds in logged.items() if speeds}
