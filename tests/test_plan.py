import math

import pytest
import torch

from vplface import ArcFace, NormSoftmax, PrototypeHead
from vplface.plan import expected_first_loss
from vplface.softmax.tiled import tile_bytes


def test_expected_first_loss_by_hand():
    # s → 0: the loss is log N whatever the margin
    assert expected_first_loss(NormSoftmax(1e-9), 1000, 64) == pytest.approx(math.log(1000))
    # a margin of 90° turns cosθ = 0 into −1
    by_hand = 10 + math.log(99 * math.exp(100 / 1e9) + math.exp(-10))
    assert expected_first_loss(ArcFace(10.0, math.pi / 2), 100, 10**9 // 2) == pytest.approx(by_hand)


@pytest.mark.parametrize("margin", [ArcFace(32.0, 0.4), NormSoftmax(16.0)])
def test_an_untrained_head_has_the_expected_loss(margin):
    torch.manual_seed(0)
    head = PrototypeHead(2000, 128, margin=margin).eval()
    loss = head(torch.randn(256, 128), torch.randint(2000, (256,))).item()
    assert loss == pytest.approx(expected_first_loss(margin, 2000, 128), rel=0.05)


def test_what_the_softmax_takes_grows_with_the_logits_up_to_the_workspace():
    cpu = torch.device("cpu")
    head = PrototypeHead(4, 2, workspace_mb=3)
    assert head.workspace_bytes == 3 * 2**20
    assert tile_bytes(10, 16, cpu) == 10 * tile_bytes(1, 16, cpu)
    assert tile_bytes(10**7, 512, cpu) == tile_bytes(10**6, 512, cpu) < 64 * 2**20
