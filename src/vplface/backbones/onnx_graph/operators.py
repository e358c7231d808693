"""ONNX operators as functions of torch, in the form of their latest opset.

Shapes are computed with Python numbers: ``Shape`` gives a tuple, and arithmetic on tuples and numbers stays in Python.
So the size of the batch stays open under ``torch.export`` and ``torch.compile``. The keyword arguments of a function are
the attributes that it supports.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from vplface.backbones.precision import full_precision

Value: TypeAlias = Any
"""A tensor, a number, a tuple of whole numbers, or None for an absent input."""

_FLOATS = {1: torch.float32, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16}
_WHOLE = (2, 3, 4, 5, 6, 7, 12, 13)
_MAX_LENGTH = 2**16
"""Longest tuple of a shape computation."""


class UnsupportedError(Exception):
    """Raised for an operator with inputs or attributes that are not supported; the message says which."""


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise UnsupportedError(what)


def _tensor(x: Value, like: Tensor) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(x, device=like.device, dtype=like.dtype)


def _pads(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int], mode: str
) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis."""
    rank = len(kernel)
    if mode in ("NOTSET", "VALID"):
        given = list(pads) if mode == "NOTSET" and pads else [0] * 2 * rank
        return given[:rank], given[rank:]
    _require(mode in ("SAME_UPPER", "SAME_LOWER"), f"auto_pad {mode}")
    totals = [
        max((math.ceil(size / stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ]
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def _padded(x: Tensor, before: list[int], after: list[int], value: float = 0.0) -> Tensor:
    return F.pad(x, [length for pair in zip(before[::-1], after[::-1], strict=True) for length in pair], value=value)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Sequence[int] = (),
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
    auto_pad: str = "NOTSET",
) -> Tensor:
    """Two-dimensional convolution."""
    _require(weight.ndim == 4, f"a convolution with {weight.ndim - 2} spatial axes")
    before, after = _pads(x, weight.shape[2:], strides, dilations, pads, auto_pad)
    if before != after:
        x, before = _padded(x, before, after), [0, 0]
    return F.conv2d(x, weight, bias, list(strides), before, list(dilations), group)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Leaky rectifier with learned slopes."""
    per_channel = slope.shape.numel() in (1, x.shape[1]) and (slope.ndim == 1) == (x.ndim == 2 or slope.numel() == 1)
    if per_channel or (slope.ndim >= x.ndim - 1 and slope.numel() == x.shape[1] == slope.shape[1 - x.ndim]):
        return F.prelu(x, slope.reshape(-1).to(x.dtype))
    return torch.where(x >= 0, x, x * slope)


def gemm(
    a: Tensor,
    b: Tensor,
    c: Value = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803 - a name of ONNX
    transB: int = 0,  # noqa: N803
) -> Tensor:
    """Matrix product with an optional sum."""
    a, b = a.t() if transA else a, b if transB else b.t()
    if alpha == 1.0 and beta == 1.0 and isinstance(c, Tensor) and c.ndim == 1:
        return F.linear(a, b, c)
    product = alpha * F.linear(a, b)
    return product if c is None else product + beta * c


def layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Normalisation over the last axes."""
    return F.layer_norm(x, x.shape[axis:], scale, bias, epsilon)


def clip(x: Value, low: Value = None, high: Value = None) -> Value:
    """Values limited to a range."""
    return x if low is None and high is None else torch.clamp(x, low, high)


def _pool(x: Tensor, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], mode: str) -> list[list[int]]:
    strides = list(strides) or [1] * len(kernel)
    return [list(kernel), strides, *_pads(x, kernel, strides, [1] * len(kernel), pads, mode)]


def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (),
    pads: Sequence[int] = (),
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] = (1, 1),
    storage_order: int = 0,
) -> Tensor:
    """Largest value of each window."""
    _require(set(dilations) == {1}, "dilations in MaxPool")
    kernel, stride, before, after = _pool(x, kernel_shape, strides, pads, auto_pad)
    if before != after:
        x, before = _padded(x, before, after, -math.inf), [0, 0]
    return F.max_pool2d(x, kernel, stride, before, ceil_mode=bool(ceil_mode))


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (),
    pads: Sequence[int] = (),
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Tensor:
    """Mean of each window."""
    kernel, stride, before, after = _pool(x, kernel_shape, strides, pads, auto_pad)
    _require(before == after, "asymmetric padding in AveragePool")
    return F.avg_pool2d(x, kernel, stride, before, bool(ceil_mode), bool(count_include_pad))


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: None = None,
    *,
    scale: float | None = None,
    is_causal: int = 0,
    softcap: float = 0.0,
    qk_matmul_output_mode: int = 0,
) -> Tensor:
    """Scaled dot-product attention, [n, heads, tokens, width]."""
    plain = q.ndim == 4 and mask is None and not is_causal and not softcap and not qk_matmul_output_mode
    _require(plain, "Attention other than softmax(qkᵀ)v of heads apart")
    with full_precision(q.device):
        return F.scaled_dot_product_attention(q, k, v, scale=scale)


def _axes(axes: Value, rank: int, noop: int = 0) -> tuple[int, ...]:
    given = (axes,) if isinstance(axes, int) else tuple(axes or ())
    return given or (() if noop else tuple(range(rank)))


