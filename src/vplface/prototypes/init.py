"""Initial weights of prototypes: a row depends only on the seed and its class id."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_BLOCK = 4096
_STD = 0.01


def initial_weight(
    classes: range, dim: int, seed: int, device: torch.device | str | None = None
) -> Float[Tensor, "rows dim"]:
    """W ~ N(0, 0.01²) of a range of class ids, drawn in fixed blocks of ids: the same however classes are sharded.

    Args:
        classes: ids, contiguous.
        dim: numbers per class.
        seed: of the draw.
        device: where W will be; on ``"meta"`` nothing is drawn.
    """
    if device is not None and torch.device(device).type == "meta":
        return torch.empty(len(classes), dim, dtype=torch.float32, device=device)
    alike: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # regardless of torch's defaults
    weight = torch.empty(len(classes), dim, **alike)
    for first in range(classes.start - classes.start % _BLOCK, classes.stop, _BLOCK):
        state = np.random.SeedSequence((seed, first)).generate_state(1, np.uint64)
        generator = torch.Generator("cpu").manual_seed(int(state[0]))
        # normal_ fills short tensors in another order than long ones: always draw a whole block
        block = torch.empty(_BLOCK, dim, **alike).normal_(0.0, _STD, generator=generator)
        start, stop = max(first, classes.start), min(first + _BLOCK, classes.stop)
        weight[start - classes.start : stop - classes.start] = block[start - first : stop - first]
    return weight
