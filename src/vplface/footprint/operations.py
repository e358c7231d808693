"""Counter of floating-point operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


def operation_counter() -> FlopCounterMode:
    """A context that counts the operations of torch in it, two a multiply-add, see ``get_total_flops``.

    torch counts the backward pass of a convolution with groups as if it had none, a depthwise one C-fold. Here each of
    its gradients, of input and weight, has as many operations as the forward pass.
    """
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})


# size: the arguments of the operator.
def _convolution_backward(
    output: Sequence[int],
    given: Sequence[int],
    weight: Sequence[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    wanted: Sequence[bool],
    out_shape: Any,
) -> int:
    """Operations from the shapes of an output's gradient, an input and a weight, and which gradients are wanted."""
    forward = conv_flop_count(list(given), list(weight), list(output), transposed=transposed)
    return forward * sum(wanted[:2])
