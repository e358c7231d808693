"""a·bᵀ, by whichever library is the fastest for the type and the device."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from vplface import devices


def product(a: Float[Tensor, "rows inner"], b: Float[Tensor, "columns inner"]) -> Float[Tensor, "rows columns"]:
    """a·bᵀ for tensors of one type and of any strides.

    In float32 on a CPU torch asks MKL, which takes twice as long as oneDNN on processors that Intel did not make; so
    oneDNN is asked, as it is for bfloat16.
    """
    if a.dtype == torch.float32 and a.device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
        return result
    return linear(a, b)


def operand_type(weight: Tensor) -> torch.dtype:
    """bfloat16 where autocast or W say so, else W's own type, but not below float32."""
    kind = devices.autocast_type(weight.device)
    if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16:
        return torch.bfloat16
    return weight.dtype if weight.dtype == torch.bfloat16 else torch.promote_types(weight.dtype, torch.float32)
