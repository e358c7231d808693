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
        """The peak: W moves when activations are gone."""
        return super().total - min(self.update, self.features + self.activations)


@dataclass(frozen=True)
class TrafficBytes(_Bytes):
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
        stop: all-reduce: whether a process received a signal to stop, and which.
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
class CheckpointBytes(_Bytes):
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
    """Memory, traffic and checkpoints of a run.

    Attributes:
        rows: classes of the GPU that has most.
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
