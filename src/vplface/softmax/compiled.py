"""The insides of a tile on a CPU, compiled: each row is read once and stays in the innermost cache until it is done.

torch goes over a tile once for every operation. The products of a tile are left to it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vplface.compiled_function import compiled
from vplface.errors import import_extra
from vplface.optim import Momentum
from vplface.softmax.product import product
from vplface.softmax.tiled import SHORTEST, Tile, TiledSoftmax

numba: Any = import_extra("numba", "train")
extending: Any = import_extra("numba.extending", "train")

# numba starts its threads on this first call and may take torch's own, whose number it then sets.
_threads = torch.get_num_threads()
numba.set_num_threads(1)
torch.set_num_threads(_threads)

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


_options = {"parallel": True, "nogil": True, "error_model": "numpy"}
_ANY_ORDER = {"reassoc", "contract"}
_compile = compiled(**_options, fastmath=_ANY_ORDER)
"""Sums may be taken in any order, which vectors need; nothing else may change, NaN least of all."""
_compile_in_order = compiled(**_options, fastmath={"contract"})


@_compile
def _mix(weight, memory, mix_ratio, length, ratio, operand, first, mixed, renormalise):
    """Z in the type of products; on the first visit also ‖W‖, ρ and ‖W‖·λ/(1−λ)."""
    for j in numba.prange(len(weight)):
        if first:
            squares = length.dtype.type(0)
            for k in range(weight.shape[1]):
                squares += _wide(weight[j, k]) * _wide(weight[j, k])
            length[j, 0] = max(np.sqrt(squares), SHORTEST)
            ratio[j, 0] = 1 / length[j, 0]
            if mixed:
                mix_ratio[j, 0] *= length[j, 0]
        if mixed and mix_ratio[j, 0] != 0:
            squares = length.dtype.type(0)
            for k in range(weight.shape[1]):
                z = _wide(weight[j, k]) + mix_ratio[j, 0] * _wide(memory[j, k])
                squares += z * z
                operand[j, k] = _narrow(z, operand)
            if first and renormalise:
                ratio[j, 0] = 1 / max(np.sqrt(squares), SHORTEST)
        else:
            for k in range(weight.shape[1]):
                operand[j, k] = _narrow(_wide(weight[j, k]), operand)


@numba.njit(error_model="numpy", fastmath=_ANY_ORDER, inline="always")
def _project_row(grad_mixture, weight, memory, mix_ratio, mixture_factor, weight_factor, gradient, mixed, j, place):
    """dL/dW from h of class j: h less its component along Z, where that is not W, and then along W."""
    along = gradient.dtype.type(0)
    if mixed and mix_ratio[j, 0] != 0:
        for k in range(weight.shape[1]):
            z = _wide(weight[j, k]) + mix_ratio[j, 0] * _wide(memory[j, k])
            along += _wide(grad_mixture[j, k]) * z
        of_mixture = along * mixture_factor[j, 0]
        along = gradient.dtype.type(0)
        for k in range(weight.shape[1]):
            w = _wide(weight[j, k])
            h = _wide(grad_mixture[j, k]) + of_mixture * (w + mix_ratio[j, 0] * _wide(memory[j, k]))
            gradient[place, k] = h
            along += h * w
    else:
        for k in range(weight.shape[1]):
            gradient[place, k] = _wide(grad_mixture[j, k])
            along += _wide(grad_mixture[j, k]) * _wide(weight[j, k])
    of_weight = along * weight_factor[j, 0]
    for k in range(weight.shape[1]):
        gradient[place, k] += of_weight * _wide(weight[j, k])


@_compile
def _project(grad_mixture, weight, memory, mix_ratio, mixture_factor, weight_factor, gradient, mixed):
    """Compute dL/dW from h."""
    for j in numba.prange(len(weight)):
        _project_row(grad_mixture, weight, memory, mix_ratio, mixture_factor, weight_factor, gradient, mixed, j, j)


@_compile
def _project_and_move(
    grad_mixture,
    weight,
    memory,
    mix_ratio,
    mixture_factor,
    weight_factor,
    gradient,
    mixed,
    buffer,
    lr,
    momentum,
    weight_decay,
):
    """The same, and m ← μ·m + dL/dW + ω·w, w ← w − η·m; of ``gradient`` a row a block is used."""
    size = -(-len(weight) // len(gradient))
    for block in numba.prange(len(gradient)):
        for j in range(block * size, min((block + 1) * size, len(weight))):
            _project_row(
                grad_mixture,
                weight,
                memory,
                mix_ratio,
                mixture_factor,
                weight_factor,
                gradient,
                mixed,
                j,
                block,
            )
            for k in range(weight.shape[1]):
                buffer[j, k] = momentum * buffer[j, k] + (gradient[block, k] + weight_decay * weight[j, k])
                weight[j, k] -= lr * buffer[j, k]


@_compile_in_order
def _exponentiate(cosines, ratio, scale, grad_logits, keep, sums):
    """e_ji, summed over as many blocks of classes as ``sums`` has rows, and ρ_j·e_ji."""
    size = -(-len(cosines) // len(sums))
    for block in numba.prange(len(sums)):
        sums[block] = 0
        for j in range(block * size, min((block + 1) * size, len(cosines))):
            for k in range(cosines.shape[1]):
                e = _exp(_wide(cosines[j, k]) * (scale * ratio[j, 0]))
                sums[block, k] += e
                if keep:
                    grad_logits[j, k] = _narrow(e * ratio[j, 0], grad_logits)


class NumbaSoftmax(TiledSoftmax):
    """The same visits, with the insides of a tile compiled."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
        self.compiled = all(tensor.dtype in _TYPES for tensor in (*self._memory(slice(0), False), self.weight))

    def _mix(self, rows: slice, own: tuple[Tensor, Tensor], mixed: bool, first: bool) -> Tile:
        weight, ratio = self.weight[rows], self.ratio[rows]
        if not self.compiled or (not mixed and weight.dtype == self.operand_type):
            return super()._mix(rows, own, mixed, first)
        renormalise = self.injection is not None and self.injection.renormalise
        operand = self._buffer("operand", weight, self.operand_type)
        memory, mix_ratio = self._memory(rows, mixed)
        arrays = map(_array, (weight, memory, mix_ratio, self.length[rows], ratio, operand))
        _mix(*arrays, first, mixed, renormalise)
        if first and self.share is not None and not renormalise:
            ratio *= self.share[rows]
        return Tile(rows, weight, operand, operand, ratio, own, memory)

    def _exponentials(self, tile: Tile, grad_logits: Tensor | None) -> Float[Tensor, " batch"]:
        if not self.plain:
            return super()._exponentials(tile, grad_logits)
        cosines = product(tile.operand, self.operand)
        cosines[tile.own] = -math.inf
        sums = tile.ratio.new_empty(numba.get_num_threads(), cosines.shape[1])
        scale = np.float64(self.scale) if self.type == torch.float64 else np.float32(self.scale)
        _exponentiate(
            _array(cosines),
            _array(tile.ratio),
            scale,
            _array(cosines if grad_logits is None else grad_logits),
            grad_logits is not None,
            _array(sums),
        )
        return sums.sum(0)

    def _project(self, tile: Tile, grad_mixture: Float[Tensor, "tile dim"]) -> Float[Tensor, "tile dim"]:
        if not self.compiled:
            return super()._project(tile, grad_mixture)
        gradient = self._buffer("gradient", grad_mixture, self.type)
        _project(*self._arrays_of_projection(tile, grad_mixture, gradient))
        return gradient

    def _step(self, tile: Tile, grad_mixture: Float[Tensor, "tile dim"], rule: Momentum) -> bool:
        if not self.compiled:
            return False
        gradient = self.workspace.take(
            "gradient", (numba.get_num_threads(), grad_mixture.shape[1]), self.type, grad_mixture.device
        )
        rates = (np.float64(x).astype(_array(gradient).dtype) for x in (rule.lr, rule.momentum, rule.weight_decay))
        _project_and_move(
            *self._arrays_of_projection(tile, grad_mixture, gradient), _array(rule.buffer[tile.rows]), *rates
        )
        return True

    def _arrays_of_projection(self, tile: Tile, grad_mixture: Tensor, gradient: Tensor) -> tuple[Any, ...]:
        rows = tile.rows
        memory, mix_ratio = self._memory(rows, False)
        memory = memory if tile.memory is None else tile.memory
        directions = tile.weight, memory, mix_ratio, self.mixture_factor[rows], self.weight_factor[rows]
        mixed = tile.mixture is not tile.weight and self.injection is not None and self.injection.renormalise
        return *map(_array, (grad_mixture.contiguous(), *directions, gradient)), mixed

    def _memory(self, rows: slice, mixed: bool) -> tuple[Tensor, Tensor]:
        """Injected rows and ‖W‖·λ/(1−λ); without injection, rows of the same type that are not read."""
        if self.injection is None:
            return self.weight[rows], self.length[rows]
        memory = self.injection.memory_rows(rows) if mixed else self.injection.memory.flatten(1)[rows]
        return memory, self.mix_ratio[rows]


def _array(tensor: Tensor) -> Any:
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
