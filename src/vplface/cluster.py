"""What training takes on each of many GPUs: arithmetic from a few numbers, without data and without a GPU."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vplface import bounds
from vplface.backbones import build
from vplface.data.samplers import ShuffledBatches
from vplface.prototypes import LastFeature
from vplface.prototypes import Memory as KindOfMemory
from vplface.ranks import shard
from vplface.softmax import Workspace
from vplface.softmax.tiled import BOUNDED, tile_bytes
from vplface.terms import Term

Precision = Literal["float32", "bfloat16"]

_FLOAT32, _INT64 = 4, 8
"""Bytes; W, embeddings, the backbone's weights and all gradients are float32."""
_NUMBERS_A_CLASS = 7
"""Lengths and the like, of which the softmax keeps one for each class."""


@dataclass(frozen=True)
class Job:
    """A run in numbers.

    Attributes:
        classes: N.
        batch: B, over all GPUs.
        gpus: P, each with a part of the batch and of the classes.
        dim: d.
        precision: of the products and of what the backbone keeps; weights and embeddings are float32.
        fused: whether W moves by FusedSGD, without a gradient.
        state: numbers that the optimiser keeps for a weight: 1 for SGD with momentum, 2 for AdamW.
        variational: whether there are M and T.
        memory_dtype: of M.
        kind: of memory.
        terms: that are added to the loss.
        subcenters: K.
        sample_rate: share of the classes that a step draws.
        workspace_mb: MiB for exponentials.
        scale: s of the margin.
        accumulate: parts in which a GPU takes its part of the batch.
        average: whether a moving average of the backbone is kept.
        encoder: whether a momentum encoder is, which writes the memory.
        device: kind of device, on which the size of a tile depends.

    Raises:
        ValueError: for sizes that make no sense.
    """

    classes: int
    batch: int
    gpus: int = 1
    dim: int = 512
    precision: Precision = "bfloat16"
    fused: bool = True
    state: int = 1
    variational: bool = True
    memory_dtype: str = "float32"
    kind: KindOfMemory = field(default_factory=LastFeature)
    terms: tuple[Term, ...] = ()
    subcenters: int = 1
    sample_rate: float = 1.0
    workspace_mb: float = 256
    scale: float = 64.0
    accumulate: int = 1
    average: bool = False
    encoder: bool = False
    device: str = "cuda"

    def __post_init__(self) -> None:
        for name, least in (("classes", 2), ("gpus", 1), ("dim", 1), ("accumulate", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.batch < self.gpus * (self.accumulate if self.gpus > 1 else 1):
            in_parts = f" in {self.accumulate} parts each" if self.accumulate > 1 else ""
            raise ValueError(f"a batch of {self.batch:,} cannot be shared by {self.gpus:,} GPUs{in_parts}")
        if not 0.0 < self.sample_rate <= 1.0:
            raise ValueError(f"sample_rate must lie in (0, 1], got {self.sample_rate}")
        if not 0.0 <= self.workspace_mb < math.inf:
            raise ValueError(f"workspace_mb must be finite and not negative, got {self.workspace_mb}")

    @property
    def pictures_a_pass(self) -> int:
        """The pictures of a forward pass, on the GPU that has most."""
        return math.ceil(math.ceil(self.batch / self.gpus) / self.accumulate)

    @property
    def product_bytes(self) -> int:
        """Of a number in a product."""
        return 2 if self.precision == "bfloat16" else _FLOAT32

    @property
    def compared(self) -> float:
        """The classes that a sample is expected to be compared with, its own included."""
        return 1 + (self.classes - 1) * self.share

    @property
    def share(self) -> float:
        """The share of the classes that a step is expected to compare with: those drawn, and those of its batch."""
        return self.sample_rate + (1.0 - self.sample_rate) * self.coverage(1)

    @property
    def bounded(self) -> bool:
        """Whether logits are so small that exponentials are summed as they are, and kept for the backward pass."""
        return self.scale + math.log(self.classes) <= BOUNDED

    def coverage(self, delta_t: int) -> float:
        """Share of the classes whose memory is alive, if all have as many pictures: 1 − exp(−B·Δt/N)."""
        return -math.expm1(-self.batch * delta_t / self.classes)


@dataclass(frozen=True)
class Network:
    """A backbone in numbers.

    Attributes:
        parameters: weights.
        trained: those of them that have a gradient.
        buffer_bytes: of what it keeps beside weights: the statistics of BatchNorm.
        activation_bytes: of what a forward pass keeps for the backward pass.
    """

    parameters: int
    trained: int
    buffer_bytes: int
    activation_bytes: int

    @property
    def state_bytes(self) -> int:
        """Of weights and buffers."""
        return _FLOAT32 * self.parameters + self.buffer_bytes


class _Bytes:
    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]  # dataclasses all


@dataclass(frozen=True)
class Memory(_Bytes):
    """Bytes on a GPU. CUDA's context, NCCL's buffers and what the allocator cannot use come on top.

    Attributes:
        weight: W.
        momentum: what the optimiser keeps for W.
        gradient: of W; two of them where a batch is taken in parts.
        update: a copy of it that torch's optimiser makes while it moves W.
        memory: M.
        timer: T.
        statistics: what a kind of memory holds beside M and T.
        terms: what terms hold from step to step; not what they take within one.
        drawn: copies of the rows that a step draws, where it does not take all.
        workspace: exponentials that the softmax keeps from forward to backward.
        tiles: buffers of a tile of classes, and seven numbers a class.
        features: embeddings of the whole batch, and their gradients, as softmax and exchange hold them.
        backbone: its weights, gradients, optimiser's state and moving average, and the gradients on their way.
        activations: what the backbone keeps from forward to backward.
    """

    weight: int
    momentum: int
    gradient: int
    update: int
    memory: int
    timer: int
    statistics: int
    terms: int
    drawn: int
    workspace: int
    tiles: int
    features: int
    backbone: int
    activations: int

    @property
    def total(self) -> int:
        """The most at any time: W moves when activations are gone."""
        return super().total - min(self.update, self.features + self.activations)


@dataclass(frozen=True)
class Traffic(_Bytes):
    """Bytes that a GPU sends in a step, and about as many that it receives, where rings carry them.

    Of s bytes a GPU, an all-gather sends (P−1)·s; of a sum of s bytes, an all-reduce sends 2·(P−1)/P·s; of P·s bytes,
    a reduce-scatter sends (P−1)·s. Batches are padded to the longest. A step that is logged sends embeddings and labels
    once more.

    Attributes:
        sizes: all-gather: how many pictures each has, and whether they are at fault.
        embeddings: all-gather, in the type of W.
        labels: all-gather.
        targets: all-reduce of the cosines of samples with their own classes.
        sums: all-reduce of the sums of exponentials, and of the maxima where those have to be taken out.
        gradients: reduce-scatter of the gradient of the embeddings.
        residuals: all-reduce of what a kind of memory learns from the classes of the batch.
        backbone: all-reduce of its gradients.
        buffers: broadcast of the statistics of BatchNorm.
        stop: all-reduce: whether anybody was told to stop, and by whom.
    """

    sizes: int
    embeddings: int
    labels: int
    targets: int
    sums: int
    gradients: int
    residuals: int
    backbone: int
    buffers: int
    stop: int


@dataclass(frozen=True)
class Checkpoint(_Bytes):
    """Bytes on disk, of all ranks together.

    Attributes:
        weight: W.
        momentum: what the optimiser keeps for W.
        memory: M.
        timer: T.
        statistics: what a kind of memory holds beside M and T.
        terms: what terms hold from step to step.
        backbone: its weights and statistics.
        optimizer: what the optimiser keeps for the backbone.
        average: the moving average of the backbone.
        encoder: the momentum encoder.
    """

    weight: int
    momentum: int
    memory: int
    timer: int
    statistics: int
    terms: int
    backbone: int
    optimizer: int
    average: int
    encoder: int


@dataclass(frozen=True)
class Footprint:
    """What a run takes.

    Attributes:
        rows: classes of the GPU that has most.
        memory: of that GPU.
        traffic: of a step.
        checkpoint: of the run.
        host_bytes: CPU memory that a process takes for its copy of the state, while a checkpoint is written.
    """

    rows: int
    memory: Memory
    traffic: Traffic
    checkpoint: Checkpoint
    host_bytes: int


@dataclass(frozen=True)
class Outline:
    """What can be said of a run before there is any data.

    Attributes:
        footprint: what it takes.
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


def outline(
    job: Job, network: Network, delta_t: int, pictures: int | None = None, epochs: float | None = None
) -> Outline:
    """What a run takes and what its memory will cover, from numbers alone.

    Args:
        job: the run.
        network: its backbone.
        delta_t: Δt ≥ 1, steps; coverage is given for others around it.
        pictures: of all classes together.
        epochs: length of the run.

    Raises:
        ValueError: for fewer pictures than classes or than a batch, for epochs of unknown length, or none.
    """
    per_epoch = steps = None
    if pictures is not None:
        if pictures < max(job.classes, job.batch):
            what = f"{job.classes:,} classes" if pictures < job.classes else f"a batch of {job.batch:,}"
            raise ValueError(f"{pictures:,} pictures are too few for {what}")
        per_epoch = len(ShuffledBatches(pictures, job.batch, seed=0))
    if epochs is not None:
        if not 0.0 < epochs <= bounds.LARGEST:
            raise ValueError(f"epochs must be positive, and at most {bounds.LARGEST:,}, got {epochs:g}")
        if per_epoch is None:
            raise ValueError("epochs need a number of pictures, from which their steps follow")
        steps = round(epochs * per_epoch)
    return Outline(
        footprint=footprint(job, network),
        coverage={lifetime: job.coverage(lifetime) for lifetime in lifetimes(delta_t)},
        half_covered=max(math.ceil(math.log(2) * job.classes / job.batch), 1),
        steps_per_epoch=per_epoch,
        steps=steps,
    )


def footprint(job: Job, network: Network) -> Footprint:
    """Memory, traffic and checkpoints of a run."""
    rows = len(shard(job.classes, 0, job.gpus))
    return Footprint(
        rows=rows,
        memory=_memory(job, network, rows),
        traffic=_traffic(job, network),
        checkpoint=_checkpoint(job, network, job.classes),
        host_bytes=_checkpoint(job, network, rows).total,
    )


def lifetimes(delta_t: int) -> list[int]:
    """Lifetimes around the given one, each twice as long as the one before."""
    return sorted({max(round(delta_t * factor), 1) for factor in (0.25, 0.5, 1, 2, 4)})


def network_of(name: str, dim: int, pictures: int, precision: Precision, **options: Any) -> Network:
    """Count what a backbone holds and keeps, by running it on tensors without data.

    Args:
        name: of the backbone.
        dim: d.
        pictures: of a forward pass; at least two are counted, which BatchNorm needs.
        precision: under autocast to it.
        options: of that backbone.

    Raises:
        ConfigError: if there is no such backbone.
    """
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with FakeTensorMode():
        backbone = build(name, dim, **options).train()
        inputs = torch.empty(max(pictures, 2), 3, 112, 112)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            output = backbone(inputs)
    del output
    weights = {p.untyped_storage()._cdata for p in backbone.parameters()}
    return Network(
        parameters=sum(p.numel() for p in backbone.parameters()),
        trained=sum(p.numel() for p in backbone.parameters() if p.requires_grad),
        buffer_bytes=sum(b.nbytes for b in backbone.buffers()),
        activation_bytes=sum(size for storage, size in kept.items() if storage not in weights),
    )


def _memory(job: Job, network: Network, rows: int) -> Memory:
    state = _state(job, rows)
    visited, copies = rows, 0
    if job.sample_rate < 1.0:
        visited = math.ceil(rows * job.share)
        recalled = getattr(torch, job.memory_dtype).itemsize * rows * job.dim if job.variational else 0
        copies = (state["weight"] * (1 if job.fused else 2) + recalled) * visited // rows
    compared = visited * job.subcenters
    padded = job.pictures_a_pass * job.gpus
    batch = min(padded, job.batch)
    second_type = 0 if job.product_bytes == _FLOAT32 else job.product_bytes
    return Memory(
        **state,
        gradient=0 if job.fused else state["weight"] * (1 if job.accumulate == 1 else 2),
        update=0 if job.fused else state["weight"],
        drawn=copies,
        workspace=_kept_bytes(job, compared, batch),
        tiles=tile_bytes(compared, max(job.dim, batch), torch.device(job.device))
        + _NUMBERS_A_CLASS * _FLOAT32 * compared,
        # x, also in the type of products, and dL/dx; besides, two of the softmax, later of the exchange
        features=padded * job.dim * (4 * _FLOAT32 + second_type),
        backbone=network.state_bytes * (1 + job.average + job.encoder)
        + _FLOAT32 * network.trained * (1 + job.state + (job.gpus > 1)),
        activations=network.activation_bytes,
    )


def _state(job: Job, rows: int) -> dict[str, int]:
    """Bytes of what lasts from step to step, for so many classes."""
    held = {"memory": 0, "timer": 0}
    if job.variational:
        empty = job.kind.empty(rows, job.dim, getattr(torch, job.memory_dtype), torch.device("meta"), seed=0)
        held = {name: tensor.nbytes for name, tensor in empty.items()}
    with torch.device("meta"):
        terms = [term.bind(rows, job.dim) for term in job.terms]
    return {
        "weight": _FLOAT32 * rows * job.subcenters * job.dim,
        "momentum": _FLOAT32 * rows * job.subcenters * job.dim * job.state,
        "memory": held.pop("memory"),
        "timer": held.pop("timer"),
        "statistics": sum(held.values()),
        "terms": sum(tensor.nbytes for term in terms for tensor in (*term.parameters(), *term.buffers())),
    }


def _kept_bytes(job: Job, rows: int, batch: int) -> int:
    """Exponentials that are kept between the visits: those of whole tiles."""
    if not job.bounded:
        return 0
    width, device = max(job.dim, batch), torch.device(job.device)
    tile = tile_bytes(sys.maxsize, width, device) // tile_bytes(1, width, device)
    of_class = batch * job.product_bytes
    return min(Workspace(job.workspace_mb).limit // (tile * of_class) * tile, rows) * of_class


def _traffic(job: Job, network: Network) -> Traffic:
    others, own, parts = job.gpus - 1, job.pictures_a_pass, job.accumulate
    a_number_each = _FLOAT32 * min(own * job.gpus, job.batch)

    def summed(size: int) -> int:
        return 2 * others * size // job.gpus

    return Traffic(
        sizes=parts * others * 2 * _INT64,
        embeddings=parts * others * own * job.dim * _FLOAT32 * (1 + job.encoder),
        labels=parts * others * own * _INT64,
        targets=parts * summed(a_number_each),
        sums=parts * summed(a_number_each) * (1 if job.bounded else 2),
        gradients=parts * others * own * job.dim * _FLOAT32,
        residuals=summed(a_number_each) * parts * job.kind.exchanged(job.dim) if job.variational else 0,
        backbone=summed(_FLOAT32 * network.trained),
        buffers=network.buffer_bytes if others else 0,
        stop=summed(2 * _INT64),
    )


def _checkpoint(job: Job, network: Network, rows: int) -> Checkpoint:
    return Checkpoint(
        **_state(job, rows),
        backbone=network.state_bytes,
        optimizer=_FLOAT32 * network.trained * job.state,
        average=network.state_bytes if job.average else 0,
        encoder=network.state_bytes if job.encoder else 0,
    )
