"""The operations inside a tile on a CPU, compiled: each row is read once and stays in the innermost cache.

torch goes over a tile once for every operation. The products of a tile are left to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vplface.compiled_function import compiled
from vplface.errors import import_extra
from vplface.optim import Momentum
from vplface.softmax.own import OwnPlaces
from vplface.softmax.tiles import SHORTEST, Mixture, Tile, TorchTiles

numba: Any = import_extra("numba", "train")
extending: Any = import_extra("numba.extending", "train")

_TYPES = (torch.float32, torch.float64, torch.bfloat16)
"""What the kernels read and write; numpy has no bfloat16, so they get its bits. Of other types torch takes care."""


def _wide(number: Any) -> Any:
    """A number in a type that a processor calculates in."""
    raise NotImplementedError  # numba takes what follows


@extending.overload(_wide, inline="always")
def _wide_of(number):
    if number == numba.types.uint16:
        return lambda number: np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)
    return lambda number: number


def _narrow(number: Any, array: Any) -> Any:
    """A number as ``array`` holds it, rounded to the nearest."""
    raise NotImplementedError


@extending.overload(_narrow, inline="always")
def _narrow_for(number, array):
    if array.dtype != numba.types.uint16:
        return lambda number, array: number

    def narrow(number, array):
        bits = np.float32(number).view(np.uint32)
        even = (bits >> np.uint32(16)) & np.uint32(1)
        return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + even) >> np.uint32(16))

    return narrow


def _exp(x: Any) -> Any:
    """e^x; 0 below −87, where float32 has no normal number left."""
    raise NotImplementedError


@extending.overload(_exp, inline="always")
def _exp_of(x):
    if x == numba.types.float64:
        return lambda x: np.exp(x)

    def exp(x):
        # 2^n·e^r with |r| ≤ ln(2)/2, n·ln 2 taken off in two parts, and e^r by its polynomial (Cephes' expf): a loop
        # over calls of the C library could not be made of vectors.
        n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
        r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
        p = np.float32(1.9875691500e-4) * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
        e = (p * r * r + r + np.float32(1)) * power
        return np.float32(0) if x < np.float32(-87) else e

    return exp


_options = {"nogil": True, "error_model": "numpy"}
_ANY_ORDER = {"reassoc", "contract"}
_compile = compiled(**_options, fastmath=_ANY_ORDER)
"""Sums may be taken in any order, which vectors need; nothing else may change, NaN least of all."""
_compile_in_order = compiled(**_options, fastmath={"contract"})


@_compile
def _mix(weight, memory, share, length, ratio, operand, first, mixed, renormalise):
    """Z in the type of products; on the first pass also ‖W‖ and ρ."""
    for j in range(len(weight)):
        if first:
            squares = length.dtype.type(0)
            for k in range(weight.shape[1]):
                squares += _wide(weight[j, k]) * _wide(weight[j, k])
            length[j, 0] = max(np.sqrt(squares), SHORTEST)
            ratio[j, 0] = 1 / length[j, 0]
        if mixed and share[j, 0] < 1:
            factor = (1 / share[j, 0] - 1) * length[j, 0]
            squares = length.dtype.type(0)
            for k in range(weight.shape[1]):
                z = _wide(weight[j, k]) + factor * _wide(memory[j, k])
                squares += z * z
                operand[j, k] = _narrow(z, operand)
            if first and renormalise:
                ratio[j, 0] = 1 / max(np.sqrt(squares), SHORTEST)
            elif first:
                ratio[j, 0] *= share[j, 0]
        else:
            for k in range(weight.shape[1]):
                operand[j, k] = _narrow(_wide(weight[j, k]), operand)


@numba.njit(error_model="numpy", fastmath=_ANY_ORDER, inline="always")
def _project_row(grad_mixture, weight, memory, share, length, ratio, gradient, projected, j, place):
    """dL/dW from h of class j: h less its component along Z, where that is not W, and then along W."""
    along = gradient.dtype.type(0)
    if projected and share[j, 0] < 1:
        factor = (1 / share[j, 0] - 1) * length[j, 0]
        for k in range(weight.shape[1]):
            z = _wide(weight[j, k]) + factor * _wide(memory[j, k])
            along += _wide(grad_mixture[j, k]) * z
        of_mixture = -along * ratio[j, 0] * ratio[j, 0]
        along = gradient.dtype.type(0)
        for k in range(weight.shape[1]):
            w = _wide(weight[j, k])
            h = _wide(grad_mixture[j, k]) + of_mixture * (w + factor * _wide(memory[j, k]))
            gradient[place, k] = h
            along += h * w
    else:
        for k in range(weight.shape[1]):
            gradient[place, k] = _wide(grad_mixture[j, k])
            along += _wide(grad_mixture[j, k]) * _wide(weight[j, k])
    of_weight = -along / (length[j, 0] * length[j, 0])
    for k in range(weight.shape[1]):
        gradient[place, k] += of_weight * _wide(weight[j, k])


@_compile
def _project(grad_mixture, weight, memory, share, length, ratio, gradient, projected):
    """Compute dL/dW from h."""
    for j in range(len(weight)):
        _project_row(grad_mixture, weight, memory, share, length, ratio, gradient, projected, j, j)


# size: the vectors of a class, its state, and the three numbers of SGD
@_compile
def _project_and_move(
    grad_mixture, weight, memory, share, length, ratio, gradient, projected, buffer, lr, momentum, weight_decay
):
    """The same, and m ← μ·m + dL/dW + ω·w, w ← w − η·m; ``gradient`` is a single row."""
    for j in range(len(weight)):
        _project_row(grad_mixture, weight, memory, share, length, ratio, gradient, projected, j, 0)
        for k in range(weight.shape[1]):
            buffer[j, k] = momentum * buffer[j, k] + (gradient[0, k] + weight_decay * weight[j, k])
            weight[j, k] -= lr * buffer[j, k]


@_compile_in_order
def _exponentiate(cosines, ratio, scale, kept, keep, sums):
    """e_ji, summed over classes, and ρ_j·e_ji."""
    sums[:] = 0
    for j in range(len(cosines)):
        for k in range(cosines.shape[1]):
            e = _exp(_wide(cosines[j, k]) * (scale * ratio[j, 0]))
            sums[k] += e
            if keep:
                kept[j, k] = _narrow(e * ratio[j, 0], kept)


class NumbaTiles:
    """The operations inside a tile, compiled by numba; torch's own for types that numba does not have."""

    name: ClassVar[str] = "numba"
    parallel: ClassVar[bool] = True

    def __init__(self) -> None:
        self._torch = TorchTiles()

    def mix(self, tile: Tile, dtype: torch.dtype, *, first: bool) -> Mixture:
        """Z of a tile; see ``TileOperations``."""
        if not _has_types(tile) or (tile.memory is None and tile.weight.dtype == dtype):
            return self._torch.mix(tile, dtype, first=first)
        operand = tile.scratch("operand", tuple(tile.weight.shape), dtype)
        memory, share = tile.memory_and_share
        arrays = map(_array, (tile.weight, memory, share, tile.length, tile.ratio, operand))
        _mix(*arrays, first, tile.memory is not None, tile.renormalise)
        return Mixture(None, operand)

    def exponentials(
        self, tile: Tile, cosines: Tensor, own: OwnPlaces, scale: float, kept: Tensor | None
    ) -> Float[Tensor, " batch"]:
        """Σ_j e_ji; see ``TileOperations``."""
        own.fill(cosines, tile.rows, -math.inf)
        sums = tile.ratio.new_empty(cosines.shape[1])
        number = np.float64(scale) if sums.dtype == torch.float64 else np.float32(scale)
        target = cosines if kept is None else kept
        _exponentiate(_array(cosines), _array(tile.ratio), number, _array(target), kept is not None, _array(sums))
        return sums

    def project(
        self, tile: Tile, mixture: Mixture, grad_mixture: Float[Tensor, "tile dim"]
    ) -> Float[Tensor, "tile dim"]:
        """dL/dW from h; see ``TileOperations``."""
        if not _has_types(tile):
            return self._torch.project(tile, mixture, grad_mixture)
        gradient = tile.scratch("gradient", tuple(grad_mixture.shape), tile.ratio.dtype)
        _project(*_arrays(tile, grad_mixture), _array(gradient), tile.memory is not None and tile.renormalise)
        return gradient

    def move(self, tile: Tile, mixture: Mixture, grad_mixture: Float[Tensor, "tile dim"], rule: Momentum) -> bool:
        """Move W and its momentum; see ``TileOperations``."""
        if rule.stopped is not None or not _has_types(tile):
            return False
        gradient = tile.scratch("gradient", (1, grad_mixture.shape[1]), tile.ratio.dtype)
        rates = (np.float64(x).astype(_array(gradient).dtype) for x in (rule.lr, rule.momentum, rule.weight_decay))
        projected = tile.memory is not None and tile.renormalise
        _project_and_move(
            *_arrays(tile, grad_mixture), _array(gradient), projected, _array(rule.buffer[tile.rows]), *rates
        )
        return True


def _has_types(tile: Tile) -> bool:
    """Whether the kernels take the types of a tile."""
    return tile.weight.dtype in _TYPES and (tile.memory is None or tile.memory.dtype in _TYPES)


def _arrays(tile: Tile, grad_mixture: Tensor) -> Iterator[Any]:
    return map(_array, (grad_mixture.contiguous(), tile.weight, *tile.memory_and_share, tile.length, tile.ratio))


def _array(tensor: Tensor) -> Any:
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
