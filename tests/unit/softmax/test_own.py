"""The own class of each sample: rows, cosines, and places in a tile."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from vplface.margins import ArcFace, CosFace
from vplface.softmax.own import OwnPlaces, own_rows, target_cosines


def places(rows: list[int], sort: bool) -> OwnPlaces:
    """With the samples sorted, as on a CPU, or with every tile going over all samples, as on a GPU."""
    found = OwnPlaces(torch.tensor(rows))
    if not sort:
        found._order = None
    return found


@pytest.mark.parametrize("sort", [True, False], ids=["sorted", "all samples"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_OwnPlaces_fill_writes_the_samples_of_a_tile_and_nothing_else(sort, dtype):
    rows = [5, 0, -1, 3, 3, 7, 2, -1]
    numbers = torch.arange(1.0, 9.0)
    for tile in (slice(0, 3), slice(3, 6), slice(6, 8), slice(4, 4)):
        matrix, constant = (torch.zeros(tile.stop - tile.start, 8, dtype=dtype) for _ in range(2))
        if tile.start == tile.stop and not sort:
            continue
        places(rows, sort).fill(matrix, tile, numbers)
        places(rows, sort).fill(constant, tile, -torch.inf)
        for j in range(tile.start, tile.stop):
            for i, row in enumerate(rows):
                assert matrix[j - tile.start, i] == (numbers[i] if row == j else 0)
                assert constant[j - tile.start, i] == (-torch.inf if row == j else 0)


def test_own_rows_names_the_nearest_subcenter_and_minus_one_elsewhere():
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -3.0]])
    x = normalize(torch.tensor([[0.9, 0.1], [0.1, 0.9], [-0.1, -0.9], [1.0, 0.0]]), dim=1)
    labels = torch.tensor([0, 0, 1, -1])
    assert own_rows(x, labels, weight, None, 2).tolist() == [0, 1, 3, -1]
    assert own_rows(x, labels, weight, None, 1).tolist() == [0, 0, 1, -1]
    assert own_rows(x, torch.tensor([-1] * 4), weight[:0], None, 2).tolist() == [-1] * 4


def test_target_cosines_by_hand():
    weight = torch.tensor([[2.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    x = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.6, 0.8]], dtype=torch.float64)
    rows = torch.tensor([0, 1, -1])
    found = target_cosines(x, rows, weight, CosFace(8.0, 0.25), None, None)
    torch.testing.assert_close(found.target, torch.tensor([0.35, 0.55, 0.0], dtype=torch.float64))
    assert found.slope.tolist() == [1.0, 1.0, 0.0]
    assert found.slope_of_strength.tolist() == [0.0, 0.0, 0.0]
    slope = target_cosines(x, rows, weight, ArcFace(8.0, 0.5), None, None).slope
    angle = torch.acos(torch.tensor([0.6, 0.8], dtype=torch.float64))
    torch.testing.assert_close(slope[:2], torch.sin(angle + 0.5) / torch.sin(angle))
    assert target_cosines(x, torch.tensor([-1] * 3), weight[:0], ArcFace(), None, None).target.tolist() == [0.0] * 3
