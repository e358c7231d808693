"""Decorator for numba with an on-disk cache of compiled functions where possible."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from vplface.errors import import_extra

numba: Any = import_extra("numba", "train")
caching: Any = import_extra("numba.core.caching", "train")


def compiled(**options: Any) -> Callable[[Any], Any]:
    """``numba.njit`` with an on-disk cache if one is available.

    numba looks for a cache folder in NUMBA_CACHE_DIR, beside the source file and in the user's cache. If no cache can
    be read or written, the function is compiled once in every process.

    Args:
        options: keyword arguments of ``numba.njit``.
    """

    def compile_(function: Any) -> Any:
        dispatcher = numba.njit(**options)(function)
        if isinstance(dispatcher, numba.core.registry.CPUDispatcher):  # NUMBA_DISABLE_JIT returns the function
            with suppress(RuntimeError, OSError):  # no cache folder
                dispatcher._cache = _Cache(function)
        return dispatcher

    return compile_


class _Cache(caching.FunctionCache):  # type: ignore[misc]  # numba is not typed
    """numba's cache, ignoring its failures: damaged files, missing permissions, a full disk."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception:
            try:
                self.flush()  # replace an unreadable index
                super().save_overload(sig, data)
            except Exception:
                self.disable()
