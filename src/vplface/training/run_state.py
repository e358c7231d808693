"""The state of a run: everything that a training step depends on, built from a configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from vplface.config import Config
from vplface.data.pictures import PictureSet, Preprocessing
from vplface.data.samplers import Batches
from vplface.errors import ConfigError
from vplface.head import PrototypeHead
from vplface.prototypes import CosineByAge, DriftStartRule, Variational
from vplface.run_folder import RunFolder
from vplface.stored_model import ModelCard
from vplface.training.distillation import Distillation
from vplface.training.distributed import DistributedContext
from vplface.training.drift import DriftMonitor
from vplface.training.evaluation_sets import people_of_fold
from vplface.training.freezing import Freezing, freezing_of
from vplface.training.moving_average import MovingAverage
from vplface.training.networks import backbone_of, device_of, head_of, optimizer_of, preprocessing_of
from vplface.training.parts import require_parts
from vplface.training.probe import PROBE_SIZE, probe_of
from vplface.training.ramps import Ramps
from vplface.training.schedules import LearningRate
from vplface.training.sources import open_training
from vplface.training.starting_point import StartingPoint
from vplface.training.teacher import teacher_of

KEPT = (16, 64)
"""Bounds on the number of drift measurements that are kept; it should cover a lifetime."""


@dataclass
class RunState:
    """Everything a run consists of, before its first step or restored to a later one.

    Attributes:
        config: the configuration.
        device: where the networks are.
        preprocessing: pictures → input of the backbone, in training and wherever the model is used later.
        pictures: the training pictures.
        heldout: identities kept aside for validation, if requested.
        batches: the pictures of each step.
        rate: learning rate over the run.
        ramps: the numbers of the head that change over the run.
        backbone: picture → embedding.
        freezing: which of its parameters and BatchNorm layers stand still in a step.
        head: embedding → loss.
        optimizer: of both, or of the backbone alone if the head has its own; biases and norms are not decayed.
        average: the moving average of the backbone, if there is one.
        drift: of the features of fixed pictures.
        encoder: the moving average of the backbone that writes the memory, if the backbone itself does not.
        start: the weights that those of the backbone are pulled towards, if they are.
        distillation: from a teacher, if there is one.
        step: steps taken.
        best: the best validation figure so far.
        stale: validations since then.
        unreadable: pictures that could not be read so far, with the reason.
    """

    config: Config
    device: torch.device
    preprocessing: Preprocessing
    pictures: PictureSet
    heldout: PictureSet | None
    batches: Batches
    rate: LearningRate
    ramps: Ramps
    backbone: nn.Module
    freezing: Freezing
    head: PrototypeHead
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    drift: DriftMonitor
    encoder: MovingAverage | None = None
    start: StartingPoint | None = None
    distillation: Distillation | None = None
    step: int = 0
    best: float | None = None
    stale: int = 0
    unreadable: set[str] = field(default_factory=set)

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimiser, and that of the head where it has its own."""
        return [self.optimizer, *([self.head.optimizer] if self.head.optimizer is not None else [])]

    @property
    def exhausted(self) -> bool:
        """Whether ``evaluation.patience`` validations in a row were no better than one before them."""
        patience = self.config.evaluation.patience
        return patience is not None and self.stale >= patience

    @property
    def folder(self) -> RunFolder:
        """The folder of the run."""
        return RunFolder(self.config.run_folder)

    @property
    def memory_encoder(self) -> nn.Module:
        """The network whose embeddings are remembered."""
        module: nn.Module = self.backbone if self.encoder is None else self.encoder.module
        return module

    @property
    def model(self) -> nn.Module:
        """The backbone to validate and to keep: the moving average where there is one."""
        model: nn.Module = self.backbone if self.average is None else self.average.module
        return model

    def model_card(self) -> ModelCard:
        """The card of :attr:`model` as it is now."""
        config = self.config
        return ModelCard(
            backbone=config.backbone.name,
            backbone_options=dict(config.backbone.options),
            embedding_dim=config.backbone.embedding_dim,
            preprocessing=self.preprocessing,
            training_data=", ".join(source.path.name for source in config.data.train),
            identities=len(self.pictures.identities),
            pictures=len(self.pictures),
            step=self.step,
            margin=str(config.margin),
            variational=None if self.head.variational is None else str(self.head.variational),
        )


