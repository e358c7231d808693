"""Shapes in signatures, checked while tests run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """What jaxtyping's import hook calls for every function: beartype, for shapes only and after the call.

    The hook asks twice: for a function with the parameters, called before, and for one with the parameters and what is
    returned, called after. Only the second is checked: bad input has to meet the function's own errors.
    Other hints are left to mypy: tests pass stand-ins, and beartype refuses protocols.
    """
    hints = function.__annotations__
    shapes = {name: hint for name, hint in hints.items() if _has_shape(hint)}
    if hints.get("return", Any) is Any or not shapes:
        return function
    function.__annotations__ = shapes
    return beartype(function)


def _has_shape(hint: Any) -> bool:
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(_has_shape, get_args(hint)))
