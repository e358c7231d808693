"""Arithmetic from the sizes of a run and its backbone to bytes of memory, traffic and checkpoints."""

from __future__ import annotations

import math

import torch

from vplface.footprint.network_size import InferenceSize, NetworkSize
from vplface.footprint.parts import CheckpointBytes, Footprint, MemoryBytes, TrafficBytes
from vplface.footprint.run_size import FLOAT32, INT64, RunSize
from vplface.optim import piece_size
from vplface.packed_rows import HEADER_BYTES, padded_bytes
from vplface.ranks import shard
from vplface.softmax import Workspace
from vplface.softmax.fused.buffers import StepSize
from vplface.softmax.tiles import tile_bytes, tile_size

_NUMBERS_PER_CLASS = 7
"""Numbers that the softmax keeps for each class, such as lengths and sums."""


def footprint(run: RunSize, network: NetworkSize, teacher: InferenceSize | None = None) -> Footprint:
    """Memory, traffic and checkpoints of a run.

    Args:
        run: its sizes.
        network: the size of its backbone.
        teacher: that of a model on the same device that embeds the pictures of each step.
    """
    rows = len(shard(run.classes, 0, run.gpus))
    return Footprint(
        rows=rows,
        memory=_memory(run, network, rows, teacher),
        traffic=_traffic(run, network, rows),
        checkpoint=_checkpoint(run, network, run.classes),
        host_bytes=_checkpoint(run, network, rows).total,
    )


def _memory(run: RunSize, network: NetworkSize, rows: int, teacher: InferenceSize | None) -> MemoryBytes:
    state = _state(run, rows)
    visited, copies = rows, 0
    if run.sample_rate < 1.0:
        visited = math.ceil(rows * run.share)
        read = getattr(torch, run.memory_dtype).itemsize * rows * run.dim if run.variational else 0
        copies = (state["weight"] * (1 if run.fused else 2) + read) * visited // rows
    return MemoryBytes(
        **state,
        gradient=_gradient(run, state["weight"], visited, rows),
        update=_update(run, state["weight"]),
        drawn=copies,
        **(_fused_softmax(run, rows) if run.takes_fused_step else _tiled_softmax(run, visited * run.subcenters)),
        backbone=network.state_bytes * (1 + run.average + run.encoder)
        + FLOAT32 * network.trained * (1 + run.state + run.start + (run.gpus > 1)),
        activations=network.activation_bytes,
        teacher=0 if teacher is None else teacher.state_bytes,
        teacher_activations=0 if teacher is None else teacher.peak_bytes,
    )


def _tiled_softmax(run: RunSize, compared: int) -> dict[str, int]:
    """Bytes of a softmax that takes a tile of classes at a time, by part."""
    padded = run.pictures_a_pass * run.gpus
    batch = min(padded, run.batch)
    second_type = 0 if run.product_bytes == FLOAT32 else run.product_bytes
    return {
        "mixture": 0,
        "workspace": _kept_bytes(run, compared, batch),
        "tiles": tile_bytes(compared, max(run.dim, batch), torch.device(run.device))
        + _NUMBERS_PER_CLASS * FLOAT32 * compared,
        # x, also in the type of products, and dL/dx; and two more for the softmax, later for the exchange
        "features": padded * run.dim * (4 * FLOAT32 + second_type),
    }


def _fused_softmax(run: RunSize, rows: int) -> dict[str, int]:
    """Bytes of a softmax that takes a fused step, by part."""
    buffers = _step_size(run, rows).buffers
    return {
        "mixture": buffers.mixture,
        "workspace": buffers.exponentials,
        "tiles": buffers.others,
        "features": 2 * FLOAT32 * run.pictures_a_pass * run.dim,  # embeddings and their gradient
    }


def _step_size(run: RunSize, rows: int) -> StepSize:
    return StepSize(
        classes=rows,
        dim=run.dim,
        own=run.pictures_a_pass,
        ranks=run.gpus,
        operands=getattr(torch, run.precision),
        parts=run.accumulate,
        separate=run.encoder,
        holds=not run.in_backward,
    )


