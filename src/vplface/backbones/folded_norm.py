"""BatchNorm that changes nothing, and statistics of data for it.

An exporter may fold BatchNorm into the convolution before it, which loses its mean and variance. In training BatchNorm
normalises by the batch. Without the statistics of its inputs the network would change at the first step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def make_identity(norm: _BatchNorm, bias: Float[Tensor, " channels"] | None = None) -> _BatchNorm:
    """Make ``norm`` x ↦ x + bias in evaluation, and mark it as one without statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0 - norm.eps)
        norm.weight.fill_(1.0)
        norm.bias.zero_() if bias is None else norm.bias.copy_(bias)
    vars(norm)["without_statistics"] = True
    return norm


def describe_norms(network: nn.Module) -> str | None:
    """The BatchNorm of a network from an ONNX file: kept, folded or fresh; None for any other network."""
    count = len(without_statistics(network))
    description: str | None = getattr(network, "description", None)
    if description is None and count:
        return f"{count} BatchNorm were folded in the file, and get statistics of the training pictures"
    return description


def without_statistics(network: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm modules, by name, that :func:`make_identity` has marked."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and getattr(module, "without_statistics", False)
    }


@torch.no_grad()
def measure_statistics(network: nn.Module, batches: Iterable[Float[Tensor, "n channels ..."]]) -> int:
    """Give the marked BatchNorm modules the statistics of their inputs, without changing the network in evaluation.

    With mean m and variance v of a module's inputs, γ(x − μ)/√(σ² + ε) + β stays the same function for μ' = m, σ'² = v,
    γ' = γ·√(v + ε)/√(σ² + ε) and β' = β + γ(m − μ)/√(σ² + ε).

    Args:
        network: it runs in evaluation.
        batches: prepared pictures such as it is trained on, some hundred in all.

    Returns:
        Number of these modules, which are not marked any more.
    """
    marked = without_statistics(network)
    if not marked:
        return 0
    moments = {name: _Moments() for name in marked}
    handles = [norm.register_forward_pre_hook(moments[name]) for name, norm in marked.items()]
    training = network.training
    network.eval()
    try:
        for batch in batches:
            network(batch)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    for name, norm in marked.items():
        _set_statistics(norm, *moments[name].mean_and_variance())
    return len(marked)


class _Moments:
    """Sums of the inputs of a module, and of their squares, by channel."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares = 0, torch.zeros(()), torch.zeros(())

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].detach().transpose(0, 1).flatten(1).float()
        variance, mean = torch.var_mean(x, 1, correction=0)
        mean, variance, count = mean.double(), variance.double(), x.shape[1]
        self.sum = self.sum.to(mean) + count * mean
        self.squares = self.squares.to(mean) + count * (variance + mean**2)
        self.count += count

    def mean_and_variance(self) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
        mean = self.sum / self.count
        return mean, (self.squares / self.count - mean**2).clamp(min=0)


def _set_statistics(norm: _BatchNorm, mean: Float[Tensor, " channels"], variance: Float[Tensor, " channels"]) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    norm.bias.copy_(norm.bias.double() + gain * (mean - norm.running_mean.double()))
    norm.weight.copy_(gain * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    vars(norm)["without_statistics"] = False
