"""Bytes of each part of memory, traffic and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, fields


class _Bytes:
    """A dataclass whose fields are all numbers of bytes."""

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]  # dataclasses all


@dataclass(frozen=True)
class MemoryBytes(_Bytes):
    """Bytes on a GPU, without CUDA's context, NCCL's buffers and memory that the allocator cannot use.

    Attributes:
        weight: W.
        momentum: state of the optimiser for W.
        gradient: of W; two of them if a batch is processed in parts.
        update: a copy of the gradient that torch's optimiser makes while it updates W.
        memory: M.
        timer: T.
        statistics: further state of the kind of memory, besides M and T.
        terms: state of the terms between steps; not their memory within a step.
        drawn: copies of the rows that a step draws, if it does not use all.
        mixture: Z, the prototypes with their memory, in the type of products; kept by a fused step.
        workspace: exponentials that the softmax keeps from forward to backward.
        tiles: buffers of a tile of classes, and seven numbers a class; in a fused step partial sums, four numbers a
            class, and samples.
        features: embeddings of the whole batch, and their gradients, as softmax and exchange hold them besides.
        backbone: its weights, gradients, optimiser's state, moving average and start, and buffers for their exchange.
        activations: numbers that the backbone keeps from forward to backward.
        teacher: weights and statistics of a teacher that embeds the pictures of each step.
        teacher_activations: the most that its forward pass holds at once, before that of the backbone begins.
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
    mixture: int
    workspace: int
    tiles: int
    features: int
    backbone: int
    activations: int
    teacher: int
    teacher_activations: int

    @property
    def total(self) -> int:
        """The peak: W is updated after the activations are freed, and they are made after those of a teacher."""
        freed = min(self.update, self.features + self.activations)
        return super().total - freed - min(self.teacher_activations, self.activations)


@dataclass(frozen=True)
class TrafficBytes(_Bytes):
    """Bytes that a GPU sends in a step, with ring algorithms; it receives about as many.

    Of s bytes a GPU, an all-gather sends (P−1)·s; of a sum of s bytes, an all-reduce sends 2·(P−1)/P·s; of P·s bytes,
    a reduce-scatter sends (P−1)·s. Batches are padded to the longest. A step that is logged sends embeddings and labels
    once more.

    Attributes:
        sizes: all-gather of headers: number of pictures of each GPU, types, and whether the pictures are invalid.
        embeddings: in the same all-gather, in the type of W.
        labels: in the same all-gather.
        norms: lengths of embeddings, in the same all-gather.
        targets: all-reduce of the cosines of samples with their own classes.
        sums: all-reduce of the sums of exponentials, and of the maxima where they must be subtracted.
        gradients: reduce-scatter of the gradient of the embeddings, and of their lengths.
        tile_norms: all-gather of the norms of tiles of the gradient of W, by which a fused step clips it.
        residuals: all-reduce of the statistics of the kind of memory for the classes of the batch.
        backbone: all-reduce of its gradients.
        buffers: broadcast of the statistics of BatchNorm.
        stop: all-reduce: whether a process received a signal to stop, and which.
    """

    sizes: int
    embeddings: int
    labels: int
    norms: int
    targets: int
    sums: int
    gradients: int
    tile_norms: int
    residuals: int
    backbone: int
    buffers: int
    stop: int


@dataclass(frozen=True)
class CheckpointBytes(_Bytes):
    """Bytes on disk, of all ranks together.

    Attributes:
        weight: W.
        momentum: state of the optimiser for W.
        memory: M.
        timer: T.
        statistics: further state of the kind of memory, besides M and T.
        terms: state of the terms between steps.
        backbone: its weights and statistics.
        optimizer: state of the optimiser for the backbone.
        average: the moving average of the backbone.
        encoder: the momentum encoder.
        start: the weights that the backbone is pulled towards.
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
    start: int


@dataclass(frozen=True)
class Footprint:
    """Memory, traffic and checkpoints of a run.

    Attributes:
        rows: number of classes of the GPU that has the most.
        memory: of that GPU.
        traffic: of a step.
        checkpoint: of the run.
        host_bytes: CPU memory that a process takes for its copy of the state, while a checkpoint is written.
    """

    rows: int
    memory: MemoryBytes
    traffic: TrafficBytes
    checkpoint: CheckpointBytes
    host_bytes: int
