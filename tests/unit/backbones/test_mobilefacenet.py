"""Against Table 1 of the paper, counted by hand, and insightface's networks as parameter tables and functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vplface.backbones import build
from vplface.errors import ConfigError


def unit(conv_weights, channels, prelu=True):
    return conv_weights + 2 * channels + (channels if prelu else 0)


def bottleneck(c_in, t, c_out):
    wide = t * c_in
    return (
        unit(c_in * wide, wide) + unit(9 * wide, wide) + unit(wide * c_out, c_out, prelu=False)
    )  # expand, depthwise 3×3, project


@pytest.mark.parametrize("dim", [128, 512])
def test_MobileFaceNet_parameter_count_matches_the_table_of_the_paper(dim):
    expected = unit(27 * 64, 64) + unit(9 * 64, 64)
    expected += 5 * bottleneck(64, 2, 64)
    expected += bottleneck(64, 4, 128)
    expected += 6 * bottleneck(128, 2, 128)
    expected += bottleneck(128, 4, 128)
    expected += 2 * bottleneck(128, 2, 128)
    expected += unit(128 * 512, 512) + unit(49 * 512, 512, prelu=False) + unit(512 * dim, dim, prelu=False)
    assert sum(parameter.numel() for parameter in build("mobilefacenet", dim).parameters()) == expected
    if dim == 128:
        assert 0.98e6 < expected < 1.01e6  # "0.99M" in the paper


def test_MobileFaceNet_feature_map_sizes_match_the_table_of_the_paper():
    backbone = build("mobilefacenet", 128).eval()
    sizes = []
    for part in [*backbone.layers, backbone.conv_sep, backbone.features.layers[0]]:
        several = hasattr(part.layers[0], "residual") and part.layers[0].residual
        for one in part.layers if several else [part]:
            one.register_forward_hook(lambda _m, _i, output: sizes.append((output.shape[1], output.shape[2])))
    with torch.no_grad():
        assert backbone(torch.zeros(2, 3, 112, 112)).shape == (2, 128)
    assert sizes == [
        *[(64, 56)] * 2,
        *[(64, 28)] * 5,
        *[(128, 14)] * 7,
        *[(128, 7)] * 3,
        (512, 7),
        (512, 1),
    ]


# insightface, recognition/arcface_torch/backbones: blocks, scale
NETWORKS = {"mobilefacenet": ((1, 4, 6, 2), 1), "mbf": ((1, 4, 6, 2), 2), "mbf_large": ((2, 8, 12, 4), 4)}


def bn(prefix, channels):
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield f"{prefix}.{name}", (channels,)
    yield f"{prefix}.num_batches_tracked", ()


def conv(prefix, c_in, c_out, kernel, groups=1, prelu=True):
    yield f"{prefix}.layers.0.weight", (c_out, c_in // groups, kernel, kernel)
    yield from bn(f"{prefix}.layers.1", c_out)
    if prelu:
        yield f"{prefix}.layers.2.weight", (c_out,)


def inverted(prefix, c_in, inner, c_out):
    yield from conv(f"{prefix}.layers.0", c_in, inner, 1)
    yield from conv(f"{prefix}.layers.1", inner, inner, 3, groups=inner)
    yield from conv(f"{prefix}.layers.2", inner, c_out, 1, prelu=False)


def repeated(prefix, channels, inner, count):
    for index in range(count):
        yield from inverted(f"{prefix}.layers.{index}", channels, inner, channels)


def published_state(blocks, scale, dim):
    """Every name and shape of a published file, in its order."""
    narrow, wide = 64 * scale, 128 * scale
    yield from conv("layers.0", 3, narrow, 3)
    if blocks[0] == 1:
        yield from conv("layers.1", narrow, narrow, 3, groups=64)
    else:
        yield from repeated("layers.1", narrow, 128, blocks[0])
    yield from inverted("layers.2", narrow, 128, narrow)
    yield from repeated("layers.3", narrow, 128, blocks[1])
    yield from inverted("layers.4", narrow, 256, wide)
    yield from repeated("layers.5", wide, 256, blocks[2])
    yield from inverted("layers.6", wide, 512, wide)
    yield from repeated("layers.7", wide, 256, blocks[3])
    yield from conv("conv_sep", wide, 512, 1)
    yield from conv("features.layers.0", 512, 512, 7, groups=512, prelu=False)
    yield "features.layers.2.weight", (dim, 512)
    yield from bn("features.layers.3", dim)


def functional_forward(state, blocks, x):
    def norm(name, y):
        shape = (1, -1) + (1,) * (y.ndim - 2)
        mean, var, weight, bias = (
            state[f"{name}.{what}"].view(shape) for what in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / (var + 1e-5).sqrt() * weight + bias

    def convolved(name, y, stride=1, padding=0):
        weight = state[f"{name}.layers.0.weight"]
        y = F.conv2d(y, weight, stride=stride, padding=padding, groups=y.shape[1] // weight.shape[1])
        y = norm(f"{name}.layers.1", y)
        slope = state.get(f"{name}.layers.2.weight")
        return y if slope is None else torch.where(y > 0, y, slope[:, None, None] * y)

    def inner(name, y, stride):
        y = convolved(f"{name}.layers.1", convolved(f"{name}.layers.0", y), stride, 1)
        return convolved(f"{name}.layers.2", y)

    def repeat(name, y, count):
        for index in range(count):
            y = y + inner(f"{name}.layers.{index}", y, 1)
        return y

    y = convolved("layers.0", x, 2, 1)
    y = convolved("layers.1", y, 1, 1) if blocks[0] == 1 else repeat("layers.1", y, blocks[0])
    for at, count in zip((2, 4, 6), blocks[1:], strict=True):
        y = repeat(f"layers.{at + 1}", inner(f"layers.{at}", y, 2), count)
    y = convolved("features.layers.0", convolved("conv_sep", y)).flatten(1)
    return norm("features.layers.3", y @ state["features.layers.2.weight"].T)


def randomised(backbone, seed=0):
    """Weights and statistics under which every parameter matters and nothing overflows."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in backbone.state_dict().items():
        if tensor.dim() >= 2:
            tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
        elif tensor.is_floating_point():
            low, high = (-0.5, 0.5) if name.endswith(("bias", "mean")) else (0.5, 1.5)
            tensor.uniform_(low, high, generator=generator)
    return backbone.eval()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dim", [512, 37])