def build_run(
    config: Config, context: DistributedContext | None = None, *, write: bool = True, weights: bool = True
) -> RunState:
    """Open the data and build networks, optimiser and schedule, all from ``config.seed``.

    Args:
        config: the configuration.
        context: the processes that share the run, each with classes of its own; None for this process alone.
        write: write generated faces to the folders of their sources; else each is generated when it is read.
        weights: load the backbone's file of weights; not needed where a checkpoint replaces them.

    Raises:
        ConfigError: if the configuration cannot be carried out.
        DataError: if pictures or weights are missing or damaged.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    context = DistributedContext() if context is None else context
    device, preprocessing = device_of(config.device, context.local_rank), preprocessing_of(config)
    tested = people_of_fold(config, write=write)
    pictures, heldout = open_training(config.data, config.evaluation.seed, tested, write=write)
    try:
        batches: Batches = config.data.sampler.batches(pictures.labels, config.batch_size, config.seed)
    except ValueError as error:
        raise ConfigError(f"data.sampler: {error}; raise batch_size") from error
    require_parts(config, batches, context.size)
    per_epoch = len(batches)
    rate = _learning_rate(config, per_epoch)
    backbone = backbone_of(config, device, weights=weights)
    freezing = freezing_of(config, backbone, per_epoch)
    variational = _variational(config, pictures, batches)
    terms = config.resolved_terms(per_epoch)
    head = head_of(config, len(pictures.identities), variational, terms, device, context.group)
    if variational is not None:
        head.by_age = CosineByAge()
    if context.rank:
        torch.manual_seed(config.seed + 1_000_003 * context.rank)  # ranks drop out different units
    run = RunState(
        config=config,
        device=device,
        preprocessing=preprocessing,
        pictures=pictures,
        heldout=heldout,
        batches=batches,
        rate=rate,
        ramps=Ramps(config, per_epoch),
        backbone=backbone,
        freezing=freezing,
        head=head,
        optimizer=optimizer_of(config, backbone, head),
        average=None if config.ema is None else MovingAverage(backbone, config.ema),
        drift=_monitor(config, probe_of(pictures), preprocessing, head, per_epoch, rate.steps),
        encoder=_momentum_encoder(config, backbone),
        distillation=_distillation(config, pictures, device),
        start=None if config.finetune.l2_sp is None else StartingPoint(backbone, config.finetune.l2_sp),
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


def _learning_rate(config: Config, per_epoch: int) -> LearningRate:
    schedule = config.schedule
    steps = schedule.length.steps(per_epoch)
    if steps < 1:
        raise ConfigError(f"schedule.length: {schedule.length} is less than one step of {per_epoch} per epoch")
    milestones = [milestone.steps(per_epoch) for milestone in schedule.milestones]
    return LearningRate(
        schedule.name, steps, schedule.warmup.steps(per_epoch), milestones, schedule.gamma, schedule.power
    )


def _variational(config: Config, pictures: PictureSet, batches: Batches) -> Variational | None:
    """The injection with its lifetime and start in steps."""
    if config.variational is None:
        return None
    sizes = np.bincount(pictures.labels, minlength=len(pictures.identities))
    try:
        return config.variational.resolve(len(batches), sizes, batches.batch_size)
    except ValueError as error:
        raise ConfigError(f"variational.delta_t: {error}") from error


def _momentum_encoder(config: Config, backbone: nn.Module) -> MovingAverage | None:
    """The moving average of the backbone that writes the memory, if the configuration asks for one."""
    if config.variational is None or config.variational.momentum is None:
        return None
    encoder = MovingAverage(backbone, config.variational.momentum)
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0  # batches do not touch the running statistics, which follow the backbone's
    return encoder


def _distillation(config: Config, pictures: PictureSet, device: torch.device) -> Distillation | None:
    if config.distill is None:
        return None
    teacher = teacher_of(config.distill.teacher, pictures, device, config.distill.preprocessing)
    return Distillation(teacher, config.distill.weights, config.backbone.embedding_dim)


def _monitor(
    config: Config,
    probe: tuple[Tensor, Tensor],
    preprocessing: Preprocessing,
    head: PrototypeHead,
    per_epoch: int,
    steps: int,
) -> DriftMonitor:
    chosen = config.variational
    every = drift_every(config, per_epoch, head.delta_t)
    least, most = KEPT
    pictures, labels = probe
    try:
        return DriftMonitor(
            head,
            preprocessing(pictures).to(head.weight.device),
            labels,
            every=every,
            kept=min(max(math.ceil((head.delta_t or 0) / every), least), most),
            start=DriftStartRule() if chosen is None else chosen.start_rule(per_epoch),
            lifetime_drift=None if chosen is None else chosen.lifetime_drift,
            steps=steps,
        )
    except ValueError as error:
        raise ConfigError(f"variational: {error}") from error
