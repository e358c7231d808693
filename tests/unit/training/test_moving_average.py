import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from helpers.host_traffic import DEVICE, host_traffic
from vplface.training.moving_average import MovingAverage


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Flatten(), nn.Linear(16, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_MovingAverage_is_that_of_torch_bit_for_bit(dtype):
    torch.manual_seed(0)
    model = network().to(dtype)
    ours = MovingAverage(model, 0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(4):
        model(torch.randn(5, 3, 4, 4, dtype=dtype))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        for average in (ours, theirs):
            average.update_parameters(model)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    assert not torch.equal(ours.module[0].weight, model[0].weight)


@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999, 0.7])
def test_MovingAverage_of_a_network_that_stands_still_is_that_network(decay):
    torch.manual_seed(0)
    model = network()
    average = MovingAverage(model, decay)
    for count in range(1, 40):
        model[1].num_batches_tracked.fill_(count)
        average.n_averaged.zero_()
        for _ in range(3):
            average.update_parameters(model)
        for key, value in model.state_dict().items():
            assert torch.equal(average.module.state_dict()[key], value), key


def test_MovingAverage_goes_on_from_a_state():
    torch.manual_seed(0)
    model, other = network(), network()
    average, resumed = MovingAverage(model, 0.5), MovingAverage(other, 0.5)
    average.update_parameters(model)
    resumed.load_state_dict(copy.deepcopy(average.state_dict()))
    for each in (average, resumed):
        each.update_parameters(other)
    assert int(resumed.n_averaged) == 2
    torch.testing.assert_close(resumed.module[0].weight, (model[0].weight + other[0].weight) / 2)
    assert torch.equal(resumed.module[0].weight, average.module[0].weight)


def test_MovingAverage_update_makes_a_device_wait_for_nothing():
    model = network().to(DEVICE)
    average = MovingAverage(model, 0.9)
    with host_traffic() as traffic:
        average.update_parameters(model)
        average.update_parameters(model)
    assert traffic.to_device == traffic.to_host == []
    assert average.n_averaged.device.type == "cpu"
    assert int(average.n_averaged) == 2
