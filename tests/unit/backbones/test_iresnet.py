"""Against two independent descriptions of the public network: a table of its parameters and a forward in functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vplface.backbones import build

UNITS = {18: "2 2 2 2", 34: "3 4 6 3", 50: "3 4 14 3", 100: "3 13 30 3", 200: "6 26 60 6"}
PARAMETERS = {18: 24_025_600, 34: 34_139_328, 50: 43_590_848, 100: 65_156_160}  # as published: 43.59 M, 65.16 M, ...


def bn(prefix, channels):
    yield f"{prefix}.weight", (channels,)
    yield f"{prefix}.bias", (channels,)
    yield f"{prefix}.running_mean", (channels,)
    yield f"{prefix}.running_var", (channels,)
    yield f"{prefix}.num_batches_tracked", ()


def published_state(depth, dim):
    """Every name and shape of a published file, in its order."""
    yield "conv1.weight", (64, 3, 3, 3)
    yield from bn("bn1", 64)
    yield "prelu.weight", (64,)
    width = 64
    for stage, units in enumerate(UNITS[depth].split(), start=1):
        wider = 32 * 2**stage
        for unit in range(int(units)):
            at = f"layer{stage}.{unit}"
            yield from bn(f"{at}.bn1", width)
            yield f"{at}.conv1.weight", (wider, width, 3, 3)
            yield from bn(f"{at}.bn2", wider)
            yield f"{at}.prelu.weight", (wider,)
            yield f"{at}.conv2.weight", (wider, wider, 3, 3)
            yield from bn(f"{at}.bn3", wider)
            if unit == 0:
                yield f"{at}.downsample.0.weight", (wider, width, 1, 1)
                yield from bn(f"{at}.downsample.1", wider)
            width = wider
    yield from bn("bn2", 512)
    yield "fc.weight", (dim, 25088)
    yield "fc.bias", (dim,)
    yield from bn("features", dim)


def functional_forward(state, units, x):
    def norm(name, y):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(y, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], training=False, eps=1e-5)

    y = F.conv2d(x, state["conv1.weight"], padding=1)
    y = F.prelu(norm("bn1", y), state["prelu.weight"])
    for stage, count in enumerate(units, start=1):
        for unit in range(count):
            at, stride = f"layer{stage}.{unit}", 2 if unit == 0 else 1
            z = F.conv2d(norm(f"{at}.bn1", y), state[f"{at}.conv1.weight"], padding=1)
            z = F.prelu(norm(f"{at}.bn2", z), state[f"{at}.prelu.weight"])
            z = norm(f"{at}.bn3", F.conv2d(z, state[f"{at}.conv2.weight"], stride=stride, padding=1))
            if unit == 0:
                y = F.conv2d(y, state[f"{at}.downsample.0.weight"], stride=2)
                y = norm(f"{at}.downsample.1", y)
            y = y + z
    y = norm("bn2", y).reshape(len(x), -1)
    return norm("features", F.linear(y, state["fc.weight"], state["fc.bias"]))


def randomised(backbone, seed=0):
    """Weights and statistics under which every parameter matters and nothing overflows."""
    generator = torch.Generator().manual_seed(seed)
    state = backbone.state_dict()
    for name, tensor in state.items():
        if tensor.dim() >= 2:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif tensor.dtype == torch.float32:
            low, high = (-0.5, 0.5) if name.endswith(("bias", "mean")) else (0.5, 1.5)
            tensor.uniform_(low, high, generator=generator)
    return backbone.eval()


@pytest.mark.parametrize("depth", UNITS)
@pytest.mark.parametrize("dim", [512, 37])
def test_IResNet_state_dict_has_the_published_names_shapes_and_order(depth, dim):
    with torch.device("meta"):
        backbone = build(f"iresnet{depth}", dim)
    ours = [(name, tuple(tensor.shape)) for name, tensor in backbone.state_dict().items()]
    assert ours == list(published_state(depth, dim))


@pytest.mark.parametrize("depth", PARAMETERS)
def test_IResNet_has_the_published_number_of_parameters(depth):
    with torch.device("meta"):
        backbone = build(f"iresnet{depth}")
    assert sum(parameter.numel() for parameter in backbone.parameters()) == PARAMETERS[depth]


def test_IResNet_forward_equals_a_functional_reference():
    backbone = randomised(build("iresnet18", 64).double())
    x = torch.rand(2, 3, 112, 112, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        ours = backbone(x)
        theirs = functional_forward(backbone.state_dict(), (2, 2, 2, 2), x)
    assert ours.shape == (2, 64)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_IResNet_last_batch_norm_has_a_fixed_scale_and_eps_is_1e_5():
    backbone = build("iresnet18", 8)
    assert not backbone.features.weight.requires_grad
    assert backbone.features.weight.eq(1).all()
    assert backbone.features.bias.requires_grad
    assert {m.eps for m in backbone.modules() if hasattr(m, "running_mean")} == {1e-5}


def test_IResNet_dropout_acts_only_in_training():
    torch.manual_seed(0)
    backbone = build("iresnet18", 8, dropout=0.5).eval()
    pictures = torch.rand(1, 3, 112, 112)
    assert backbone(pictures).equal(backbone(pictures))
    backbone.dropout.train()
    assert not backbone(pictures).equal(backbone(pictures))


def test_IResNet_forward_stays_close_under_bf16_autocast_and_in_channels_last():
    backbone = randomised(build("iresnet18", 32))
    x = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        plain = backbone(x)
        backbone.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
        last = backbone(x)
        with torch.autocast("cpu", torch.bfloat16):
            low = backbone(x)
    torch.testing.assert_close(last, plain, rtol=1e-3, atol=1e-3)
    assert low.dtype == torch.float32
    assert low.isfinite().all()
    assert torch.cosine_similarity(low, plain).min() > 0.99
