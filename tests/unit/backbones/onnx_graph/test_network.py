"""Networks of ONNX files as modules: their BatchNorm, their weights, their types."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from helpers.onnx_files import by_torch, exported, pictures, with_statistics
from vplface.backbones import build, from_onnx
from vplface.backbones.folded_norm import measure_statistics, without_statistics
from vplface.backbones.meta_init import meta_init
from vplface.backbones.onnx_graph.graph import Graph


class Small(nn.Module):
    """BatchNorm before and after convolutions, a sum, and one after a linear map."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 7, 14, bias=False), nn.BatchNorm2d(6), nn.PReLU(6))
        self.branch = nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.fc = nn.Linear(6 * 64, 5, bias=False)
        self.features = nn.BatchNorm1d(5)

    def forward(self, x):
        x = self.stem(x)
        return self.features(self.fc((x + self.branch(x)).flatten(1)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    torch.manual_seed(0)
    network, folder = with_statistics(Small()), tmp_path_factory.mktemp("onnx")
    paths = {name: exported(network, folder / f"{name}.onnx", folded=name == "folded") for name in ("kept", "folded")}
    return network, paths


@pytest.mark.parametrize(("name", "norms"), [("kept", 4), ("folded", 2)])
def test_OnnxBackbone_keeps_the_BatchNorm_of_the_file_as_modules(files, name, norms):
    network, paths = files
    backbone = from_onnx(paths[name])
    found = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(found) == norms
    assert f"{norms} BatchNorm" in repr(backbone)
    assert ("2 folded into convolutions" in repr(backbone)) == (name == "folded")
    assert_close(by_torch(backbone, pictures()), by_torch(network, pictures()), rtol=1e-4, atol=1e-5)


def test_OnnxBackbone_trains_like_the_network_it_was_exported_from(files):
    network, paths = files
    network, backbone = copy.deepcopy(network).train(), from_onnx(paths["kept"]).train()
    for each in (network, backbone):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            each(pictures(8)).square().sum().backward()
            assert all(p.grad is not None for p in each.parameters())
            optimizer.step()
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in backbone.parameters())
    assert_close(by_torch(backbone, pictures()), by_torch(network, pictures()), rtol=1e-3, atol=1e-3)


def test_OnnxBackbone_names_its_weights_by_operator_and_slopes_have_one_axis(files):
    backbone = from_onnx(files[1]["folded"])
    shapes = {name: tuple(p.shape) for name, p in backbone.named_parameters()}
    assert shapes["layers.conv0.weight"] == (6, 3, 7, 7)
    assert shapes["layers.prelu1.slope"] == (6,)
    assert next(iter(shapes)).startswith("layers.conv0")


def test_OnnxBackbone_with_fresh_norm_changes_no_embedding_and_has_statistics_of_the_data(files):
    path = files[1]["folded"]
    plain, fresh = from_onnx(path), from_onnx(path, norm="fresh")
    x = pictures(8)
    assert len(without_statistics(fresh)) == 2
    assert_close(by_torch(fresh, x), by_torch(plain, x), rtol=1e-4, atol=1e-5)
    assert measure_statistics(fresh, [x[:4], x[4:]]) == 2
    assert not without_statistics(fresh)
    assert_close(by_torch(fresh, x), by_torch(plain, x), rtol=1e-4, atol=1e-5)
    maps = plain.layers["conv0"]
    convolved = nn.functional.conv2d(x, maps["weight"], maps["bias"], stride=14)
    first = next(module for module in fresh.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    assert_close(first.running_mean, convolved.mean((0, 2, 3)))
    assert_close(first.running_var, convolved.var((0, 2, 3), correction=0))


def test_OnnxBackbone_is_built_again_from_its_graph_and_state(files):
    backbone = from_onnx(files[1]["folded"], norm="fresh")
    other = build("onnx", 5, graph=backbone.graph, norm="fresh")
    other.load_state_dict(backbone.state_dict())
    assert torch.equal(by_torch(other, pictures()), by_torch(backbone, pictures()))
    assert Graph.from_text(backbone.graph).to_text() == backbone.graph


def test_OnnxBackbone_is_built_without_data(files):
    graph = from_onnx(files[1]["folded"]).graph
    with meta_init():
        assert all(p.is_meta for p in build("onnx", 5, graph=graph).parameters())
    with FakeTensorMode():
        assert build("onnx", 5, graph=graph)(torch.empty(2, 3, 112, 112)).shape == (2, 5)


def test_OnnxBackbone_runs_its_last_layers_in_float32_under_autocast(files):
    backbone = from_onnx(files[1]["kept"])
    with torch.autocast("cpu", torch.bfloat16):
        assert backbone(pictures()).dtype == torch.float32
    assert backbone.double()(pictures().double()).dtype == torch.float64


def test_OnnxBackbone_compiles_with_an_open_batch_size(files):
    exported_program = torch.export.export(
        from_onnx(files[1]["folded"]).eval(), (pictures(2),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    assert exported_program.module()(pictures(5)).shape == (5, 5)
