"""Inspection of foreign classifiers: their weight, its layout, and the arguments of their forward."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.nn.utils import parametrize

from vplface.prototypes.owner import MemoryOwner

Layout: TypeAlias = Literal["rows", "columns"]


def parameter_owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that has a parameter, and the name of the parameter there.

    Args:
        module: the module that contains the parameter at any depth.
        name: name of the parameter in ``module.named_parameters()``.

    Raises:
        ValueError: if there is no such parameter, or it is parametrised already.
    """
    path, _, leaf = name.rpartition(".")
    try:
        owner = module.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"{type(module).__name__} has no submodule {path!r}, so no parameter {name!r}") from error
    if parametrize.is_parametrized(owner, leaf):
        first = owner.parametrizations[leaf][0]  # type: ignore[index]
        how = "plugged; remove() that handle first" if isinstance(first, MemoryOwner) else f"parametrised, by {first}"
        raise ValueError(f"{name} of {type(owner).__name__} is already {how}")
    if owner._parameters.get(leaf) is None:
        names = ", ".join(each for each, _ in module.named_parameters()) or "none"
        raise ValueError(f"{type(module).__name__} has no parameter {name!r}; its parameters: {names}")
    return owner, leaf


def infer_layout(owner: nn.Module, leaf: str, shape: torch.Size, sub_centers: int) -> Layout:
    """Infer which side of W the classes are on.

    Args:
        owner: the module that has W.
        leaf: the name of W there.
        shape: of W.
        sub_centers: rows (columns) of W per class.

    Raises:
        ValueError: if it cannot be inferred from the module.
    """
    if isinstance(owner, nn.Linear):
        return "rows"
    if leaf == "W" and any(base.__module__.startswith("pytorch_metric_learning.") for base in type(owner).__mro__):
        return "columns"
    sizes = {
        "dim": [getattr(owner, name, None) for name in ("embedding_dim", "embedding_size", "in_features")],
        "classes": [getattr(owner, name, None) for name in ("num_classes", "out_features")],
    }
    dims = [size for size in sizes["dim"] if isinstance(size, int) and size > 0]
    classes = [size * sub_centers for size in sizes["classes"] if isinstance(size, int) and size > 0]
    fitting: Mapping[Layout, bool] = {
        "rows": set(dims) <= {shape[1]} and set(classes) <= {shape[0]},
        "columns": set(dims) <= {shape[0]} and set(classes) <= {shape[1]},
    }
    possible = [layout for layout, fits in fitting.items() if fits]
    if len(possible) == 1:
        return possible[0]
    raise ValueError(
        f"{leaf} of {type(owner).__name__} is {list(shape)}, so the side of the classes cannot be inferred; give"
        " layout='rows' for [classes, dim] or layout='columns' for [dim, classes]"
    )


def forward_arguments(module: nn.Module, remember: tuple[str, str] | Literal["auto", "call"]) -> tuple[str, str] | None:
    """The arguments of a module's forward that are remembered; None if ``remember`` is to be called.

    Args:
        module: the module that receives embeddings and labels.
        remember: as in ``plug``.

    Raises:
        ValueError: if forward has no such arguments.
    """
    if remember == "call":
        return None
    names = ("embeddings", "labels") if remember == "auto" else remember
    if not (isinstance(names, tuple) and len(names) == 2):
        raise ValueError(f"remember must be 'auto', 'call' or the names of two arguments of forward, got {remember!r}")
    known = inspect.signature(module.forward).parameters
    if set(names) <= set(known):
        return names
    if remember == "auto":
        return None
    raise ValueError(f"forward of {type(module).__name__} has {', '.join(known)}, and not both of {names}")
