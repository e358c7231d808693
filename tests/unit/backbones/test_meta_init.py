"""Networks on the meta device: names, shapes and types of weights without values."""

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


def test_meta_init_stops_a_network_of_more_than_max_modules() -> None:
    with pytest.raises(ConfigError, match="more than 300 modules"), meta_init(max_modules=300):
        build("mobilefacenet", 32, blocks=[1, 4, 10**12, 2])
    with meta_init():
        assert build("mobilefacenet", 32).state_dict()
    assert build("iresnet18", 32).state_dict()


def test_meta_init_leaves_later_initialisation_random() -> None:
    with meta_init():
        build("tiny", 16, width=8)
    weight = torch.nn.init.normal_(torch.zeros(100))
    assert weight.unique().numel() == 100
    assert torch.zeros(100).uniform_().unique().numel() > 90


@pytest.mark.slow
def test_meta_init_does_not_import_torch_dynamo() -> None:
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
