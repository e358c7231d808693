"""The highest values against a stable sort of all values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.evaluation import topk
from vplface.evaluation.topk import HighestPairs, highest

# Few distinct values, so that many are equal at every cut.
tied = st.lists(st.integers(0, 4), max_size=40).map(lambda values: np.array(values, np.float32))


@given(tied, st.integers(0, 50))
def test_highest_equals_the_start_of_a_stable_sort(values, k):
    assert highest(values, k).tolist() == np.argsort(-values, kind="stable")[:k].tolist()


@pytest.mark.parametrize("spare", [0, 5, 1000])
@given(parts=st.lists(tied, max_size=6), keep=st.integers(1, 30))
def test_HighestPairs_keeps_the_start_of_a_stable_sort(spare, parts, keep):
    values = np.concatenate([np.zeros(0, np.float32), *parts])
    pairs = np.stack([np.arange(len(values)), -np.arange(len(values))], axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "_SPARE", spare)
        stream, start = HighestPairs(keep), 0
        for part in parts:
            worth_adding = np.flatnonzero(part > stream.lowest)
            stream.add(part[worth_adding], pairs[start + worth_adding])
            start += len(part)
        score, pair = stream.result()
    order = np.argsort(-values, kind="stable")[:keep]
    assert score.tolist() == values[order].tolist()
    assert pair.tolist() == pairs[order].tolist()
