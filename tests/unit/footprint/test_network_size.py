"""Operations and memory of a network, by hand."""

import pytest
from torch import nn

from vplface.footprint import inference_of, network_of, network_size

AREA = 56 * 56
FIRST = 2 * 6 * 3 * 9 * AREA  # of a picture, two a multiply-add
GROUPED = 2 * 6 * 1 * 9 * AREA
LAST = 2 * 6 * AREA * 8


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """The only backbone that there is: two convolutions, one of them depthwise, and a product."""

    def build(name, dim, **options):
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False),
            nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
            nn.Flatten(),
            nn.Linear(6 * AREA, dim, bias=False),
        )

    monkeypatch.setattr(network_size, "build", build)


def test_network_of_counts_operations_of_both_directions():
    found = network_of("net", 8, 4, "float32")
    assert found.forward == FIRST + GROUPED + LAST
    assert found.backward == FIRST + 2 * GROUPED + 2 * LAST  # pictures need no gradient


def test_network_of_counts_no_backward_pass_below_the_first_weight_that_trains():
    assert network_of("net", 8, 4, "float32", frozen={"0.weight", "1.weight"}).backward == LAST
    assert network_of("net", 8, 4, "float32", frozen={"0.weight", "1.weight", "3.weight"}).backward == 0


def test_inference_of_counts_what_is_held_at_once():
    found = inference_of("net", 8, 5)
    assert found.forward == FIRST + GROUPED + LAST
    assert found.parameters == 6 * 3 * 9 + 6 * 9 + 6 * AREA * 8
    assert found.state_bytes == 4 * found.parameters
    assert found.peak_bytes == 2 * (5 * 6 * AREA * 4)  # input and output of the second convolution