def test_MobileFaceNet_state_dict_has_the_published_names_shapes_and_order(name, dim):
    with torch.device("meta"):
        backbone = build(name, dim)
    ours = [(key, tuple(tensor.shape)) for key, tensor in backbone.state_dict().items()]
    assert ours == list(published_state(*NETWORKS[name], dim))


@pytest.mark.parametrize("name", NETWORKS)
def test_MobileFaceNet_forward_equals_a_functional_reference(name):
    backbone = randomised(build(name, 24).double())
    x = torch.rand(2, 3, 112, 112, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        ours, theirs = backbone(x), functional_forward(backbone.state_dict(), NETWORKS[name][0], x)
    assert ours.shape == (2, 24)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_MobileFaceNet_blocks_and_scale_give_the_network_mbf_large():
    with torch.device("meta"):
        backbone = build("mobilefacenet", 24, blocks=[2, 8, 12, 4], scale=4)
        assert {n: t.shape for n, t in backbone.state_dict().items()} == {
            n: t.shape for n, t in build("mbf_large", 24).state_dict().items()
        }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blocks": (1, 4, 6)}, r"blocks must be four numbers of at least 1, got \(1, 4, 6\)"),
        ({"blocks": (0, 4, 6, 2)}, "at least 1"),
        ({"scale": 0}, "scale must be at least 1, got 0"),
        ({"blocks": 3}, "mobilefacenet"),
    ],
)
def test_MobileFaceNet_refuses_invalid_options(options, words):
    with pytest.raises(ConfigError, match=words):
        build("mobilefacenet", **options)


def test_MobileFaceNet_under_bf16_autocast_returns_float32_embeddings():
    torch.manual_seed(0)
    backbone = build("mobilefacenet", 16).to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 112, 112)
    seen = []
    for part in (backbone.layers[-1], backbone.conv_sep):
        part.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        embedding = backbone(x)
    assert seen == [torch.bfloat16, torch.float32]
    assert embedding.dtype == torch.float32
    assert embedding.isfinite().all()
    embedding.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in backbone.parameters())