def _gradient(run: RunSize, weight: int, visited: int, rows: int) -> int:
    """Bytes of the gradient of W."""
    if not run.fused:
        return weight * (1 if run.accumulate == 1 else 2)
    if run.in_backward:
        return 0
    # Parts of a batch draw different classes: each has a buffer, and so has their sum.
    buffers = 1 if run.accumulate == 1 or run.sample_rate == 1.0 else run.accumulate + 1
    return weight * visited // rows * buffers


def _update(run: RunSize, weight: int) -> int:
    """Bytes of the copy of the gradient that the update of W makes: of a piece, or of the whole."""
    if not run.fused:
        return weight
    return 0 if run.in_backward or run.takes_fused_step else min(FLOAT32 * piece_size(torch.device(run.device)), weight)


def _state(run: RunSize, rows: int) -> dict[str, int]:
    """Bytes of the state of a number of classes, by part."""
    held = {"memory": 0, "timer": 0}
    if run.variational:
        empty = run.kind.empty(rows, run.dim, getattr(torch, run.memory_dtype), torch.device("meta"), seed=0)
        held = {name: tensor.nbytes for name, tensor in empty.items()}
    with torch.device("meta"):
        terms = [term.bind(rows, run.dim) for term in run.terms]
    return {
        "weight": FLOAT32 * rows * run.subcenters * run.dim,
        "momentum": FLOAT32 * rows * run.subcenters * run.dim * run.state,
        "memory": held.pop("memory"),
        "timer": held.pop("timer"),
        "statistics": sum(held.values()),
        "terms": sum(tensor.nbytes for term in terms for tensor in (*term.parameters(), *term.buffers())),
    }


def _kept_bytes(run: RunSize, rows: int, batch: int) -> int:
    """Bytes of the exponentials that the softmax keeps for the backward pass: those of whole tiles."""
    if not run.bounded:
        return 0
    tile = tile_size(rows, max(run.dim, batch), torch.device(run.device))
    of_class = batch * run.product_bytes
    return min(Workspace(run.workspace_mb).limit // (tile * of_class) * tile, rows) * of_class


def _traffic(run: RunSize, network: NetworkSize, rows: int) -> TrafficBytes:
    others, own, parts, fused = run.gpus - 1, run.pictures_a_pass, run.accumulate, run.takes_fused_step
    a_number_each = FLOAT32 * (own * run.gpus if fused else min(own * run.gpus, run.batch))

    def summed(size: int) -> int:
        return 2 * others * size // run.gpus

    def gathered(row: int) -> int:
        return parts * others * padded_bytes(own * row)

    return TrafficBytes(
        sizes=parts * others * HEADER_BYTES,
        embeddings=gathered(FLOAT32 * run.dim) * (1 + run.encoder),
        labels=gathered(INT64),
        norms=gathered(FLOAT32) if run.norms else 0,
        targets=parts * summed(a_number_each),
        sums=parts * summed(a_number_each) * (1 if fused or run.bounded else 2),
        gradients=parts * others * own * (run.dim + run.norms) * FLOAT32,
        tile_norms=others * FLOAT32 * _step_size(run, rows).tile_norms if fused else 0,
        residuals=summed(a_number_each) * parts * run.kind.exchanged(run.dim) if run.variational else 0,
        backbone=summed(FLOAT32 * network.trained),
        buffers=network.buffer_bytes if others else 0,
        stop=summed(2 * INT64),
    )


def _checkpoint(run: RunSize, network: NetworkSize, rows: int) -> CheckpointBytes:
    return CheckpointBytes(
        **_state(run, rows),
        backbone=network.state_bytes,
        optimizer=FLOAT32 * network.trained * run.state,
        average=network.state_bytes if run.average else 0,
        encoder=network.state_bytes if run.encoder else 0,
        start=FLOAT32 * network.trained if run.start else 0,
    )
