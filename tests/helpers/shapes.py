"""Shapes in signatures, checked while tests run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import wraps
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, AbstractDtype, jaxtyped

_CHECKED = ["head", "plugin", "margins", "prototypes", "terms", "optim", "ranks", "exchange"]
_CHECKED += [f"softmax.{module}" for module in ("reference", "tiled", "binary", "sampling", "product", "owner")]
_CHECKED += [f"softmax.fused.{module}" for module in ("fused_pass", "loss", "step")]
_CHECKED += ["backbones", "config", "data", "deploy", "embedder", "evaluation", "report", "training"]
"""Packages and modules whose signatures are checked."""

_COMPILERS = {"compiled", "triton"}
"""Names by which a module knows numba's and Triton's compilers, which read the source and bear no decorator."""

_OFTEN_CALLED = {"vplface.evaluation.bootstrap", "vplface.evaluation.roc_replicates"}
"""Modules of functions that every draw of people calls: a check takes longer than they do."""


def install() -> None:
    """Check every function with a shape in its signature, from the import of its module on.

    The hook decorates all functions. Those without a shape are returned as they are: the decorator costs 10 µs a call
    and 1 ms a function. Left out are modules with compiled functions, and those of functions that are called often.
    """
    jaxtyping.jaxtyped = _jaxtyped_if_shaped
    jaxtyping.install_import_hook([f"vplface.{module}" for module in _CHECKED], f"{__name__}.checked")


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
    return beartype(function, conf=BeartypeConf(is_pep484_tower=True))  # a float may be an int, as for mypy


def _jaxtyped_if_shaped(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """jaxtyping's decorator for functions and dataclasses that name a shape."""

    def decorate(wrapped: Any) -> Any:
        if not isinstance(wrapped, type):
            return _on_first_call(wrapped, typechecker)
        if is_dataclass(wrapped) and "__init__" in vars(wrapped):
            wrapped.__init__ = _on_first_call(wrapped.__init__, typechecker)
        return wrapped

    return decorate


def _on_first_call(function: Any, typechecker: Callable[..., Any]) -> Any:
    """The function, decorated when it is called for the first time: most tests call few of all functions."""
    names = function.__globals__
    left_out = function.__module__ in _OFTEN_CALLED or not _COMPILERS.isdisjoint(names)
    if left_out or not any(_names_shape(hint, names) for hint in function.__annotations__.values()):
        return function
    decorated = None

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        nonlocal decorated
        decorated = decorated or jaxtyped(function, typechecker=typechecker)
        return decorated(*args, **options)

    return call


def _names_shape(hint: Any, names: Mapping[str, Any]) -> bool:
    """Whether a hint, as written in the source, names an array with a shape."""
    words = (names.get(word) for word in re.findall(r"\w+", hint)) if isinstance(hint, str) else [hint]
    return any(_has_shape(word) or (isinstance(word, type) and issubclass(word, AbstractDtype)) for word in words)


def _has_shape(hint: Any) -> bool:
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(_has_shape, get_args(hint)))
