"""Everything a step of training depends on, built from a configuration."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vplface.config import Config
from vplface.data.pictures import PictureSet, Preprocessing
from vplface.data.samplers import Batches
from vplface.errors import ConfigError, VplfaceError
from vplface.head import PrototypeHead
from vplface.prototypes import CosineByAge, DriftStartRule
from vplface.training.drift import DriftMonitor
from vplface.training.networks import backbone_of, device_of, head_of, optimizer_of
from vplface.training.parts import require_parts
from vplface.training.schedules import LearningRate
from vplface.training.sources import open_training
from vplface.training.world import World

PROBE_SIZE = 256
KEPT = (16, 64)
"""Measurements of drift that are kept: so many as reach back a lifetime, within these bounds."""


@dataclass
class Training:
    """Everything a run consists of, before its first step or restored to a later one.

    Attributes:
        config: what was asked for.
        device: where the networks are.
        pictures: what is trained on.
        heldout: identities kept aside for validation, if that was asked for.
        batches: which pictures make up which step.
        rate: learning rate over the run.
        backbone: picture → embedding.
        head: embedding → loss.
        optimizer: of both, or of the backbone alone if the head has its own; biases and norms are not decayed.
        average: the moving average of the backbone, if there is one.
        drift: of the features of fixed pictures.
        encoder: the moving average of the backbone that writes the memory, if the backbone itself does not.
        step: steps taken.
        best: the best validation figure so far.
        unreadable: pictures that could not be read so far, with the reason.
    """

    config: Config
    device: torch.device
    pictures: PictureSet
    heldout: PictureSet | None
    batches: Batches
    rate: LearningRate
    backbone: nn.Module
    head: PrototypeHead
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    drift: DriftMonitor
    encoder: AveragedModel | None = None
    step: int = 0
    best: float | None = None
    unreadable: set[str] = field(default_factory=set)

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimiser, and that of the head where it has its own."""
        return [self.optimizer, *([self.head.optimizer] if self.head.optimizer is not None else [])]

    @property
    def remembering(self) -> nn.Module:
        """Whose embeddings are remembered."""
        module: nn.Module = self.backbone if self.encoder is None else self.encoder.module
        return module

    @property
    def model(self) -> nn.Module:
        """The backbone to validate and to keep: the moving average where there is one."""
        model: nn.Module = self.backbone if self.average is None else self.average.module
        return model


