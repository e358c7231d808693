"""Weights trained elsewhere, for a backbone of ours: insightface's IResNets as they are published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Size, Tensor, nn

from vplface.backbones.iresnet import BLOCKS, IResNet
from vplface.errors import DataError

_PREFIXES = ("module.", "_orig_mod.", "backbone.")  # DistributedDataParallel, torch.compile, a model around it
_NESTED = ("state_dict_backbone", "state_dict")  # where training checkpoints keep the weights
_NAMED_IN_ERRORS = 3


def load_insightface(backbone: nn.Module, path: str | Path) -> None:
    """Load an insightface IResNet's weights (``.pth``, ``.pt`` or ``.safetensors``) into ``backbone``, all or none.

    The file may be a bare state dict or a training checkpoint; ``module.``, ``_orig_mod.`` and ``backbone.`` before
    every name are ignored. Nothing in the file is executed: only tensors are unpickled.

    Raises:
        DataError: the file is missing, damaged, holds more than tensors, or belongs to another architecture; then the
            first names that differ are given, and the IResNet that the file would fit.
    """
    path = Path(path)
    state = _without_prefixes(_tensors(path))
    expected = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    found = {name: tensor.shape for name, tensor in state.items()}
    if found != expected:
        raise DataError(f"{path}: these weights are not for this backbone: {_differences(found, expected)}")
    backbone.load_state_dict(state, strict=True)


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage surfaces as almost anything: IndexError, OSError, RuntimeError, ...
        # torch's own message is not repeated: it recommends weights_only=False, which would run the file's code.
        raise DataError(
            f"{path}: not a readable file of weights. It is damaged, or it holds Python objects other than tensors, "
            "which are never loaded because they could run code; download it again, or ask for a plain state dict"
        ) from error
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise DataError(f"{path}: {name!r} is a {type(value).__name__}; expected a dictionary of tensors")
    return dict(content)


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return _without_prefixes({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    return state


def _differences(found: Mapping[str, Size], expected: Mapping[str, Size]) -> str:
    groups = {
        "missing in the file": [name for name in expected if name not in found],
        "unexpected in the file": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} {tuple(found[name])} instead of {tuple(shape)}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
    }
    lines = []
    for what, names in groups.items():
        if names:
            more = f" and {len(names) - _NAMED_IN_ERRORS} more" if len(names) > _NAMED_IN_ERRORS else ""
            lines.append(f"{what}: {', '.join(names[:_NAMED_IN_ERRORS])}{more}")
    return f"{'; '.join(lines)}. {_advice(found)}"


def _advice(found: Mapping[str, Size]) -> str:
    if "fc.weight" in found:
        embedding_dim = found["fc.weight"][0]
        for depth, blocks in BLOCKS.items():
            with torch.device("meta"):
                candidate = IResNet(blocks, embedding_dim)
            if {name: tensor.shape for name, tensor in candidate.state_dict().items()} == found:
                return f"The file fits backbone iresnet{depth} with embedding_dim {embedding_dim}"
    return "The file fits none of " + ", ".join(f"iresnet{depth}" for depth in BLOCKS)