def _reduction(reduce: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Callable[..., Value]:
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
        _require(not isinstance(x, tuple), "Unsqueeze of a list of numbers")
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
    _require(len(joined) <= _MAX_LENGTH, f"a shape of {len(joined)} axes")
    return joined


def slice_(x: Value, starts: Value, ends: Value, axes: Value = None, steps: Value = None) -> Value:
    """Part of each axis."""
    starts, ends = ((each,) if isinstance(each, int) else each for each in (starts, ends))
    chosen = tuple(range(len(starts))) if axes is None else _axes(axes, 0)
    strides = (1,) * len(starts) if steps is None else _axes(steps, 0)
    _require(min(strides) > 0, "a Slice with steps backwards")
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
    _require(to in _FLOATS or to in _WHOLE or to == 9, f"a cast to type {to}")
    if isinstance(x, Tensor):
        _require(to in _FLOATS, f"a cast of a tensor to type {to}")
        return x if x.is_floating_point() else x.float()
    return x


def _elementwise(of_tensors: Callable[..., Tensor], of_numbers: Callable[..., Value]) -> Callable[..., Value]:
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


def _divided(a: Value, b: Value) -> Value:
    return a // b if isinstance(a, int | torch.SymInt) and isinstance(b, int | torch.SymInt) else a / b


def mod(a: Value, b: Value, *, fmod: int = 0) -> Value:
    """Remainder of whole numbers."""
    _require(not isinstance(a, Tensor) and not isinstance(b, Tensor), "Mod of tensors")
    return _elementwise(torch.remainder, operator.mod)(a, b)


def where(condition: Value, a: Value, b: Value) -> Value:
    """One value or the other, by a condition."""
    if isinstance(condition, Tensor):
        return torch.where(condition, a, b)
    return _elementwise(torch.where, lambda c, one, other: one if c else other)(condition, a, b)


def constant_of_shape(shape: Value, *, value: float = 0.0) -> Value:
    """A list of equal numbers."""
    _require(isinstance(shape, tuple) and len(shape) == 1 and shape[0] <= _MAX_LENGTH, "ConstantOfShape of several axes")
    return (value,) * shape[0]


def expand(x: Value, shape: Value) -> Tensor:
    """The value repeated along axes of length 1, by the rules of broadcasting."""
    _require(isinstance(x, Tensor), "Expand of numbers")
    return x.expand(torch.broadcast_shapes(x.shape, shape))  # type: ignore[no-untyped-call]


def pad(x: Tensor, pads: Value, value: Value = 0.0, axes: None = None, *, mode: str = "constant") -> Tensor:
    """A frame of equal numbers around a tensor."""
    _require(mode == "constant" and axes is None, f"Pad with mode {mode} or axes")
    rank = len(pads) // 2
    return _padded(x, list(pads[:rank]), list(pads[rank:]), 0.0 if value is None else value)


def softmax(x: Tensor, *, axis: int = -1, flattened: int = 0) -> Tensor:
    """e^x divided by its sum, over an axis or over all from it on."""
    return x.flatten(axis).softmax(-1).view_as(x) if flattened else x.softmax(axis)


def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """x/‖x‖ along an axis."""
    return F.normalize(x, p=float(p), dim=axis)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """Gaussian error linear unit."""
    return F.gelu(x, approximate=approximate)


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Normalisation of each channel of each picture."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


OPERATORS: dict[str, Callable[..., Value]] = {
    "Abs": torch.abs,
    "Add": _elementwise(operator.add, operator.add),
    "Attention": attention,
    "AveragePool": average_pool,
    "Cast": cast,
    "Clip": clip,
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "Conv": conv,
    "Div": _elementwise(operator.truediv, _divided),
    "Elu": lambda x, *, alpha=1.0: F.elu(x, alpha),
    "Equal": _elementwise(operator.eq, operator.eq),
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True),
    "HardSigmoid": lambda x, *, alpha=0.2, beta=0.5: torch.clamp(alpha * x + beta, 0.0, 1.0),
    "HardSwish": F.hardswish,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "LeakyRelu": lambda x, *, alpha=0.01: F.leaky_relu(x, alpha),
    "Log": torch.log,
    "LpNormalization": lp_normalization,
    "MatMul": torch.matmul,
    "Max": _elementwise(lambda a, b: a.clamp(min=b), max),
    "MaxPool": max_pool,
    "Min": _elementwise(lambda a, b: a.clamp(max=b), min),
    "Mish": F.mish,
    "Mod": mod,
    "Mul": _elementwise(operator.mul, operator.mul),
    "Neg": operator.neg,
    "PRelu": prelu,
    "Pad": pad,
    "Pow": _elementwise(torch.pow, operator.pow),
    "Reciprocal": torch.reciprocal,
    "ReduceL2": _reduction(lambda x, axes, keep: x.norm(dim=axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "Relu": F.relu,
    "Reshape": reshape,
    "Shape": shape_of,
    "Sigmoid": torch.sigmoid,
    "Slice": slice_,
    "Softmax": softmax,
    "Softplus": F.softplus,
    "Split": split,
    "Sqrt": _elementwise(torch.sqrt, math.sqrt),
    "Squeeze": squeeze,
    "Sub": _elementwise(operator.sub, operator.sub),
    "Swish": lambda x, *, alpha=1.0: x * torch.sigmoid(alpha * x),
    "Tanh": torch.tanh,
    "Transpose": lambda x, *, perm=None: x.permute(tuple(perm or range(x.ndim - 1, -1, -1))),
    "Unsqueeze": unsqueeze,
    "Where": where,
}
"""Operator → function of its inputs, with its attributes as keyword arguments. BatchNormalization is a module."""
