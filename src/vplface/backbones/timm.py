"""Backbone from any timm model (PyTorch Image Models): pooled features, a linear layer to d and a BatchNorm."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vplface.backbones.precision import full_precision
from vplface.errors import ConfigError, MissingExtraError, VplfaceError, import_extra
from vplface.suggest import did_you_mean

PREFIX = "timm:"
"""Prefix in the name of such a backbone."""

_SIZE = 112
_RESERVED_OPTIONS = ("pretrained", "checkpoint_path", "num_classes", "in_chans", "img_size")


class Timm(nn.Module):
    """x ↦ BN(linear(network(x))), where the network ends with its own pooling.

    Nothing is downloaded: the weights are random. A network with a fixed picture size is built for 112×112. Autocast
    ends before ``linear``.

    Args:
        name: timm's model name; a tag after the dot selects weights in timm and has no effect here.
        embedding_dim: dimension d of the embedding.
        options: keyword arguments of ``timm.create_model``, e.g. ``drop_path_rate``.

    Raises:
        ConfigError: an unknown name (the message suggests the nearest), an invalid option, or a model that gives no
            feature vector for a 112×112 picture.
        MissingExtraError: the extra ``timm`` is not installed.
        VplfaceError: timm is installed but cannot be imported.
    """

    def __init__(self, name: str, embedding_dim: int = 512, **options: Any) -> None:
        super().__init__()
        timm = _import_timm()
        if not timm.is_model(name):
            hint = did_you_mean(name.partition(".")[0], timm.list_models(), 3) or "; timm.list_models() lists them"
            raise ConfigError(f"backbone {PREFIX}{name}: timm {timm.__version__} has no model of this name{hint}")
        for option in options:
            if option in _RESERVED_OPTIONS:
                raise ConfigError(
                    f"backbone {PREFIX}{name}: option {option!r} cannot be set: the model takes RGB pictures of "
                    f"{_SIZE}×{_SIZE}, outputs features and starts from random weights or backbone.weights"
                )
        self.network, features = _create_network(timm, name, options)
        self.embedding = nn.Linear(features, embedding_dim, bias=False)
        self.embedding_norm = nn.BatchNorm1d(embedding_dim)

    def forward(self, x: Float[Tensor, "batch 3 112 112"]) -> Float[Tensor, "batch dim"]:
        """Return the embeddings, not normalised."""
        features: Tensor = self.network(x)
        with full_precision(x.device):
            embedding: Tensor = self.embedding_norm(self.embedding(features.to(self.embedding.weight.dtype)))
        return embedding

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Name prefixes, in timm's weight files, of the classifier layers that are not used here."""
        names = self.network.pretrained_cfg.get("classifier") or ()  # type: ignore[operator, union-attr]  # a dict
        return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _import_timm() -> ModuleType:
    try:
        return import_extra("timm", "timm")
    except MissingExtraError:
        raise
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"timm needs the package {error.name!r}; install it with: pip install 'vplface[timm]'"
        ) from error
    except Exception as error:  # torchvision can fail in many ways while it registers operators
        raise VplfaceError(
            f"timm is installed but cannot be imported: {_first_line(error)}. torchvision may be built for another "
            "torch (such as CUDA beside a CPU build); install both from one index"
        ) from error


def _create_network(timm: ModuleType, name: str, options: dict[str, Any]) -> tuple[nn.Module, int]:
    """Create the network in training mode; returns it and the size of its features."""
    failure = ""
    for size in ({"img_size": _SIZE}, {}):  # most convolutional networks have no size
        try:
            network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **size, **options)
        except Exception as error:  # models raise anything for options they do not expect
            failure = _first_line(error)
            continue
        try:
            with torch.no_grad():
                features = network.eval()(torch.zeros(1, 3, _SIZE, _SIZE))
        except Exception as error:  # as above, for the picture size
            failure = f"this model does not take pictures of {_SIZE}×{_SIZE} ({_first_line(error)})"
            continue
        if isinstance(features, Tensor) and features.ndim == 2:
            return network.train(), features.shape[1]
        failure = "this model gives no feature vector"
    raise ConfigError(f"backbone {PREFIX}{name}: {failure}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
