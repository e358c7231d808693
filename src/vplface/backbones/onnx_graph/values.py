"""ONNX operators on tensors and on Python numbers.

Shapes are computed with Python numbers: ``Shape`` gives a tuple, and arithmetic on tuples and numbers stays in Python.
So the size of the batch stays open under ``torch.export`` and ``torch.compile``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

Value: TypeAlias = Any
"""A tensor, a number, a tuple of whole numbers, or None for an absent input."""

_FLOATS = {1: torch.float32, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16}
_WHOLE = (2, 3, 4, 5, 6, 7, 12, 13)
_MAX_LENGTH = 2**16
"""Longest tuple of a shape computation."""


class UnsupportedError(Exception):
    """Raised for an operator with inputs or attributes that are not supported; the message says which."""


def require(condition: bool, what: str) -> None:
    """Raise UnsupportedError, with what is not supported, unless a condition holds."""
    if not condition:
        raise UnsupportedError(what)


def _tensor(x: Value, like: Tensor) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(x, device=like.device, dtype=like.dtype)


def clip(x: Value, low: Value = None, high: Value = None) -> Value:
    """Values limited to a range."""
    return x if low is None and high is None else torch.clamp(x, low, high)


def _axes(axes: Value, rank: int, noop: int = 0) -> tuple[int, ...]:
    given = (axes,) if isinstance(axes, int) else tuple(axes or ())
    return given or (() if noop else tuple(range(rank)))


def reduction(reduce: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Callable[..., Value]:
    """An operator that reduces axes of a tensor."""

    def run(x: Tensor, axes: Value = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        chosen = _axes(axes, x.ndim, noop_with_empty_axes)
        return reduce(x, chosen, bool(keepdims)) if chosen else x

    return run


def reshape(x: Value, shape: Value, *, allowzero: int = 0) -> Value:
    """The same values in another shape."""
    if not isinstance(x, Tensor):
        flat = x if isinstance(x, tuple) else (x,)
        return flat[0] if shape == () else flat
    wanted = (shape,) if isinstance(shape, int) else shape
    return x.reshape([x.shape[i] if size == 0 and not allowzero else size for i, size in enumerate(wanted)])


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """A matrix whose columns are the axes from ``axis`` on."""
    return x.flatten(1) if axis == 1 else x.reshape(math.prod(x.shape[:axis]), -1)


def squeeze(x: Value, axes: Value = None) -> Value:
    """The value without axes of length 1."""
    if isinstance(x, tuple):
        return x[0]
    if not isinstance(x, Tensor):
        return x
    return x.squeeze() if axes is None else x.squeeze(_axes(axes, x.ndim))


def unsqueeze(x: Value, axes: Value) -> Value:
    """The value with further axes of length 1."""
    if not isinstance(x, Tensor):
        require(not isinstance(x, tuple), "Unsqueeze of a list of numbers")
        return (x,)
    chosen = _axes(axes, x.ndim)
    rank = x.ndim + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def concat(*parts: Value, axis: int) -> Value:
    """Parts one after the other."""
    if any(isinstance(part, Tensor) for part in parts):
        return torch.cat(parts, axis)
    joined = tuple(each for part in parts for each in (part if isinstance(part, tuple) else (part,)))
    require(len(joined) <= _MAX_LENGTH, f"a shape of {len(joined)} axes")
    return joined


def slice_(x: Value, starts: Value, ends: Value, axes: Value = None, steps: Value = None) -> Value:
    """Part of each axis."""
    starts, ends = ((each,) if isinstance(each, int) else each for each in (starts, ends))
    chosen = tuple(range(len(starts))) if axes is None else _axes(axes, 0)
    strides = (1,) * len(starts) if steps is None else _axes(steps, 0)
    require(min(strides) > 0, "a Slice with steps backwards")
    if isinstance(x, tuple):
        return x[starts[0] : ends[0] : strides[0]]
    cut = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, chosen, strides, strict=True):
        cut[axis] = slice(start, None if end >= 2**31 - 1 else end, step)
    return x[tuple(cut)]


def split(x: Tensor, sizes: Value = None, *, axis: int = 0, num_outputs: int) -> tuple[Tensor, ...]:
    """Parts of an axis."""
    each = -(-x.shape[axis] // num_outputs)
    return torch.split(x, each if sizes is None else list(_axes(sizes, 0)), axis)


def gather(x: Value, indices: Value, *, axis: int = 0) -> Value:
    """Entries of an axis by number."""
    if isinstance(x, tuple):
        return tuple(x[i] for i in indices) if isinstance(indices, tuple) else x[indices]
    if isinstance(indices, int):
        return x.select(axis, indices)
    chosen = torch.tensor(indices, device=x.device)
    return x.index_select(axis, chosen.flatten()).unflatten(axis, chosen.shape)


def shape_of(x: Value, *, start: int = 0, end: int | None = None) -> Value:
    """Lengths of the axes, as a tuple."""
    return tuple(x.shape)[start:end] if isinstance(x, Tensor) else (len(x),)


def cast(x: Value, *, to: int, saturate: int = 1) -> Value:
    """Another type; all types of real numbers are the type of the weights."""
    require(to in _FLOATS or to in _WHOLE or to == 9, f"a cast to type {to}")
    if isinstance(x, Tensor):
        require(to in _FLOATS, f"a cast of a tensor to type {to}")
        return x if x.is_floating_point() else x.float()
    return x


def elementwise(of_tensors: Callable[..., Tensor], of_numbers: Callable[..., Value]) -> Callable[..., Value]:
    """An operator on tensors, numbers, and tuples of numbers."""

    def run(*given: Value) -> Value:
        if any(isinstance(each, Tensor) for each in given):
            like = next(each for each in given if isinstance(each, Tensor))
            return of_tensors(*(each if isinstance(each, int | float) else _tensor(each, like) for each in given))
        lengths = {len(each) for each in given if isinstance(each, tuple)}
        if not lengths:
            return of_numbers(*given)
        rows = [each if isinstance(each, tuple) else (each,) for each in given]
        return tuple(of_numbers(*(row[i % len(row)] for row in rows)) for i in range(max(lengths)))

    return run


def divided(a: Value, b: Value) -> Value:
    """The quotient of two numbers, whole if both are."""
    return a // b if isinstance(a, int | torch.SymInt) and isinstance(b, int | torch.SymInt) else a / b


def mod(a: Value, b: Value, *, fmod: int = 0) -> Value:
    """Remainder of whole numbers."""
    require(not isinstance(a, Tensor) and not isinstance(b, Tensor), "Mod of tensors")
    return elementwise(torch.remainder, operator.mod)(a, b)


def where(condition: Value, a: Value, b: Value) -> Value:
    """One value or the other, by a condition."""
    if isinstance(condition, Tensor):
        return torch.where(condition, a, b)
    return elementwise(torch.where, lambda c, one, other: one if c else other)(condition, a, b)


def constant_of_shape(shape: Value, *, value: float = 0.0) -> Value:
    """A list of equal numbers."""
    require(isinstance(shape, tuple) and len(shape) == 1 and shape[0] <= _MAX_LENGTH, "ConstantOfShape of several axes")
    return (value,) * shape[0]


def expand(x: Value, shape: Value) -> Tensor:
    """The value repeated along axes of length 1, by the rules of broadcasting."""
    require(isinstance(x, Tensor), "Expand of numbers")
    expanded: Tensor = x.expand(torch.broadcast_shapes(x.shape, shape))  # type: ignore[no-untyped-call]
    return expanded
