"""Batches: their checks, and their exchange between ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import normalize

from vplface.prototypes.memory import number_type
from vplface.ranks import Ranks


class DegenerateEmbeddingError(ValueError):
    """Embeddings that are NaN, infinite or zero: they have no direction."""


def check_batch(
    labels: Int[Tensor, " batch"], num_classes: int, dim: int, **embeddings: Float[Tensor, "batch dim"] | None
) -> None:
    """Refuse an invalid batch, with an error that locates the fault.

    Args:
        labels: int64 class ids in [0, N).
        num_classes: N.
        dim: d.
        embeddings: as in ``check_shapes``.

    Raises:
        TypeError: for a wrong dtype.
        DegenerateEmbeddingError: a ValueError, for NaN, infinite or zero embeddings.
        ValueError: for a wrong shape or a label out of range.
    """
    given = check_shapes(labels, dim, **embeddings)
    lengths = {name: tensor.detach().norm(dim=1) for name, tensor in given.items()}
    wrong = (labels < 0) | (labels >= num_classes)
    for length in lengths.values():
        wrong = wrong | (~length.isfinite() | (length == 0)).to(wrong.device)
    if wrong.any():  # the one synchronisation of a step
        raise _fault(lengths, labels, num_classes)


def check_shapes(
    labels: Int[Tensor, " batch"], dim: int, **embeddings: Float[Tensor, "batch dim"] | None
) -> dict[str, Tensor]:
    """Refuse a batch of wrong types or shapes, without a look at its numbers.

    Args:
        labels: int64 class ids.
        dim: d.
        embeddings: by the name that the message shall have, of any length but zero. None where there are none, which
            the first may not be.

    Returns:
        The embeddings that there are, by name.

    Raises:
        TypeError: for a wrong dtype.
        ValueError: for a wrong shape.
    """
    (needed, _), *_ = embeddings.items()
    for name, value in {"labels": labels, **embeddings}.items():
        if not isinstance(value, Tensor) and (value is not None or name in ("labels", needed)):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    given = {name: tensor for name, tensor in embeddings.items() if tensor is not None}
    (first, rows), *_ = given.items()
    for name, tensor in given.items():
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be of a floating-point type, got {tensor.dtype}")
        if tensor.ndim != 2 or tensor.shape[1] != dim or len(tensor) == 0:
            raise ValueError(f"{name} must be [batch ≥ 1, {dim}], got {list(tensor.shape)}")
        if len(tensor) != len(rows):
            raise ValueError(f"{name} holds {len(tensor)} rows, {first} {len(rows)}")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64 class ids, got {labels.dtype}; call labels.long()")
    if labels.shape != rows.shape[:1]:
        raise ValueError(f"labels must be [{len(rows)}] like {first}, got {list(labels.shape)}")
    return given


def check_own_batch(
    ranks: Ranks | None,
    labels: Int[Tensor, " batch"],
    num_classes: int,
    dim: int,
    device: torch.device,
    **embeddings: Float[Tensor, "batch dim"] | None,
) -> None:
    """Check the batch of this rank before a gather; if it is invalid, the gather fails on all ranks together.

    Args:
        ranks: ranks that share the step; None for one process.
        labels: as in ``check_batch``, like all further arguments.
        num_classes: N.
        dim: d.
        device: on which ranks exchange their batches.
        embeddings: by name.

    Raises:
        TypeError: as ``check_batch``.
        ValueError: as ``check_batch``.
    """
    try:
        check_batch(labels, num_classes, dim, **embeddings)
    except (TypeError, ValueError):
        if ranks is not None:
            ranks.report_fault(device)
        raise


class GlobalBatch(NamedTuple):
    """The batch of all ranks, in rank order.

    Attributes:
        features: x, unit rows.
        labels: y, global class ids.
        remembered: constant unit rows, what is remembered of the samples.
        counts: samples of each rank.
        norms: lengths of the embeddings, if they were requested.
    """

    features: Float[Tensor, "batch dim"]
    labels: Int[Tensor, " batch"]
    remembered: Float[Tensor, "batch dim"]
    counts: list[int]
    norms: Float[Tensor, " batch"] | None = None


def gather_batch(
    embeddings: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    memory_embeddings: Float[Tensor, "batch dim"] | None,
    *,
    num_classes: int,
    weight: Float[Tensor, "rows ... dim"],
    ranks: Ranks | None,
    with_norms: bool = False,
) -> GlobalBatch:
    """Check, normalise and gather the batches of all ranks.

    Args:
        embeddings: of this rank, of any length.
        labels: class ids.
        memory_embeddings: embeddings to remember instead of ``embeddings``, if any.
        num_classes: N.
        weight: W, whose type the features get.
        ranks: ranks that share the step; None for one process.
        with_norms: whether to return norms.

    Raises:
        TypeError: as ``check_batch``.
        ValueError: as ``check_batch``.
        OtherRankError: naming another rank whose batch is invalid.
    """
    given = {"embeddings": embeddings, "memory_embeddings": memory_embeddings}
    check_own_batch(ranks, labels, num_classes, weight.shape[-1], weight.device, **given)
    columns, counts = columns_of(embeddings, labels, memory_embeddings, weight.dtype, with_norms), [len(labels)]
    if ranks is not None:
        columns, counts = ranks.gather(*columns)
    return batch_of(columns, counts, with_norms)


def columns_of(
    embeddings: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    memory_embeddings: Float[Tensor, "batch dim"] | None,
    dtype: torch.dtype,
    with_norms: bool,
) -> list[Tensor]:
    """The columns that ranks exchange: features, labels, norms if they are requested, and what is remembered instead.

    Args:
        embeddings: of any length but zero.
        labels: class ids.
        memory_embeddings: embeddings to remember instead of ``embeddings``, if any.
        dtype: of W, which the features get.
        with_norms: whether norms are requested.
    """

    def unit(rows: Tensor) -> Tensor:
        return normalize(rows.to(torch.promote_types(rows.dtype, dtype)), dim=1).to(dtype)

    norms = [vector_norm(embeddings.to(number_type(dtype)), dim=1)] if with_norms else []
    remembered = [] if memory_embeddings is None else [unit(memory_embeddings.detach())]
    return [unit(embeddings), labels, *norms, *remembered]


def batch_of(columns: list[Tensor], counts: list[int], with_norms: bool) -> GlobalBatch:
    """The batch of all ranks from the columns of ``columns_of``.

    Args:
        columns: of all ranks.
        counts: samples of each rank.
        with_norms: whether norms are among them.
    """
    features, labels, *others = columns
    norms = others.pop(0) if with_norms else None
    return GlobalBatch(features, labels, others[0] if others else features.detach(), counts, norms)


def _fault(lengths: Mapping[str, Tensor], labels: Tensor, num_classes: int) -> ValueError:
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        row = int(outside.nonzero()[0])
        return ValueError(f"label {int(labels[row])} of sample {row} is not a class id in [0, {num_classes})")
    for name, length in lengths.items():
        for fault, rows in (("NaN or infinite", ~length.isfinite()), ("zero", length == 0)):
            if rows.any():
                return DegenerateEmbeddingError(
                    f"{name} of sample {int(rows.nonzero()[0])} is {fault} ({int(rows.sum())} of {len(rows)}); the"
                    " backbone has diverged or collapsed: lower the learning rate, add warm-up, or check its input"
                )
    raise AssertionError("unreachable: the caller saw a fault")
