"""Outlines of networks: what their weights are called and measure, without numbers."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from vplface.backbones import build
from vplface.backbones.outline import outlines
from vplface.errors import ConfigError


@pytest.mark.parametrize("name", ["tiny", "mobilefacenet", "iresnet18", "vit_t"])
def test_an_outline_has_the_weights_of_the_network(name: str) -> None:
    with outlines():
        outline = build(name, 32).state_dict()
    network = build(name, 32).state_dict()
    assert [*outline] == [*network]
    assert all(each.is_meta for each in outline.values())
    assert [(each.shape, each.dtype) for each in outline.values()] == [
        (each.shape, each.dtype) for each in network.values()
    ]


def test_a_network_of_too_many_parts_is_not_built_to_its_end() -> None:
    with pytest.raises(ConfigError, match="more than 300 parts"), outlines(most_modules=300):
        build("mobilefacenet", 32, blocks=[1, 4, 10**12, 2])
    with outlines():
        assert build("mobilefacenet", 32).state_dict()
    assert build("iresnet18", 32).state_dict()


def test_networks_after_it_are_drawn_again() -> None:
    with outlines():
        build("tiny", 16, width=8)
    weight = torch.nn.init.normal_(torch.zeros(100))
    assert weight.unique().numel() == 100
    assert torch.zeros(100).uniform_().unique().numel() > 90


def test_no_outline_loads_torchs_compiler() -> None:
    script = """
import sys
from vplface.backbones import BACKBONES, build
from vplface.backbones.outline import outlines
for name in BACKBONES:
    with outlines():
        build(name)
    assert "torch._dynamo" not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", script], check=True)
