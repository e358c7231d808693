"""A decorator for functions that torch.compile must not trace."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_T = TypeVar("_T")


def compile_disabled(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Break torch.compile's graph at ``function``, which has side effects that a graph cannot represent.

    Like ``torch.compiler.disable``, but without loading the compiler, which takes a second.
    """
    disabled: Callable[_P, _T] | None = None

    @wraps(function)
    def call(*args: _P.args, **options: _P.kwargs) -> _T:
        nonlocal disabled
        if "torch._dynamo" not in sys.modules:
            return function(*args, **options)
        if disabled is None:
            disabled = torch.compiler.disable(function)  # type: ignore[no-untyped-call]  # torch's
        return disabled(*args, **options)

    return call
