import numpy as np

from vplface.evaluation.worst import WORST, first_without_repetition


def test_first_without_repetition_names_no_picture_twice():
    similarity = np.array([0.9, 0.8, 0.7, 0.6], np.float64)
    pairs = np.array([[0, 1], [1, 2], [3, 0], [2, 3]])
    assert first_without_repetition(similarity, pairs) == [(0.9, 0, 1), (0.6, 2, 3)]


def test_first_without_repetition_returns_at_most_WORST_pairs():
    count = WORST + 5
    pairs = ((2 * number, 2 * number + 1) for number in range(count))
    assert len(first_without_repetition(np.zeros(count), pairs)) == WORST
