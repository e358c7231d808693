"""The parameters and BatchNorm layers of a backbone that stand still, for good or until a step."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from vplface.backbones.depth import depths, last_depth
from vplface.config import Config, FinetuneConfig
from vplface.errors import ConfigError
from vplface.suggest import did_you_mean


def freezing_of(config: Config, backbone: nn.Module, per_epoch: int) -> Freezing:
    """The freezing of a configuration.

    Args:
        config: the run.
        backbone: changed as :class:`Freezing` says.
        per_epoch: steps of an epoch.
    """
    until = config.finetune.until
    return Freezing(backbone, config.finetune, None if until is None else until.steps(per_epoch))


def frozen_names(backbone: nn.Module, chosen: FinetuneConfig) -> set[str]:
    """The parameters and buffers that ``freeze`` names.

    ``backbone`` are all; ``all but the last k blocks`` those of a depth of at most L − k (see ``backbones.depth``). A
    name is that of a parameter, or of a module with all that it holds; ``*`` stands for any text.

    Raises:
        ConfigError: if a name fits nothing, or there are not as many blocks.
    """
    depth = depths(backbone)
    if chosen.moving_blocks is not None:
        blocks = last_depth(depth) - 1
        if chosen.moving_blocks > blocks:
            raise ConfigError(f"finetune.freeze: {chosen.freeze!r}: the backbone has {blocks} blocks")
        highest = blocks - chosen.moving_blocks if chosen.moving_blocks else last_depth(depth)
        return {name for name, place in depth.items() if place <= highest}
    found: set[str] = set()
    for pattern in chosen.names:
        fitting = {name for name in depth if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")}
        if not fitting:
            known = ["backbone", *(name for name, _ in backbone.named_modules() if name), *depth]
            first = ", ".join(name for name, _ in backbone.named_children())
            raise ConfigError(
                f"finetune.freeze: the backbone has no parameter {pattern!r}"
                f"{did_you_mean(pattern, known)}; its parts are {first}"
            )
        found |= fitting
    return found


class Freezing:
    """The parts of a backbone that stand still in a step: they have no gradient, and their buffers do not change.

    A BatchNorm layer all of whose parameters and statistics are frozen normalises by its statistics and leaves them as
    they are. With ``batchnorm: freeze`` all of them do, and their scales and shifts stand still too; with
    ``reestimate`` all of them do, and scales and shifts move unless ``freeze`` names them.

    Args:
        backbone: its parameters that never move lose ``requires_grad`` here.
        chosen: the section of the recipe.
        until: the step, counted from 0, from which what ``freeze`` names moves; None for never.

    Raises:
        ConfigError: see :func:`frozen_names`; or if BatchNorm is to be re-estimated in a network without such layers.

    Attributes:
        until: as given.
    """

    def __init__(self, backbone: nn.Module, chosen: FinetuneConfig, until: int | None) -> None:
        self.until = until
        self._whole = chosen.moving_blocks == 0
        named = frozen_names(backbone, chosen)
        norms = {name: m for name, m in backbone.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
        if chosen.batchnorm == "reestimate" and not norms:
            raise ConfigError("finetune.batchnorm: reestimate, but the backbone has no BatchNorm layer")
        own = {name: {f"{name}.{key}" for key in module.state_dict()} for name, module in norms.items()}
        of_norms = set[str]().union(*own.values()) if chosen.batchnorm == "freeze" else set()
        trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
        self._for_good = _chosen(trained, of_norms | (named if until is None else set()))
        self._at_first = _chosen(trained, named - of_norms) if until is not None else []
        self._norms_for_good = [
            name for name in norms if chosen.batchnorm != "train" or (until is None and own[name] <= named)
        ]
        self._norms_at_first = [name for name in norms if until is not None and own[name] <= named]
        for parameter in self._for_good:
            parameter.requires_grad_(False)

    def apply(self, step: int) -> bool:
        """Switch gradients on or off for a step; returns whether anything has changed."""
        moves = self.until is None or step >= self.until
        changed = [parameter for parameter in self._at_first if parameter.requires_grad != moves]
        for parameter in changed:
            parameter.requires_grad_(moves)
        return bool(changed)

    def still_norms(self, step: int) -> set[str]:
        """The names of the BatchNorm layers that stand still in a step."""
        at_first = self._norms_at_first if self.until is not None and step < self.until else []
        return {*self._norms_for_good, *at_first}

    def unmoved(self, step: int) -> bool:
        """Whether the whole backbone has stood still in the first ``step`` steps, and moves later."""
        return self._whole and self.until is not None and step <= self.until

    @property
    def at_first(self) -> int:
        """Weights that stand still until the step ``until``."""
        return sum(parameter.numel() for parameter in self._at_first)


def _chosen(parameters: dict[str, nn.Parameter], names: set[str]) -> list[nn.Parameter]:
    return [parameter for name, parameter in parameters.items() if name in names]
