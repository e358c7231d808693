"""Sizes of tiles of the three products, by kind of device and type of operands, and what is kept between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tile:
    """The tile of a product.

    Attributes:
        rows: of the result.
        columns: of the result; ``move`` takes all d.
        inner: numbers that are multiplied at a time.
        warps: of a program.
        stages: of the pipeline of loads.
    """

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Tiles:
    """The tiles of a step. Sums depend on them, not on the number of multiprocessors of a device.

    Attributes:
        forward: classes × samples.
        pull: samples × components.
        move: classes × d.
        programs: that divide the classes among themselves in ``forward`` and ``pull``.
    """

    forward: Tile
    pull: Tile
    move: Tile
    programs: int = 132

    def lanes(self, batch: int) -> int:
        """Programs of ``forward`` that divide the classes among themselves for the same samples."""
        return max(self.programs // ceil_div(batch, self.forward.columns), 1)

    def splits(self, batch: int, dim: int) -> int:
        """Programs of ``pull`` that divide the classes among themselves for the same tile of dL/dx."""
        tiles = ceil_div(batch, self.pull.rows) * (dim // min(self.pull.columns, dim))
        return max(self.programs // tiles, 1)


_HOPPER = Tiles(Tile(256, 128, 64, 8, 3), Tile(128, 256, 64, 8, 3), Tile(64, 512, 64, 8, 2))
_BLACKWELL = Tiles(Tile(128, 128, 32, 8, 3), Tile(128, 256, 64, 8, 3), Tile(32, 512, 32, 8, 2))
_OTHERS = Tiles(Tile(64, 64, 32, 8, 2), Tile(64, 64, 32, 4, 2), Tile(32, 512, 16, 8, 2))
"""For float32, and for devices whose programs have less than 100 KiB of shared memory."""
_PITCH = 16
_INTERPRETER = Tiles(Tile(32, 16, 32, 4, 1), Tile(16, 64, 32, 4, 1), Tile(16, 512, 16, 4, 1), programs=4)


def ceil_div(a: int, b: int) -> int:
    """The quotient of two whole numbers, rounded up."""
    return -(-a // b)


def pitch_of(batch: int) -> int:
    """Numbers from one row of E to the next: rows begin at multiples of 16 numbers."""
    return ceil_div(batch, _PITCH) * _PITCH


def capability(device: torch.device) -> tuple[int, int]:
    """The compute capability of a device; of a meta device that of Hopper."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def tiles_for(device: torch.device, operands: torch.dtype) -> Tiles:
    """The tiles of a step on a device; on a CPU for Triton's interpreter."""
    if device.type == "cpu":
        return _INTERPRETER
    large = {9: _HOPPER, 10: _BLACKWELL} if operands == torch.bfloat16 else {}
    return large.get(capability(device)[0], _OTHERS)
