"""Speed measured on random pictures: the head has the terms and the memory that the run will have."""

import pytest
import torch

from vplface.config import build_config
from vplface.study import cost

SMALL = {"name": "a", "data": {"train": "x"}, "batch_size": 8, "backbone": {"name": "tiny", "options": {"width": 8}}}


@pytest.fixture
def heads(monkeypatch):
    made = []

    def head_of(*args):
        made.append(built(*args))
        return made[-1]

    built = cost.head_of
    monkeypatch.setattr(cost, "head_of", head_of)
    return made


def test_pictures_per_second_includes_terms_and_memory_that_start_later(heads):
    changes = {"terms": [{"name": "xbm", "start": "3 epochs"}, {"name": "unpg"}], "variational": {"start": "2 epochs"}}
    assert cost.pictures_per_second(build_config(SMALL | changes, "test"), 12, 100) > 0
    [head] = heads
    assert set(head.term_values()) == {"xbm", "unpg"}
    assert head.coverage() > 0


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"optimizer": {"fused": True, "lr": 100.0, "clip": None}}])
def test_pictures_per_second_leaves_the_prototypes_unchanged(heads, changes):
    config = build_config(SMALL | changes, "test")
    assert cost.pictures_per_second(config, 12, 100) > 0
    [head] = heads
    untouched = cost.head_of(config, 12, None, [], torch.device("cpu"))
    torch.testing.assert_close(head.weight, untouched.weight, rtol=0, atol=0)


def test_kind_differs_between_runs_with_and_without_terms():
    plain, rival = (build_config(SMALL | {"terms": terms}, "test") for terms in ([], ["unpg"]))
    assert cost._kind(plain) != cost._kind(rival)
