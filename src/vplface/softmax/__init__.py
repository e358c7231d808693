"""Softmax losses over classes: the definition, and backends that compute the same faster."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Literal, TypeAlias, get_args

import torch

from vplface.softmax import binary, reference, tiled
from vplface.softmax.problem import SoftmaxProblem
from vplface.softmax.reference import class_prototypes
from vplface.softmax.sampling import drawn_classes
from vplface.softmax.tiled import Filter
from vplface.softmax.tiles import TileOperations, TorchTiles
from vplface.softmax.workspace import Workspace

Backend: TypeAlias = Literal["reference", "tiled", "triton"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

__all__ = [
    "BACKENDS",
    "Backend",
    "Filter",
    "SoftmaxProblem",
    "Workspace",
    "binary",
    "class_prototypes",
    "drawn_classes",
    "fastest_backend",
    "implementation_of",
    "reference",
    "tile_operations",
    "tiled",
]


def fastest_backend(device: torch.device) -> Backend:
    """Triton's kernels on a CUDA device where Triton is installed, tiles by torch's own operations elsewhere."""
    return "triton" if device.type == "cuda" and find_spec("triton") is not None else "tiled"


def implementation_of(backend: Literal["auto"] | Backend, device: torch.device) -> str:
    """The backend that computes the softmax on a device, with the library inside its tiles: ``"tiled (numba)"``."""
    chosen = fastest_backend(device) if backend == "auto" else backend
    return f"tiled ({_library(chosen, device)})" if chosen == "tiled" else chosen


def _library(backend: Backend, device: torch.device) -> Literal["numba", "torch", "triton"]:
    """numba on a CPU where it is installed, Triton where it is asked for, else torch."""
    if backend == "triton":
        return "triton"
    return "numba" if device.type == "cpu" and find_spec("numba") is not None else "torch"


def tile_operations(backend: Backend, device: torch.device) -> TileOperations:
    """The implementation of the operations inside a tile.

    Raises:
        MissingExtraError: if Triton is asked for and not installed.
        ValueError: if Triton is asked for on a CPU, and its interpreter is not.
    """
    library = _library(backend, device)
    if library == "numba":
        from vplface.softmax.numba_tiles import NumbaTiles

        return NumbaTiles()
    if library == "torch":
        return TorchTiles()
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError("backend='triton' needs the head on a GPU and it is on the CPU; backend='auto' fits either")
    from vplface.softmax.triton_tiles import TritonTiles

    return TritonTiles()
