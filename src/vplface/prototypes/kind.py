"""The kind of memory in a ``state_dict``."""

from __future__ import annotations

import torch
from torch import Tensor

from vplface.prototypes.memory import Memory
from vplface.prototypes.variational import LastFeature


def kind_name(kind: Memory) -> Tensor | None:
    """The name of a kind, in bytes; None for ``LastFeature``, whose states have no name."""
    if type(kind) is LastFeature:
        return None
    return torch.tensor(list(type(kind).__name__.encode()), dtype=torch.uint8)


def other_kind(kind: Memory, stored_name: Tensor | None) -> str | None:
    """The name of the kind in a state, if it differs from ``kind``."""
    stored = LastFeature.__name__ if stored_name is None else bytes(stored_name.tolist()).decode()
    return None if stored == type(kind).__name__ else stored
