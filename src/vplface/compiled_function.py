"""Functions that numba compiles, kept from one process to the next where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from vplface.errors import import_extra

numba: Any = import_extra("numba", "train")
caching: Any = import_extra("numba.core.caching", "train")


def compiled(**options: Any) -> Callable[[Any], Any]:
    """``numba.njit`` with a cache on disk where one can be written, and without one elsewhere.

    numba looks for a folder in NUMBA_CACHE_DIR, beside the source file and in the user's cache. Where none of them can
    be written, where what is found cannot be read, and where what was compiled cannot be written, the function is
    compiled once in every process.

    Args:
        options: of ``numba.njit``.
    """

    def compile_(function: Any) -> Any:
        dispatcher = numba.njit(**options)(function)
        if isinstance(dispatcher, numba.core.registry.CPUDispatcher):  # with NUMBA_DISABLE_JIT it is the function
            with suppress(RuntimeError, OSError):  # there is no folder
                dispatcher._cache = _Cache(function)
        return dispatcher

    return compile_


class _Cache(caching.FunctionCache):  # type: ignore[misc]  # numba is not typed
    """numba's cache, whose failures never reach the caller: files may be damaged, unreadable, or on a full disk."""

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
                self.flush()  # an index that cannot be read makes room for another
                super().save_overload(sig, data)
            except Exception:
                self.disable()
