"""Weights of ONNX files in backbones of the same structure."""

import pytest
import torch
from torch.testing import assert_close

from helpers.onnx_files import by_onnxruntime, by_torch, exported, pictures, with_statistics
from vplface.backbones import IResNet, MobileFaceNet, Tiny, ViT, load_weights
from vplface.backbones.folded_norm import measure_statistics, without_statistics
from vplface.errors import DataError

NETWORKS = {
    "iresnet": lambda: IResNet((1, 1, 1, 1), 8),
    "mobilefacenet": lambda: MobileFaceNet(8, (1, 1, 2, 1)),
    "tiny": lambda: Tiny(8, 8),
    "tiny without norm": lambda: Tiny(8, 8, "none"),
    "vit": lambda: ViT(16, 2, 8),
}
OPSETS = {"vit": (14,), "iresnet": (11,), "mobilefacenet": (11,)}


def trained(name):
    torch.manual_seed(0)
    return with_statistics(NETWORKS[name]())


@pytest.mark.slow
@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_LoadWeights_takes_an_onnx_file_of_the_same_structure(name, folded, tmp_path):
    network = trained(name)
    for opset in OPSETS.get(name, (11, 17)):
        path = exported(network, tmp_path / "m.onnx", opset, folded=folded)
        torch.manual_seed(1)
        fresh = NETWORKS[name]()
        load_weights(fresh, path)
        assert_close(by_torch(fresh, pictures()), by_torch(network, pictures()), rtol=1e-3, atol=1e-4)
    if not folded:
        assert not without_statistics(fresh)
        state = fresh.state_dict()
        for key, tensor in network.state_dict().items():
            if "num_batches" not in key and key != "mask_token":
                assert_close(state[key], tensor, rtol=1e-5, atol=1e-5)


def test_LoadWeights_restores_folded_BatchNorm_that_changes_nothing(tmp_path):
    path = exported(trained("mobilefacenet"), tmp_path / "m.onnx")
    network = NETWORKS["mobilefacenet"]()
    load_weights(network, path)
    norms = without_statistics(network)
    assert len(norms) == sum(1 for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    expected = by_onnxruntime(path, pictures())
    assert_close(by_torch(network, pictures()), expected, rtol=1e-3, atol=1e-4)
    assert measure_statistics(network, [pictures(16)]) == len(norms)
    assert_close(by_torch(network, pictures()), expected, rtol=1e-3, atol=1e-4)
    assert measure_statistics(network, [pictures(16)]) == 0


def unchanged_after(network, path, match):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(DataError, match=match):
        load_weights(network, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_LoadWeights_names_layer_and_shapes_where_the_structure_is_another(tmp_path):
    path = exported(trained("mobilefacenet"), tmp_path / "m.onnx")
    unchanged_after(
        MobileFaceNet(16, (1, 1, 2, 1)), path, r"features.layers.2, a linear map, .*\(16, 512\).*\(8, 512\)"
    )
    unchanged_after(MobileFaceNet(8, (1, 1, 3, 1)), path, r"its layer layers.7\S*, a convolution, has weights of")
    unchanged_after(MobileFaceNet(8, (1, 1, 1, 1)), path, r"more layers than MobileFaceNet: the first .*Conv\), a conv")
    unchanged_after(
        Tiny(8, 8), path, r"not for Tiny: its layer stem.0.0, a convolution, .*\(8, 3, 7, 7\).*backbone.name=onnx"
    )
    unchanged_after(Tiny(8, 8, "none"), exported(trained("tiny"), tmp_path / "t.onnx"), r"not for Tiny|differ")


def test_LoadWeights_refuses_layers_that_fit_but_compute_otherwise(tmp_path):
    class Swapped(Tiny):
        def forward(self, x):
            return super().forward(x.transpose(2, 3))

    unchanged_after(
        Tiny(8, 8), exported(with_statistics(Swapped(8, 8)), tmp_path / "m.onnx"), "differ from onnxruntime"
    )
