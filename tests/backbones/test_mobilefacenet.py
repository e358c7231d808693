"""Table 1 of the paper, recounted by hand."""

from __future__ import annotations

import pytest
import torch

from vplface.backbones import build


def unit(conv_weights, channels, prelu=True):
    return conv_weights + 2 * channels + (channels if prelu else 0)


def bottleneck(c_in, t, c_out):
    wide = t * c_in
    return (
        unit(c_in * wide, wide) + unit(9 * wide, wide) + unit(wide * c_out, c_out, prelu=False)
    )  # expand, depthwise 3×3, project


@pytest.mark.parametrize("dim", [128, 512])
def test_parameter_count_of_the_table(dim):
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


def test_sizes_of_the_table():
    backbone = build("mobilefacenet", 128).eval()
    sizes = []
    for part in [backbone.stem[0], backbone.stem[1], *backbone.bottlenecks, backbone.conv, backbone.gdconv]:
        part.register_forward_hook(lambda _m, _i, output: sizes.append((output.shape[1], output.shape[2])))
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


def test_repeated_bottlenecks_add_their_input():
    backbone = build("mobilefacenet", 8).eval()
    for index, block in enumerate(backbone.bottlenecks):
        torch.nn.init.zeros_(block.project[0].weight)
        x_in = torch.rand(1, block.expand[0].in_channels, 14, 14)
        with torch.no_grad():
            kept = block(x_in).equal(x_in)
        assert kept == (index not in (0, 5, 12)), index


def test_bf16_autocast_keeps_the_embedding_in_float32():
    torch.manual_seed(0)
    backbone = build("mobilefacenet", 16).to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 112, 112)
    with torch.autocast("cpu", torch.bfloat16):
        embedding = backbone(x)
    assert embedding.dtype == torch.float32
    assert embedding.isfinite().all()
    embedding.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in backbone.parameters())
