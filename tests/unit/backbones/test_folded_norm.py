"""BatchNorm without statistics: measured on data, and the same function before and after."""

import torch
from torch import nn
from torch.testing import assert_close

from vplface.backbones.folded_norm import make_identity, measure_statistics, without_statistics


def test_MakeIdentity_adds_the_bias_alone():
    norm = nn.BatchNorm1d(3).eval()
    make_identity(norm, torch.tensor([1.0, -2.0, 0.5]))
    x = torch.randn(4, 3)
    assert_close(norm(x), x + torch.tensor([1.0, -2.0, 0.5]))
    assert without_statistics(nn.Sequential(norm)) == {"0": norm}


def test_MeasureStatistics_by_hand():
    norm = make_identity(nn.BatchNorm1d(1), torch.tensor([10.0]))
    network = nn.Sequential(norm)
    assert measure_statistics(network, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0]])]) == 1
    assert_close(norm.running_mean, torch.tensor([3.0]))
    assert_close(norm.running_var, torch.tensor([8 / 3]))
    assert_close(norm.weight.detach(), torch.tensor([(8 / 3 + norm.eps) ** 0.5]))
    assert_close(norm.bias.detach(), torch.tensor([13.0]))
    assert network.training
    assert_close(network.eval()(torch.tensor([[7.0]])), torch.tensor([[17.0]]))


def test_MeasureStatistics_makes_training_and_evaluation_agree_on_the_same_batch():
    norm = make_identity(nn.BatchNorm2d(4))
    x = torch.randn(16, 4, 5, 5) * torch.tensor([1.0, 5.0, 0.1, 2.0]).view(1, 4, 1, 1) + 3
    before = norm.train()(x)
    assert (before - x).abs().max() > 1
    make_identity(norm)
    measure_statistics(norm, [x[:9], x[9:]])
    assert_close(norm.train()(x), x, rtol=1e-3, atol=1e-3)
