"""Loaders of pretrained weights published by insightface and timm."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Size, Tensor, nn

from vplface.backbones.meta_init import meta_init
from vplface.backbones.onnx_graph import load_onnx
from vplface.backbones.table import BACKBONES
from vplface.backbones.timm import Timm
from vplface.bounds import DIM
from vplface.errors import DataError
from vplface.reading import kind_of, read_bytes

MAX_FILE_BYTES = 8 * 2**30
"""Largest weight file, in bytes."""
MAX_PICKLE_BYTES = 16 * 2**20
"""Largest pickled list of tensors inside a ``.pth``, in bytes; unpickling is much slower than reading weights."""

_PREFIXES = ("module.", "_orig_mod.", "backbone.")  # DistributedDataParallel, torch.compile, wrapper models
_NESTED_KEYS = ("state_dict_backbone", "state_dict")  # where training checkpoints keep the weights
_MAX_LISTED = 3
_UNUSED_LENGTH = 7  # no layer of a backbone has this length


def load_weights(backbone: nn.Module, path: str | Path) -> None:
    """Load a file: an ``.onnx`` by structure, or weights by :func:`load_timm` or :func:`load_insightface`.

    Raises:
        DataError: as these, or for an ``.onnx`` file: an operator is not supported, a layer has no counterpart of the
            same shape, or the embeddings differ from onnxruntime's; the message names node or layer.
        MissingExtraError: an ``.onnx`` file without the extra ``onnx``.
    """
    if Path(path).suffix == ".onnx":
        load_onnx(backbone, path)
    elif isinstance(backbone, Timm):
        load_timm(backbone, path)
    else:
        load_insightface(backbone, path)


def load_insightface(backbone: nn.Module, path: str | Path) -> None:
    """Load insightface's weights (``.pth``, ``.pt`` or ``.safetensors``) into ``backbone``, all or none.

    For IResNet, MobileFaceNet (``mbf``, ``mbf_large``) and ViT weights, including those saved by vplface. The file may
    be a bare state dict or a training checkpoint; the prefixes ``module.``, ``_orig_mod.`` and ``backbone.`` of all
    names are ignored. Nothing in the file is executed: only tensors are unpickled.

    Raises:
        DataError: the file is missing, damaged, too large, holds objects other than tensors or weights that are not
            finite, or belongs to another architecture. The message then lists the first names that differ and the
            backbone that the file fits.
    """
    path = Path(path)
    state = _strip_prefixes(_read_tensors(path))
    found, expected = _shapes(state), _shapes(backbone.state_dict())
    if found != expected:
        difference = f"these weights are not for this backbone: {_differences(found, expected)}"
        raise DataError(f"{path}: {difference}. {_matching_backbone(found)}")
    _load_state(state, backbone, path)


def load_timm(backbone: Timm, path: str | Path) -> None:
    """Load a weight file (``.pth``, ``.pt``, ``.bin`` or ``.safetensors``) into a timm model, all or none.

    The file holds either timm's weights for the same model (its classifier is skipped, and the layers after the network
    keep their random weights) or those of the whole backbone, as a run saves them. Weights that depend on the picture
    size (positions in a ViT) must be those of 112×112. Nothing in the file is executed: only tensors are unpickled.

    Raises:
        DataError: the file is missing, damaged, too large, holds objects other than tensors or weights that are not
            finite, or belongs to another model; the message lists the first names that differ.
    """
    path = Path(path)
    state = _strip_prefixes(_read_tensors(path))
    if _shapes(state) == _shapes(backbone.state_dict()):
        _load_state(state, backbone, path)
        return
    expected = _shapes(backbone.network.state_dict())
    state = {
        name: tensor for name, tensor in state.items() if name in expected or not name.startswith(backbone.classifiers)
    }
    found = _shapes(state)
    if found != expected:
        raise DataError(
            f"{path}: these weights are not for this model at 112×112 pixels: {_differences(found, expected)}"
        )
    _load_state(state, backbone.network, path)


def _load_state(state: Mapping[str, Tensor], network: nn.Module, path: Path) -> None:
    """Load a state dict of matching names and shapes; raises DataError, changing nothing, if a value is not finite."""
    for name, expected in network.state_dict().items():
        tensor, wanted = state[name], str(expected.dtype).removeprefix("torch.")
        plain = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
        if not plain or tensor.is_floating_point() != expected.is_floating_point():
            kind = f"{tensor.dtype}{'' if plain else ', sparse, quantised or without data'}".removeprefix("torch.")
            raise DataError(f"{path}: {name} has type {kind}; expected dense {wanted}")
        if not tensor.to(expected.dtype).isfinite().all():
            raise DataError(
                f"{path}: {name} holds values that are not finite in {wanted}; the training diverged, or the file is "
                "damaged"
            )
    network.load_state_dict(dict(state), strict=True)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    kind = kind_of(path)
    if kind is None or kind == "folder":
        raise DataError(f"{path}: no such file{'; it is a folder' if kind else ''}")
    if path.suffix == ".onnx":
        raise DataError(f"{path}: an ONNX file is not a weight file; expected .pth, .pt, .bin or .safetensors")
    data = read_bytes(path, MAX_FILE_BYTES)
    if data.startswith(b"PK") and path.suffix != ".safetensors":
        _require_uncompressed(path, data)
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load(data)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about refused content
                content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damage can raise almost anything: IndexError, OSError, RuntimeError, ...
        # torch's own message recommends weights_only=False, which would run the file's code.
        raise DataError(
            f"{path}: not a readable weight file. It is damaged, or it holds Python objects other than tensors, which "
            "are never loaded because they could run code; download it again, or ask for a plain state dict"
        ) from error
    for key in _NESTED_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise DataError(f"{path}: {name!r} is a {type(value).__name__}; expected a dictionary of tensors")
    return dict(content)


def _require_uncompressed(path: Path, data: bytes) -> None:
    """Raise DataError for an archive that is compressed or contains a program."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
    except Exception as error:  # zipfile raises many kinds too
        raise DataError(f"{path}: damaged: {error}") from error
    if any(Path(part.filename).name == "constants.pkl" for part in parts):
        raise DataError(f"{path}: a TorchScript archive, which is a program; ask for a plain state dict")
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or sum(p.file_size for p in parts) > len(data):
        raise DataError(f"{path}: its entries are compressed or overlap, which torch.save never does; save it again")
    if any(part.filename.endswith(".pkl") and part.file_size > MAX_PICKLE_BYTES for part in parts):
        raise DataError(f"{path}: its tensor names exceed {MAX_PICKLE_BYTES // 2**20} MiB; it is damaged")


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next(
        (candidate for candidate in _PREFIXES if all(name.startswith(candidate) for name in state)), None
    ):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
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
            more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
            lines.append(f"{what}: {', '.join(names[:_MAX_LISTED])}{more}")
    return "; ".join(lines)


def _matching_backbone(found: Mapping[str, Size]) -> str:
    for name in BACKBONES:
        embedding_dim = found.get(_embedding_sized_tensor(name), Size([0])).numel()
        if 0 < embedding_dim <= DIM and _state_shapes(name, embedding_dim) == found:
            return f"The file fits backbone {name} with embedding_dim {embedding_dim}"
    return f"The file fits none of {', '.join(BACKBONES)}"


@cache
def _embedding_sized_tensor(name: str) -> str:
    """Name of a tensor whose length is the embedding dimension."""
    return next(name for name, shape in _state_shapes(name, _UNUSED_LENGTH).items() if shape == (_UNUSED_LENGTH,))


def _state_shapes(name: str, embedding_dim: int) -> dict[str, Size]:
    with meta_init():
        return _shapes(BACKBONES[name](embedding_dim=embedding_dim).state_dict())
