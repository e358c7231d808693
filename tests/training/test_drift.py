import math

import pytest
import torch
from torch import nn

from vplface.training.drift import FeatureDrift


class Turn(nn.Module):
    """Turns unit vectors of the plane by an angle."""

    angle = 0.0

    def forward(self, x):
        c, s = math.cos(self.angle), math.sin(self.angle)
        return 3.0 * x @ torch.tensor([[c, s], [-s, c]])


def test_drift_of_a_turning_embedding_is_the_squared_chord():
    probe = nn.functional.normalize(torch.randn(20, 2), dim=1)
    network, drift = Turn().train(), FeatureDrift(probe)
    assert drift.measure(network) is None
    assert drift.measure(network) == pytest.approx(0.0, abs=1e-10)
    network.angle = math.pi / 3
    assert drift.measure(network) == pytest.approx(1.0, rel=1e-5)
    network.angle += math.pi
    assert drift.measure(network) == pytest.approx(4.0, rel=1e-5)
    assert network.training
