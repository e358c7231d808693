"""The laptop network: shapes, effects of its options, and training of both variants."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vplface.backbones.tiny import Tiny


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def reference(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Evaluation-mode forward of the batch-norm variant, written from its parameter names alone."""

    def convolution(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.0.weight"]
        x = nn.functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var = state[f"{name}.1.running_mean"], state[f"{name}.1.running_var"]
        scale = state[f"{name}.1.weight"] / (var + 1e-5).sqrt()
        return x * scale[:, None, None] + (state[f"{name}.1.bias"] - mean * scale)[:, None, None]

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x / 4)

    def block(name: str, x: Tensor) -> Tensor:
        return leaky(x + convolution(f"{name}.branch.2", leaky(convolution(f"{name}.branch.0", x))))

    x = leaky(convolution("stem.0", x, stride=4))
    x = block("stages.0", x)
    x = leaky(convolution("stages.1", x, stride=2))
    x = block("stages.4", block("stages.3", x))
    x = leaky(convolution("stages.5", x, stride=2))
    x = block("stages.7", x)
    x = x.flatten(1) @ state["embedding.weight"].T
    mean, var = state["embedding_norm.running_mean"], state["embedding_norm.running_var"]
    return (x - mean) / (var + 1e-5).sqrt() * state["embedding_norm.weight"] + state["embedding_norm.bias"]


def means(x: Tensor, side: int) -> Tensor:
    """The mean of each square of side × side pixels."""
    cells = x.shape[-1] // side
    return x.reshape(*x.shape[:2], cells, side, cells, side).mean((3, 5))


@pytest.mark.parametrize("reduce", [1, 2, 4])
def test_Tiny_forward_equals_a_functional_reference(reduce: int) -> None:
    torch.manual_seed(0)
    network = Tiny(embedding_dim=24, width=8, dropout=0.5, reduce=reduce).double()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5)
    network.eval()
    x = pictures(3).double()
    expected = reference(network.state_dict(), means(x, reduce))
    torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize(("embedding_dim", "width"), [(128, 16), (64, 5)])
def test_Tiny_gives_the_requested_embedding_dim_in_any_memory_format(norm: str, embedding_dim: int, width: int) -> None:
    network = Tiny(embedding_dim, width, norm=norm).eval()
    x = pictures(2)
    plain = network(x)
    assert plain.shape == (2, embedding_dim)
    last = network.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(plain, last, rtol=1e-4, atol=1e-5)


def nonzero_gains(network: Tiny) -> Tiny:
    for name, parameter in network.named_parameters():
        if name.endswith("gain"):
            nn.init.constant_(parameter, 0.5)
    return network


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_Tiny_batch_gradient_is_the_sum_over_pictures_only_without_norm(norm: str) -> None:
    torch.manual_seed(0)
    network = nonzero_gains(Tiny(embedding_dim=8, width=4, norm=norm).double())
    x = pictures(4).double()

    def gradient(*batches: Tensor) -> Tensor:
        network.zero_grad()
        for batch in batches:
            network(batch).pow(2).sum().backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).clone()

    together, halves = gradient(x), gradient(x[:2], x[2:])
    assert torch.allclose(together, halves, rtol=1e-9, atol=1e-12) == (norm == "none")


def test_Tiny_without_norm_has_no_batch_statistics() -> None:
    network = Tiny(width=8, norm="none")
    assert list(network.buffers()) == []
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def test_Tiny_dropout_acts_only_in_training() -> None:
    network = Tiny(width=8, norm="none", dropout=0.5)
    x = pictures(2)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_Tiny_learns_to_distinguish_patterns(norm: str) -> None:
    torch.manual_seed(0)
    patterns, noise = pictures(8, seed=1), torch.Generator().manual_seed(2)
    network = Tiny(embedding_dim=32, width=8, norm=norm)
    classifier = nn.Linear(32, 8)
    optimizer = torch.optim.SGD([*network.parameters(), *classifier.parameters()], lr=0.05, momentum=0.9)

    def batch() -> Tensor:
        return patterns + 0.3 * torch.randn(patterns.shape, generator=noise)

    for _ in range(25):
        embedding = nn.functional.normalize(network(batch()), dim=1)
        loss = nn.functional.cross_entropy(10 * classifier(embedding), torch.arange(8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    predicted = classifier(nn.functional.normalize(network(batch()), dim=1)).argmax(1)
    assert (predicted == torch.arange(8)).all()
    assert all(gain.item() != 0 for name, gain in network.named_parameters() if name.endswith("gain"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_dim": 0}, "embedding_dim and width must be at least 1, got 0 and 32"),
        ({"width": 0}, "got 128 and 0"),
        ({"norm": "layer"}, "norm must be 'batch' or 'none', got 'layer'"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"reduce": 3}, "reduce must be 1, 2 or 4, got 3"),
    ],
)
def test_Tiny_refuses_invalid_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tiny(**options)  # type: ignore[arg-type]


def test_Tiny_returns_float32_embeddings_under_autocast():
    network = Tiny(embedding_dim=8, width=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding = network(torch.randn(2, 3, 112, 112))
    assert embedding.dtype == torch.float32
    assert embedding.isfinite().all()
