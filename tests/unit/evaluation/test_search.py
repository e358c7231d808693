"""Exact search against a full sort and against faiss."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.errors import DataError
from vplface.evaluation import search as module
from vplface.evaluation.search import search
from vplface.evaluation.unit import unit


def sorted_all(probes, gallery, k):
    """The definition: all cosines, sorted; of equals the lower row first."""
    cosines = probes @ gallery.T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, order, 1), order


def same(found, expected, cosines):
    """Equal but for rounding: rows whose cosines lie closer than it may change places."""
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    for score, index in (found, expected):
        np.testing.assert_allclose(score, np.take_along_axis(cosines, index, 1), atol=1e-6)
        assert all(len(set(rows)) == len(rows) for rows in index.tolist())


@given(st.integers(1, 9), st.integers(1, 70), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_search_equals_a_full_stable_sort(n, rows, k, seed):
    rng = np.random.default_rng(seed)
    # Steps of a half along axes: cosines are exact in float32 and many are equal.
    axes = np.eye(4, dtype=np.float32)
    probes, gallery = (
        axes[rng.integers(4, size=n)],
        axes[rng.integers(4, size=rows)] * rng.choice([1, 2, 0.5], (rows, 1)),
    )
    k = min(k, rows)
    parts = [gallery[: rows // 3], gallery[rows // 3 :]]
    score, index = search(probes, parts, k)
    expected_score, expected_index = sorted_all(probes, unit(gallery, "gallery"), k)
    np.testing.assert_array_equal(score, expected_score)
    np.testing.assert_array_equal(index, expected_index)


@pytest.mark.parametrize("k", [1, 7, 300])
def test_search_in_blocks_equals_a_full_sort(monkeypatch, k):
    rng = np.random.default_rng(0)
    probes, gallery = unit(rng.normal(size=(23, 16)), "probes"), rng.normal(size=(300, 16)).astype(np.float32)
    whole = sorted_all(probes, unit(gallery, "gallery"), k)
    monkeypatch.setattr(module, "_PROBES", 5)
    monkeypatch.setattr(module, "_ROWS", 31)
    same(search(probes, [gallery[:100], gallery[100:]], k), whole, probes @ unit(gallery, "gallery").T)


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
@pytest.mark.parametrize("k", [1, 40, 200])
def test_search_with_faiss_equals_exact_search(k):
    rng = np.random.default_rng(1)
    probes, gallery = unit(rng.normal(size=(40, 32)), "probes"), rng.normal(size=(2500, 32)).astype(np.float32)
    ours, theirs = (search(probes, [gallery[:7], gallery[7:]], k, engine) for engine in ("exact", "faiss"))
    same(ours, theirs, probes @ unit(gallery, "gallery").T)


def test_search_names_a_row_without_direction(monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 2)
    gallery = np.ones((7, 3))
    gallery[5] = 0
    with pytest.raises(DataError, match=r"1 of 2 embeddings .* row 5 of the gallery"):
        search(np.eye(3, dtype=np.float32), [gallery[:2], gallery[2:]], 1)
    gallery[5] = np.nan
    with pytest.raises(DataError, match="row 5"):
        search(np.eye(3, dtype=np.float32), [gallery], 1)


def test_search_refuses_k_out_of_range_and_an_unknown_engine():
    probes = np.eye(3, dtype=np.float32)
    for k in (0, 4):
        with pytest.raises(ValueError, match=r"1\.\.3"):
            search(probes, [probes], k)
    with pytest.raises(ValueError, match="engine"):
        search(probes, [probes], 1, "fast")
