from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vplface.training.parts import most


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4))
def test_most_is_the_largest_part_of_the_largest_slice_of_a_batch(batch_size, processes, accumulate):
    slices = np.array_split(np.arange(batch_size), processes)
    largest = max(len(part) for each in slices for part in np.array_split(each, accumulate))
    found = most(SimpleNamespace(accumulate=accumulate), SimpleNamespace(batch_size=batch_size), processes)
    assert found == largest
