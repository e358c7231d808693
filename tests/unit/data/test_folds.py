"""The division of people into folds."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.data.folds import fold_of


@given(st.text(max_size=20), st.integers(2, 20), st.integers(0, 2**62))
def test_fold_of_is_one_of_the_folds_whatever_the_composition_of_the_name(name, count, seed):
    fold = fold_of(name, count, seed)
    assert 1 <= fold <= count
    if name == unicodedata.normalize("NFC", name):
        assert fold_of(unicodedata.normalize("NFD", name), count, seed) == fold


def test_fold_of_is_the_same_on_every_machine():
    assert [fold_of(name, 5) for name in ("Al_Gore", "José_Mujica", "1", "")] == [3, 5, 4, 5]


def test_fold_of_divides_people_evenly_and_anew_with_another_seed():
    names = [f"person {k}" for k in range(5000)]
    first, second = (np.array([fold_of(name, 5, seed) for name in names]) for seed in (0, 1))
    for folds in (first, second):
        sizes = np.bincount(folds)[1:]
        assert np.abs(sizes - 1000).max() < 5 * np.sqrt(5000 * 0.2 * 0.8)
    assert np.mean(first == second) == pytest.approx(0.2, abs=0.03)  # as often as by chance
