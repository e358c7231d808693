from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.data.near_duplicates import difference_hashes, near_duplicates, near_pairs
from vplface_synthetic import SyntheticFaces


def apart(one, other) -> tuple[int, int]:
    bits = [bin(int(a) ^ int(b)).count("1") for a, b in zip(one, other, strict=True)]
    return bits[0], sum(bits[1:])


def are_near(one, other) -> bool:
    short, long = apart(one, other)
    return short <= 4 and long <= 24


def clustered(seed: int, centres: int, copies: int) -> np.ndarray:
    """Random hashes, and copies of each with a few bits flipped, in random order."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 2**64, (centres, 5), dtype=np.uint64)
    rows = np.repeat(rows, copies, axis=0)
    for row in rows:
        for bits, offset, most in ((64, 0, 4), (256, 64, 18)):
            for bit in offset + rng.choice(bits, rng.integers(0, most), replace=False):
                row[bit // 64] ^= np.uint64(1 << int(bit % 64))
    return rng.permutation(rows)


@given(st.integers(0, 10**6), st.integers(0, 8), st.integers(1, 5))
def test_near_pairs_equals_a_comparison_of_all_pairs(seed, centres, copies):
    rows = clustered(seed, centres, copies)
    expected = [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows)) if are_near(rows[i], rows[j])]
    assert [tuple(pair) for pair in near_pairs(rows).tolist()] == expected


def test_near_pairs_includes_the_largest_distance_and_excludes_the_next():
    for place in range(64):
        rows = np.zeros((2, 5), np.uint64)
        for bit in range(4):
            rows[1, 0] ^= np.uint64(1 << ((place + 16 * bit) % 64))
        assert len(near_pairs(rows)) == 1
        rows[1, 0] ^= np.uint64(1 << ((place + 8) % 64))
        assert len(near_pairs(rows)) == 0
    rows = np.zeros((2, 5), np.uint64)
    rows[1, 4] = (1 << 24) - 1
    assert len(near_pairs(rows)) == 1
    rows[1, 1] = 1
    assert len(near_pairs(rows)) == 0


@given(st.integers(0, 10**6), st.integers(0, 6), st.integers(1, 5))
def test_near_duplicates_finds_partners_with_the_same_and_with_other_labels(seed, centres, copies):
    rows = clustered(seed, centres, copies)
    rows[1:2] = rows[:1]  # equal rows, too
    labels = np.random.default_rng(seed).integers(0, 3, len(rows))
    within, across = near_duplicates(rows, labels)
    for i in range(len(rows)):
        near = [j for j in range(len(rows)) if are_near(rows[i], rows[j])]
        first = min(j for j in near if labels[j] == labels[i])
        assert within[i] == (first if first != i else -1)
        others = [j for j in near if labels[j] != labels[i]]
        assert (across[i] in others) if others else (across[i] == -1)


def test_near_duplicates_handles_thousands_of_equal_pictures():
    labels = np.arange(30_000) % 15_000
    within, across = near_duplicates(np.zeros((30_000, 5), np.uint64), labels)
    assert (within[:15_000] == -1).all()
    assert (within[15_000:] == np.arange(15_000)).all()
    assert (labels[across] != labels).all()


@pytest.mark.parametrize(
    "changed",
    [
        lambda p: cv2.imdecode(cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 1),
        lambda p: cv2.resize(p, (80, 80), interpolation=cv2.INTER_AREA),
        lambda p: cv2.convertScaleAbs(p, alpha=0.9, beta=8),
    ],
    ids=["encoded again", "smaller", "lighter"],
)
def test_difference_hashes_of_changed_copies_are_near_and_of_other_pictures_are_not(changed):
    faces = SyntheticFaces(identities=10, pictures=2, seed=0)
    hashes = [difference_hashes(faces.picture(index)) for index in range(20)]
    for index in range(20):
        assert are_near(hashes[index], difference_hashes(changed(faces.picture(index))))
    assert not any(are_near(hashes[i], hashes[j]) for i in range(20) for j in range(i))


def test_difference_hashes_of_a_ramp_are_all_ones_or_all_zeros():
    ramp = np.repeat(np.arange(112, dtype=np.uint8)[None, :, None], 112, axis=0).repeat(3, axis=2)
    assert difference_hashes(ramp).tolist() == [2**64 - 1] * 5
    assert difference_hashes(np.ascontiguousarray(ramp[:, ::-1])).tolist() == [0] * 5
