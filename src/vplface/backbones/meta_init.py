"""Construction of networks on the ``meta`` device, without memory for their weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from vplface.errors import ConfigError


@contextmanager
def meta_init(max_modules: int | None = None) -> Iterator[None]:
    """Build networks on the device ``meta`` within the block.

    Args:
        max_modules: limit of modules at any depth; None for no limit.

    Raises:
        ConfigError: a network has more modules.
    """
    counter = itertools.count(1)

    def check_count(module: nn.Module, name: str, child: nn.Module | None) -> None:
        if max_modules is not None and next(counter) > max_modules:
            raise ConfigError(f"the network has more than {max_modules:,} modules, more than its weights can fill")

    hook = register_module_module_registration_hook(check_count)
    try:
        with torch.device("meta"), _SkipInitialisation():
            yield
    finally:
        hook.remove()


class _SkipInitialisation(TorchFunctionMode):
    """Skips the initialisation of weights.

    To initialise weights on ``meta`` torch would load its compiler, which takes a second and leaves a folder behind.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", None) == torch.nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
