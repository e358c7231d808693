from __future__ import annotations

import pytest
import torch

from vplface.backbones import BACKBONES, build
from vplface.errors import ConfigError


@pytest.mark.parametrize("name", BACKBONES)
def test_build_gives_every_backbone_the_requested_embedding_dim(name):
    if name not in ("tiny", "mobilefacenet", "iresnet18", "vit_t"):
        with torch.device("meta"):
            backbone, x = build(name, 24), torch.empty(2, 3, 112, 112)
    else:
        backbone, x = build(name, 24), torch.rand(2, 3, 112, 112)
    assert backbone.eval()(x).shape == (2, 24)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("iresnet5O", "iresnet50"), ("IResNet18", "iresnet18"), ("mobilenet", "mobilefacenet"), ("vit-s", "vit_s")],
)
def test_build_suggests_the_nearest_name_for_an_unknown_one(name, nearest):
    with pytest.raises(ConfigError, match=f"did you mean '{nearest}'"):
        build(name)


def test_build_lists_all_names_for_an_unknown_one_without_a_near_match():
    with pytest.raises(ConfigError) as raised:
        build("q")
    assert all(name in str(raised.value) for name in BACKBONES)
    assert "did you mean" not in str(raised.value)


def test_build_names_the_valid_options_for_an_unknown_one():
    with pytest.raises(ConfigError, match=r"iresnet18.*'dropuot'.*did you mean 'dropout'.*options are dropout"):
        build("iresnet18", 8, dropuot=0.1)
    with pytest.raises(ConfigError, match=r"mobilefacenet: unknown option 'width'. Its options are blocks, scale"):
        build("mobilefacenet", 8, width=2)
    with pytest.raises(ConfigError, match="unknown option 'blocks'"):
        build("iresnet18", 8, blocks=(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"dropout": 1.5}, "iresnet18.*1.5"), ({"dropout": "much"}, "iresnet18"), ({"embedding_dim": 0}, "got 0")],
)
def test_build_refuses_invalid_option_values(options, words):
    with pytest.raises(ConfigError, match=words):
        build("iresnet18", **options)
