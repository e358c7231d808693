"""What a batch has to be before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor


def check_batch(
    labels: Int[Tensor, " batch"], num_classes: int, dim: int, **embeddings: Float[Tensor, "batch dim"] | None
) -> None:
    """Refuse a batch that nothing can be learned from, with the place of the fault.

    Args:
        labels: int64 class ids in [0, N).
        num_classes: N.
        dim: d.
        embeddings: by the name that the message shall have, of any length but zero. None where there are none, which
            the first may not be.

    Raises:
        TypeError: for a wrong dtype.
        ValueError: for a wrong shape, a label out of range, and NaN, infinite or zero embeddings.
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
    lengths = {name: tensor.detach().norm(dim=1) for name, tensor in given.items()}
    wrong = (labels < 0) | (labels >= num_classes)
    for length in lengths.values():
        wrong = wrong | (~length.isfinite() | (length == 0)).to(wrong.device)
    if wrong.any():  # the one synchronisation of a step
        raise ValueError(_explain(lengths, labels, num_classes))


def _explain(lengths: Mapping[str, Tensor], labels: Tensor, num_classes: int) -> str:
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        row = int(outside.nonzero()[0])
        return f"label {int(labels[row])} of sample {row} is not a class id in [0, {num_classes})"
    for name, length in lengths.items():
        for fault, rows in (("NaN or infinite", ~length.isfinite()), ("zero", length == 0)):
            if rows.any():
                return (
                    f"{name} of sample {int(rows.nonzero()[0])} is {fault} ({int(rows.sum())} of {len(rows)}); the"
                    " backbone has diverged or died: lower the learning rate, warm up, or look at its input"
                )
    raise AssertionError("unreachable: the caller saw a fault")
