"""Plan of a run: its length, cost and coverage, from its recipe and its data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from vplface.backbones.depth import depths
from vplface.backbones.folded_norm import describe_norms
from vplface.config import Config
from vplface.data.samplers import visits
from vplface.errors import ConfigError
from vplface.footprint import Footprint, NetworkSize, RunSize, footprint, lifetimes, network_of
from vplface.margins.sample import sample_margin
from vplface.plan.teacher import TeacherPlan, teacher_of
from vplface.plan.validations import ValidationPlan, validations_of
from vplface.prototypes import LastFeature, simulate_memory
from vplface.training.first_loss import expected_first_loss
from vplface.training.networks import learning_rates
from vplface.training.parts import require_parts
from vplface.training.ramps import Ramp
from vplface.training.run_state import RunState, build_run


@dataclass(frozen=True)
class Trained:
    """The parts of a backbone that train.

    Attributes:
        parameters: weights that train.
        frozen: weights that never move.
        waiting: of ``parameters``, those that stand still until the step ``until``.
        until: the step, counted from 0, from which they move; None if none waits.
        still_norms: BatchNorm layers that stand still for good.
        rates: base learning rate by depth, where weights train; a single one of depth −1 if all have the same.
    """

    parameters: int
    frozen: int
    waiting: int
    until: int | None
    still_norms: int
    rates: dict[int, float]


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of a step over all GPUs, two a multiply-add, and of the measurements of a run.

    Attributes:
        backbone: forward and backward, of all weights that ever train; and forward for a momentum encoder.
        head: three products with the compared classes: logits, and the gradients of embeddings and prototypes.
        teacher: forward.
        measured: of the embeddings of all evaluations of the run.
        share: of ``measured`` in the operations of the whole run.
    """

    backbone: int
    head: int
    teacher: int
    measured: int
    share: float


@dataclass(frozen=True)
class Plan:
    """The resolved shape of a run.

    Attributes:
        identities: classes.
        pictures: number of training pictures.
        steps_per_epoch: optimiser steps.
        steps: of the whole run.
        parameters: of the backbone.
        normalisation: BatchNorm of the backbone, where it comes from an ONNX file; else None.
        trained: which of them train.
        softmax: how the head computes it.
        footprint: memory, traffic and checkpoints.
        variational_start: step at which injection begins, "auto" where drift decides; None for plain prototypes.
        delta_t: lifetime of a memory in steps, or the longest it may be; None if plain, or if drift decides.
        coverage: share of classes whose memory will be alive; also for other lifetimes, in steps.
        own: share of pictures that will meet a living memory of their own class, by lifetime.
        first_loss: approximate loss of an untrained network, or of any with random prototypes.
        ramps: numbers that change along training, by their key in the recipe.
        teacher: the cost of the teacher; None without distillation.
        validations: what is measured, and how often; None for nothing.
        operations: floating-point operations.
    """

    identities: int
    pictures: int
    steps_per_epoch: int
    steps: int
    parameters: int
    normalisation: str | None
    trained: Trained
    softmax: str
    footprint: Footprint
    variational_start: int | Literal["auto"] | None
    delta_t: int | None
    coverage: dict[int, float]
    own: dict[int, float]
    first_loss: float
    ramps: dict[str, Ramp]
    teacher: TeacherPlan | None
    validations: ValidationPlan | None
    operations: Operations


