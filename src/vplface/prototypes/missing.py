"""States that lack a memory although their step count implies one."""

from __future__ import annotations

from collections.abc import Sequence


class _Advised(str):
    """A missing key that explains the remedy when a message quotes it.

    The strict error of ``load_state_dict`` quotes the missing keys and has no other place for advice; an entry among
    its other errors would fail with ``strict=False`` too.
    """

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return (
            f"{format(str(self), spec)} (by its step count the state has a memory, and it holds none; if"
            " torch.distributed.checkpoint read it, which fills only the tensors that it finds, call create_memory()"
            " before state_dict(); to begin with an empty memory, load with strict=False)"
        )


def missing_memory(keys: Sequence[str]) -> list[str]:
    """The keys of a memory for ``missing_keys`` of ``load_state_dict``; the first explains the remedy."""
    return [_Advised(keys[0]), *keys[1:]]
