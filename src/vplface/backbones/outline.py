"""Networks without numbers: the names, shapes and types of their weights, and no memory for them."""

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
def outlines(most_modules: int | None = None) -> Iterator[None]:
    """Make the networks built inside outlines, on the device ``meta``.

    Args:
        most_modules: more parts, at any depth, are refused; None takes what comes.

    Raises:
        ConfigError: for more.
    """
    parts = itertools.count(1)

    def count(module: nn.Module, name: str, part: nn.Module | None) -> None:
        if most_modules is not None and next(parts) > most_modules:
            raise ConfigError(f"a network of more than {most_modules:,} parts, which its weights do not have")

    counting = register_module_module_registration_hook(count)
    try:
        with torch.device("meta"), _Undrawn():
            yield
    finally:
        counting.remove()


class _Undrawn(TorchFunctionMode):
    """Draws no initial weights.

    To draw numbers that are not kept, torch would load its compiler, which takes a second and leaves a folder behind.
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
