"""A bank of normal vectors, drawn once, in place of N×d new ones in each step."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vplface import devices
from vplface.prototypes.memory import State, number_type


def normal_rows(rows: int, dim: int, dtype: torch.dtype, device: torch.device, seed: int) -> State:
    """``memory_bank``: rows of N(0, 1) that depend only on the seed."""
    numbers = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, rows, dim))))
    bank = torch.from_numpy(numbers.standard_normal((rows, dim), dtype=np.float32))
    return {"memory_bank": devices.send(bank.to(number_type(dtype)), device)}


def across(vectors: Float[Tensor, "rows dim"], directions: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
    """The part of each vector that is orthogonal to a unit direction."""
    return torch.addcmul(vectors, directions, torch.linalg.vecdot(vectors, directions).unsqueeze(1), value=-1.0)
