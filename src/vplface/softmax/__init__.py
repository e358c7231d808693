"""Softmax losses over classes: the definition, and backends that compute the same faster."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Literal, TypeAlias, get_args

import torch

from vplface.softmax import binary, reference, tiled
from vplface.softmax.reference import class_prototypes
from vplface.softmax.sampling import drawn_classes
from vplface.softmax.tiled import Filter, TiledSoftmax
from vplface.softmax.workspace import Workspace

Backend: TypeAlias = Literal["reference", "tiled", "triton"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

__all__ = [
    "BACKENDS",
    "Backend",
    "Filter",
    "Workspace",
    "binary",
    "class_prototypes",
    "drawn_classes",
    "fastest_backend",
    "reference",
    "tiled",
    "tiled_softmax_for",
]


def fastest_backend(device: torch.device) -> Backend:
    """Triton's kernels on a CUDA device where Triton is installed, tiles by torch's own operations elsewhere."""
    return "triton" if device.type == "cuda" and find_spec("triton") is not None else "tiled"


def tiled_softmax_for(backend: Backend, device: torch.device) -> type[TiledSoftmax]:
    """The class that computes a tiled softmax: numba on a CPU where installed, Triton where asked for, else torch.

    Raises:
        MissingExtraError: if Triton is asked for and not installed.
        ValueError: if Triton is asked for on a CPU, and its interpreter is not.
    """
    if backend == "tiled" and device.type == "cpu" and find_spec("numba") is not None:
        from vplface.softmax.compiled import NumbaSoftmax

        return NumbaSoftmax
    if backend != "triton":
        return TiledSoftmax
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError("backend='triton' needs the head on a GPU and it is on the CPU; backend='auto' fits either")
    from vplface.softmax.kernels import TritonSoftmax

    return TritonSoftmax
