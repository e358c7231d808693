"""ONNX operators that compute with pictures and maps: convolutions, products, normalisations, pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vplface.backbones.onnx_graph.values import Value, require
from vplface.backbones.precision import full_precision


def _pads(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int], mode: str
) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis."""
    rank = len(kernel)
    if mode in ("NOTSET", "VALID"):
        given = list(pads) if mode == "NOTSET" and pads else [0] * 2 * rank
        return given[:rank], given[rank:]
    require(mode in ("SAME_UPPER", "SAME_LOWER"), f"auto_pad {mode}")
    totals = [
        max((math.ceil(size / stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ]
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def _padded(x: Tensor, before: list[int], after: list[int], value: float = 0.0) -> Tensor:
    return F.pad(x, [length for pair in zip(before[::-1], after[::-1], strict=True) for length in pair], value=value)


# size: the inputs and attributes of ONNX
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
    """Convolution over height and width."""
    require(weight.ndim == 4, f"a convolution with {weight.ndim - 2} spatial axes")
    require(bias is None or bias.shape == weight.shape[:1], "a convolution whose bias is not one number a channel")
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


def _pool(x: Tensor, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], mode: str) -> list[list[int]]:
    strides = list(strides) or [1] * len(kernel)
    return [list(kernel), strides, *_pads(x, kernel, strides, [1] * len(kernel), pads, mode)]


# size: the inputs and attributes of ONNX
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
    require(set(dilations) == {1}, "dilations in MaxPool")
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
    require(before == after, "asymmetric padding in AveragePool")
    return F.avg_pool2d(x, kernel, stride, before, bool(ceil_mode), bool(count_include_pad))


# size: the inputs and attributes of ONNX
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
    require(plain, "Attention other than softmax(qkᵀ)v of heads apart")
    with full_precision(q.device):
        return F.scaled_dot_product_attention(q, k, v, scale=scale)


def pad(x: Tensor, pads: Value, value: Value = 0.0, axes: None = None, *, mode: str = "constant") -> Tensor:
    """A frame of equal numbers around a tensor."""
    require(mode == "constant" and axes is None, f"Pad with mode {mode} or axes")
    rank = len(pads) // 2
    return _padded(x, list(pads[:rank]), list(pads[rank:]), 0.0 if value is None else value)


def softmax(x: Tensor, *, axis: int = -1, flattened: int = 0) -> Tensor:
    """e^x divided by its sum, over an axis or over all from it on."""
    return x.flatten(axis).softmax(-1).view_as(x) if flattened else x.softmax(axis)


def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """x/‖x‖ along an axis."""
    return F.normalize(x, p=float(p), dim=axis)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """x·Φ(x), the Gaussian error linear unit."""
    return F.gelu(x, approximate=approximate)


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Normalisation of each channel of each picture."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)
