import itertools

import pytest
from torch import nn

from helpers.timm_alone import import_timm
from vplface.backbones import build
from vplface.backbones.depth import depths, last_depth
from vplface.backbones.meta_init import meta_init

MOBILE = {
    "layers.1.layers.0.weight": 1,
    "layers.2.layers.0.layers.0.weight": 2,
    "layers.3.layers.3.layers.2.layers.1.bias": 6,
}
CHAIN = {"layers.1.layers.1.layers.0.layers.0.weight": 2}
TINY = {"stages.0.branch.0.0.weight": 1, "stages.1.0.weight": 2, "stages.3.branch.0.0.weight": 2}


@pytest.mark.parametrize(
    ("name", "blocks", "first", "inside", "last"),
    [
        ("iresnet18", 8, "conv1.weight", {"layer1.0.bn1.weight": 1, "layer4.1.conv2.weight": 8}, "fc.weight"),
        ("mobilefacenet", 1 + 1 + 4 + 1 + 6 + 1 + 2, "layers.0.layers.1.bias", MOBILE, "conv_sep.layers.0.weight"),
        ("mbf_large", 2 + 1 + 8 + 1 + 12 + 1 + 4, "layers.0.layers.0.weight", CHAIN, "conv_sep.layers.2.weight"),
        ("vit_t", 12, "pos_embed", {"blocks.0.attn.qkv.weight": 1, "blocks.11.mlp.fc2.bias": 12}, "feature.0.weight"),
        ("tiny", 4, "stem.0.0.weight", TINY, "embedding_norm.running_mean"),
    ],
)
def test_depths_counts_the_blocks_of_a_backbone(name, blocks, first, inside, last):
    with meta_init():
        backbone = build(name, 8)
    depth = depths(backbone)
    assert list(depth) == [
        f"{prefix}.{key}" if prefix else key
        for prefix, module in backbone.named_modules()
        for key, _ in itertools.chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
    ]
    assert last_depth(depth) == blocks + 1
    assert set(depth.values()) == set(range(blocks + 2))
    assert depth[first] == 0
    assert {key: depth[key] for key in inside} == inside
    assert depth[last] == blocks + 1
    if name != "vit_t":  # whose mask token belongs to the stem, as its positions do
        assert list(depth.values()) == sorted(depth.values())


def test_depths_of_another_network_counts_its_layers():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2)
    )
    depth = depths(network)
    assert {name: depth[name] for name in ("0.weight", "1.running_mean", "2.weight", "3.bias", "5.weight")} == {
        "0.weight": 0,
        "1.running_mean": 0,
        "2.weight": 0,
        "3.bias": 1,
        "5.weight": 2,
    }


def test_depths_of_a_timm_model_are_the_groups_of_timm():
    import_timm()
    depth = depths(build("timm:vit_tiny_patch16_224", 8))
    assert depth["network.pos_embed"] == 0
    assert depth["network.blocks.0.attn.qkv.weight"] == 1
    assert depth["network.blocks.11.mlp.fc2.bias"] == depth["network.norm.weight"] == 12
    assert depth["embedding.weight"] == depth["embedding_norm.running_mean"] == last_depth(depth) == 13
