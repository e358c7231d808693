"""Outlines of networks: what their weights are called and measure, without numbers."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from vplface.backbones import build
from vplface.backbones.meta_init import meta_init
from vplface.errors import ConfigError


@pytest.mark.parametrize("name", ["tiny", "mobilefacenet", "iresnet18", "vit_t"])
def test_meta_init_keeps_names_shapes_and_types(name: str) -> None:
    with meta_init():
        skeleton = build(name, 32).state_dict()
    network = build(name, 32).state_dict()
    assert [*skeleton] == [*network]
    assert all(each.is_meta for each in skeleton.values())
    assert [(each.shape, each.dtype) for each in skeleton.values()] == [
        (each.shape, each.dtype) for each in network.values()
    ]


def test_a_network_of_too_many_parts_is_not_built_to_its_end() -> None:
    with pytest.raises(ConfigError, match="more than 300 modules"), meta_init(max_modules=300):
        build("mobilefacenet", 32, blocks=[1, 4, 10**12, 2])
    with meta_init():
        assert build("mobilefacenet", 32).state_dict()
    assert build("iresnet18", 32).state_dict()


def test_networks_after_it_are_drawn_again() -> None:
    with meta_init():
        build("tiny", 16, width=8)
    weight = torch.nn.init.normal_(torch.zeros(100))
    assert weight.unique().numel() == 100
    assert torch.zeros(100).uniform_().unique().numel() > 90


@pytest.mark.slow
def test_meta_init_does_not_load_torchs_compiler() -> None:
    script = """
import sys
from vplface.backbones import BACKBONES, build
from vplface.backbones.meta_init import meta_init
for name in BACKBONES:
    with meta_init():
        build(name)
    assert "torch._dynamo" not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", script], check=True)