def plan(config: Config, gpus: int = 1) -> Plan:
    """Open the data, build the networks and calculate the cost of training; nothing is written.

    Args:
        config: the run.
        gpus: processes that share it, each with a GPU.

    Raises:
        ConfigError: if the configuration cannot be carried out, or not on this number of GPUs.
        DataError: if pictures or lists are missing or damaged.
    """
    run = build_run(config, write=False)
    start = None if config.variational is None else config.variational.start_rule(len(run.batches))
    classes, dim = run.head.num_classes, run.head.embedding_dim
    variational = run.head.variational
    per_epoch = len(run.batches)
    steps, indices = visits(run.batches, 0, 2 * per_epoch)  # in the second epoch the first is remembered
    labels = run.pictures.labels[indices]
    memory = {
        delta_t: simulate_memory(steps, labels, classes, delta_t, since=per_epoch)
        for delta_t in lifetimes(run.head.delta_t or per_epoch)
    }
    size = _size(run, gpus)
    require_parts(config, run.batches, gpus)
    backbone = config.backbone
    frozen = {name for name, parameter in run.backbone.named_parameters() if not parameter.requires_grad}
    network = network_of(backbone.name, dim, size.pictures_a_pass, size.precision, frozen, **backbone.options)
    teacher, validations = teacher_of(run, gpus), validations_of(run)
    here = None if teacher is None or (teacher.on_cpu and run.device.type != "cpu") else teacher.size
    return Plan(
        identities=classes,
        pictures=len(run.pictures),
        steps_per_epoch=per_epoch,
        steps=run.rate.steps,
        parameters=network.parameters,
        normalisation=describe_norms(run.backbone),
        trained=_trained(run),
        softmax=run.head.implementation,
        footprint=footprint(size, network, here),
        variational_start=None if variational is None else start if isinstance(start, int) else "auto",
        delta_t=None if variational is None else variational.delta_t,
        coverage={delta_t: each.coverage for delta_t, each in memory.items()},
        own={delta_t: each.own for delta_t, each in memory.items()},
        ramps=run.ramps.by_key,
        teacher=teacher,
        validations=validations,
        operations=_operations(
            size, network, teacher, 0 if validations is None else validations.embedded, run.rate.steps
        ),
        first_loss=expected_first_loss(
            config.ramps.first_margin(config.margin), replace(size, sample_rate=config.sample_rates[0]).compared, dim
        ),
    )


def _size(run: RunState, gpus: int) -> RunSize:
    """The sizes of a run; raises ConfigError if its batch cannot be shared by so many GPUs."""
    config, variational = run.config, run.head.variational
    try:
        return RunSize(
            classes=run.head.num_classes,
            batch=run.batches.batch_size,
            gpus=gpus,
            dim=run.head.embedding_dim,
            precision=config.precision,
            fused=config.optimizer.is_fused,
            in_backward=config.update_in_backward,
            state={"sgd": 1 if config.optimizer.momentum else 0, "adamw": 2}[config.optimizer.name],
            variational=variational is not None,
            kind=LastFeature() if variational is None else variational.memory,
            terms=tuple(config.resolved_terms(len(run.batches))),
            subcenters=config.subcenters,
            sample_rate=max(config.sample_rates),
            scale=max(config.margin.scale, config.ramps.first_margin(config.margin).scale),
            norms=sample_margin(config.margin).uses_norms,
            accumulate=config.accumulate,
            average=config.ema is not None,
            encoder=config.variational is not None and config.variational.momentum is not None,
            start=run.start is not None,
            device=run.device.type,
            fused_step=run.head.takes_fused_step,
        )
    except ValueError as error:
        raise ConfigError(f"{error}; raise batch_size") from error


def _operations(
    size: RunSize, network: NetworkSize, teacher: TeacherPlan | None, embedded: int, steps: int
) -> Operations:
    """Operations of a run of so many steps, whose evaluations embed so many pictures."""
    backbone = size.batch * (network.forward * (1 + size.encoder) + network.backward)
    head = round(6 * size.batch * size.compared * size.subcenters * size.dim)
    of_teacher = 0 if teacher is None or teacher.size is None else size.batch * teacher.size.forward
    measured = embedded * network.forward
    share = measured / (measured + steps * (backbone + head + of_teacher))
    return Operations(backbone, head, of_teacher, measured, share)


def _rates(run: RunState) -> dict[int, float]:
    depth = depths(run.backbone)
    moving = {depth[name] for name, weight in run.backbone.named_parameters() if weight.requires_grad}
    return {place: rate for place, rate in learning_rates(run.config, run.backbone).items() if place in moving}


def _trained(run: RunState) -> Trained:
    """The parts of the backbone of a run that train."""
    config, weights = run.config, list(run.backbone.parameters())
    moving = sum(weight.numel() for weight in weights if weight.requires_grad)
    same = config.finetune.layer_decay == 1.0
    return Trained(
        parameters=moving,
        frozen=sum(weight.numel() for weight in weights) - moving,
        waiting=run.freezing.at_first,
        until=run.freezing.until,
        still_norms=len(run.freezing.still_norms(run.rate.steps)),
        rates={-1: config.optimizer.lr} if same else _rates(run),
    )