def prepare(config: Config, world: World | None = None, *, write: bool = True) -> Training:
    """Open the data and build networks, optimiser and schedule, all from ``config.seed``.

    Args:
        config: what is asked for.
        world: who takes part, each with classes of its own; None for this process alone.
        write: generated faces to the folders of their sources; else they are drawn when they are asked for.

    Raises:
        ConfigError: if the configuration cannot be carried out.
        DataError: if pictures or weights are at fault.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    world = World() if world is None else world
    device = device_of(config.device, world.local_rank)
    pictures, heldout = open_training(config.data, config.evaluation.seed, write=write)
    try:
        batches: Batches = config.data.sampler.batches(pictures.labels, config.batch_size, config.seed)
    except ValueError as error:
        raise ConfigError(f"data.sampler: {error}; raise batch_size") from error
    require_parts(config, batches, world.size)
    per_epoch = len(batches)
    steps = config.schedule.length.steps(per_epoch)
    if steps < 1:
        raise ConfigError(f"schedule.length: {config.schedule.length} is less than one step of {per_epoch} per epoch")
    rate = LearningRate(
        config.schedule.name,
        steps,
        config.schedule.warmup.steps(per_epoch),
        [milestone.steps(per_epoch) for milestone in config.schedule.milestones],
        config.schedule.gamma,
        config.schedule.power,
    )
    backbone = backbone_of(config, device)
    variational = None
    if config.variational is not None:
        sizes = np.bincount(pictures.labels, minlength=len(pictures.identities))
        try:
            variational = config.variational.resolve(per_epoch, sizes, batches.batch_size)
        except ValueError as error:
            raise ConfigError(f"variational.delta_t: {error}") from error
    terms = config.resolved_terms(per_epoch)
    head = head_of(config, len(pictures.identities), variational, terms, device, world.group)
    if world.rank:
        torch.manual_seed(config.seed + 1_000_003 * world.rank)  # ranks drop out different units
    average = None if config.ema is None else _average(backbone, config.ema)
    encoder = None
    if config.variational is not None:
        head.by_age = CosineByAge()
        if config.variational.momentum is not None:
            encoder = _average(backbone, config.variational.momentum)
            for module in encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.momentum = 0.0  # batches do not touch the running statistics, which follow the backbone's
    run = Training(
        config,
        device,
        pictures,
        heldout,
        batches,
        rate,
        backbone,
        head,
        optimizer_of(config, backbone, head),
        average,
        _monitor(config, pictures, head, per_epoch, steps, device),
        encoder,
    )
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return run


def drift_every(config: Config, steps_per_epoch: int, delta_t: int | None) -> int:
    """Steps between two measurements of drift: ``config.drift_every``, or an eighth of Δt (of an epoch without one).

    A measurement takes no longer than training on ``PROBE_SIZE`` pictures does, see the docs. So as not to cost more
    than a fiftieth of the run, it is then never taken more often than every 50·PROBE_SIZE/B steps.
    """
    if config.drift_every is not None:
        return max(config.drift_every.steps(steps_per_epoch), 1)
    return max(math.ceil((delta_t or steps_per_epoch) / 8), math.ceil(50 * PROBE_SIZE / config.batch_size))


def _monitor(
    config: Config, pictures: PictureSet, head: PrototypeHead, per_epoch: int, steps: int, device: torch.device
) -> DriftMonitor:
    chosen = config.variational
    every = drift_every(config, per_epoch, head.delta_t)
    least, most = KEPT
    probe, labels = _probe(pictures)
    try:
        return DriftMonitor(
            head,
            Preprocessing()(probe).to(device),
            labels,
            every=every,
            kept=min(max(math.ceil((head.delta_t or 0) / every), least), most),
            start=DriftStartRule() if chosen is None else chosen.start_rule(per_epoch),
            lifetime_drift=None if chosen is None else chosen.lifetime_drift,
            steps=steps,
        )
    except ValueError as error:
        raise ConfigError(f"variational: {error}") from error


def _probe(pictures: PictureSet) -> tuple[Tensor, Tensor]:
    """The fixed pictures on which drift is measured, and their labels: readable ones, by twos of a class."""
    probe, labels = [], []
    for index in _probe_indices(pictures.labels).tolist():
        with contextlib.suppress(VplfaceError):
            probe.append(torch.from_numpy(pictures.picture(index)))
            labels.append(int(pictures.labels[index]))
    if not probe:
        raise ConfigError("none of the pictures can be read; look at one of them, and at the folder that was given")
    return torch.stack(probe), torch.tensor(labels)


def _probe_indices(labels: Int64[np.ndarray, " pictures"]) -> Int64[np.ndarray, " probe"]:
    """The first and the last picture of evenly spaced classes, filled up with evenly spaced pictures."""
    order = np.argsort(labels, kind="stable")
    ends = np.flatnonzero(np.diff(labels[order], append=-1))
    begins = np.append(0, ends[:-1] + 1)
    pairs = np.stack([order[begins], order[ends]], axis=1)[ends > begins]
    chosen = pairs[_evenly(len(pairs), PROBE_SIZE // 2)].ravel()
    others = np.setdiff1d(np.arange(len(labels)), chosen)
    return np.sort(np.append(chosen, others[_evenly(len(others), PROBE_SIZE - len(chosen))]))


def _evenly(count: int, most: int) -> Int64[np.ndarray, " k"]:
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64) if count else np.zeros(0, np.int64)


def _average(backbone: nn.Module, decay: float) -> AveragedModel:
    return AveragedModel(backbone, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
