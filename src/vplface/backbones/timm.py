"""Any model of timm (PyTorch Image Models) as a backbone: its pooled features, a linear layer to d, and a BatchNorm."""

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
"""What the name of such a backbone begins with."""

_SIZE = 112
_FIXED = ("pretrained", "checkpoint_path", "num_classes", "in_chans", "img_size")


class Timm(nn.Module):
    """x ↦ BN(linear(network(x))), where the network ends with its own pooling.

    Nothing is downloaded: the weights are random. A network that is built for a size of picture is built for 112×112.
    Autocast ends before ``linear``.

    Args:
        name: of timm, with or without the tag after the dot, which tells weights apart and is of no effect here.
        embedding_dim: d.
        options: of that model, as ``timm.create_model`` takes them, e.g. ``drop_path_rate``.

    Raises:
        ConfigError: a name that timm does not have (the nearest are named), an option that the model does not take, or
            a model that makes no feature vector of a 112×112 picture.
        MissingExtraError: without the extra ``timm``.
        VplfaceError: timm is there but cannot be imported.
    """

    def __init__(self, name: str, embedding_dim: int = 512, **options: Any) -> None:
        super().__init__()
        timm = _timm()
        if not timm.is_model(name):
            hint = did_you_mean(name.partition(".")[0], timm.list_models(), 3) or "; timm.list_models() lists them"
            raise ConfigError(f"backbone {PREFIX}{name}: timm {timm.__version__} has no model of this name{hint}")
        for option in options:
            if option in _FIXED:
                raise ConfigError(
                    f"backbone {PREFIX}{name}: option {option!r} cannot be set: the model takes RGB pictures of "
                    f"{_SIZE}×{_SIZE}, ends in features and begins with random weights, or those of backbone.weights"
                )
        self.network, features = _network(timm, name, options)
        self.embedding = nn.Linear(features, embedding_dim, bias=False)
        self.embedding_norm = nn.BatchNorm1d(embedding_dim)

    def forward(self, x: Float[Tensor, "batch 3 112 112"]) -> Float[Tensor, "batch dim"]:
        """Embeddings, not normalised."""
        features: Tensor = self.network(x)
        with full_precision(x.device):
            embedding: Tensor = self.embedding_norm(self.embedding(features.to(self.embedding.weight.dtype)))
        return embedding

    @property
    def classifiers(self) -> tuple[str, ...]:
        """What the names begin with, in timm's files of weights, of the layers that are left out here."""
        names = self.network.pretrained_cfg.get("classifier") or ()  # type: ignore[operator, union-attr]  # a dict
        return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _timm() -> ModuleType:
    try:
        return import_extra("timm", "timm")
    except MissingExtraError:
        raise
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"timm needs the package {error.name!r}; install it with: pip install 'vplface[timm]'"
        ) from error
    except Exception as error:  # torchvision registers operators as it is imported, and fails as it can
        raise VplfaceError(
            f"timm is installed but cannot be imported: {_first_line(error)}. A torchvision that was built for another "
            "torch does this, as where torch is the CPU build and torchvision is not: install both from one index"
        ) from error


def _network(timm: ModuleType, name: str, options: dict[str, Any]) -> tuple[nn.Module, int]:
    """The network in training mode, and the size of its features."""
    failure = ""
    for size in ({"img_size": _SIZE}, {}):  # most convolutional networks have no size
        try:
            network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **size, **options)
        except Exception as error:  # whatever its code comes to with an option that it does not expect
            failure = _first_line(error)
            continue
        try:
            with torch.no_grad():
                features = network.eval()(torch.zeros(1, 3, _SIZE, _SIZE))
        except Exception as error:  # here with a size
            failure = f"this model does not take pictures of {_SIZE}×{_SIZE} ({_first_line(error)})"
            continue
        if isinstance(features, Tensor) and features.ndim == 2:
            return network.train(), features.shape[1]
        failure = "this model makes no feature vector"
    raise ConfigError(f"backbone {PREFIX}{name}: {failure}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
