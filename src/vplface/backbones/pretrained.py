"""Weights trained elsewhere, for a backbone of ours: insightface's and timm's as they are published."""

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

from vplface.backbones.outline import outlines
from vplface.backbones.table import BACKBONES
from vplface.backbones.timm import Timm
from vplface.bounds import DIM
from vplface.errors import DataError
from vplface.reading import kind_of, read_bytes

LIMIT = 8 * 2**30
"""The largest file of weights, in bytes."""
PICKLE_LIMIT = 16 * 2**20
"""The largest list of tensors inside a ``.pth``, in bytes; a byte of it takes longer than many of weights."""

_PREFIXES = ("module.", "_orig_mod.", "backbone.")  # DistributedDataParallel, torch.compile, a model around it
_NESTED = ("state_dict_backbone", "state_dict")  # where training checkpoints keep the weights
_NAMED_IN_ERRORS = 3
_UNUSUAL = 7  # no layer of a backbone has this length


def load_weights(backbone: nn.Module, path: str | Path) -> None:
    """:func:`load_timm` for a model of timm, :func:`load_insightface` for every other; the key ``backbone.weights``."""
    if isinstance(backbone, Timm):
        load_timm(backbone, path)
    else:
        load_insightface(backbone, path)


def load_insightface(backbone: nn.Module, path: str | Path) -> None:
    """Load insightface's weights (``.pth``, ``.pt`` or ``.safetensors``) into ``backbone``, all or none.

    Made for its IResNets, MobileFaceNets (``mbf``, ``mbf_large``) and ViTs; weights that a backbone of ours saved load
    too. The file may be a bare state dict or a training checkpoint; ``module.``, ``_orig_mod.`` and ``backbone.``
    before every name are ignored. Nothing in the file is executed: only tensors are unpickled.

    Raises:
        DataError: the file is missing, damaged, too large, holds more than tensors or weights that are not finite, or
            belongs to another architecture; then the first names that differ are given, and the backbone that the file
            would fit.
    """
    path = Path(path)
    state = _without_prefixes(_tensors(path))
    found, expected = _shapes(state), _shapes(backbone.state_dict())
    if found != expected:
        raise DataError(
            f"{path}: these weights are not for this backbone: {_differences(found, expected)}. {_advice(found)}"
        )
    _put(state, backbone, path)


def load_timm(backbone: Timm, path: str | Path) -> None:
    """Load a file of weights (``.pth``, ``.pt``, ``.bin`` or ``.safetensors``) into a model of timm, all or none.

    Either timm's own, of the same model: then its classifier is left out, and the layers after the network keep their
    random weights. Or those of the whole backbone, as a run saves them. Weights that depend on the size of the picture
    (positions in a ViT) have to be those of 112×112. Nothing in the file is executed: only tensors are unpickled.

    Raises:
        DataError: the file is missing, damaged, too large, holds more than tensors or weights that are not finite, or
            belongs to another model; then the first names that differ are given.
    """
    path = Path(path)
    state = _without_prefixes(_tensors(path))
    if _shapes(state) == _shapes(backbone.state_dict()):
        _put(state, backbone, path)
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
    _put(state, backbone.network, path)


def _put(state: Mapping[str, Tensor], network: nn.Module, path: Path) -> None:
    """Load a state of the right names and shapes; raises DataError, and changes nothing, unless all is finite."""
    for name, expected in network.state_dict().items():
        tensor, wanted = state[name], str(expected.dtype).removeprefix("torch.")
        plain = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
        if not plain or tensor.is_floating_point() != expected.is_floating_point():
            kind = f"{tensor.dtype}{'' if plain else ', sparse, quantised or without numbers'}".removeprefix("torch.")
            raise DataError(f"{path}: {name} is of {kind}; expected dense {wanted}")
        if not tensor.to(expected.dtype).isfinite().all():
            raise DataError(
                f"{path}: {name} holds numbers that are not finite in {wanted}; the training that made them diverged, "
                "or the file is damaged"
            )
    network.load_state_dict(dict(state), strict=True)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _tensors(path: Path) -> dict[str, Tensor]:
    kind = kind_of(path)
    if kind is None or kind == "folder":
        raise DataError(f"{path}: no such file{'; it is a folder' if kind else ''}")
    if path.suffix == ".onnx":
        raise DataError(f"{path}: an ONNX file is a whole network; weights come as .pth, .pt, .bin or .safetensors")
    data = read_bytes(path, LIMIT)
    if data.startswith(b"PK") and path.suffix != ".safetensors":
        _require_plain(path, data)
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load(data)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what it refuses
                content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
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


def _require_plain(path: Path, data: bytes) -> None:
    """Raise DataError for an archive that is larger when it is unpacked, or is a program."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
    except Exception as error:  # zipfile's are of many kinds too
        raise DataError(f"{path}: damaged: {error}") from error
    if any(Path(part.filename).name == "constants.pkl" for part in parts):
        raise DataError(f"{path}: a TorchScript archive, which is a program; ask for a plain state dict")
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or sum(p.file_size for p in parts) > len(data):
        raise DataError(f"{path}: its parts are compressed, or overlap, and torch.save writes neither; save it again")
    if any(part.filename.endswith(".pkl") and part.file_size > PICKLE_LIMIT for part in parts):
        raise DataError(f"{path}: the names of its tensors take more than {PICKLE_LIMIT // 2**20} MiB; it is damaged")


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((each for each in _PREFIXES if all(name.startswith(each) for name in state)), None):
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
            more = f" and {len(names) - _NAMED_IN_ERRORS} more" if len(names) > _NAMED_IN_ERRORS else ""
            lines.append(f"{what}: {', '.join(names[:_NAMED_IN_ERRORS])}{more}")
    return "; ".join(lines)


def _advice(found: Mapping[str, Size]) -> str:
    for name in BACKBONES:
        embedding_dim = found.get(_of_length_d(name), Size([0])).numel()
        if 0 < embedding_dim <= DIM and _state_of(name, embedding_dim) == found:
            return f"The file fits backbone {name} with embedding_dim {embedding_dim}"
    return f"The file fits none of {', '.join(BACKBONES)}"


@cache
def _of_length_d(name: str) -> str:
    """The name of a tensor whose length is the size of the embedding."""
    return next(name for name, shape in _state_of(name, _UNUSUAL).items() if shape == (_UNUSUAL,))


def _state_of(name: str, embedding_dim: int) -> dict[str, Size]:
    with outlines():
        return _shapes(BACKBONES[name](embedding_dim=embedding_dim).state_dict())
