"""All pairs in blocks against all pairs at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from vplface.evaluation import all_pairs, topk
from vplface.evaluation.all_pairs import score_all_pairs
from vplface.evaluation.tar_at_far import roc


def people(seed=0, sizes=(5, 1, 3, 1, 8, 2, 1, 4), dim=8):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)) * 3, sizes))
    x = rng.normal(size=(3 * len(sizes), dim))[labels] + rng.normal(size=(len(labels), dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels


def at_once(x, labels):
    similarity = 1 - pdist(x, "cosine")
    left, right = np.triu_indices(len(x), 1)
    same = labels[left] == labels[right]
    return similarity, left, right, same


@pytest.mark.parametrize("block", [(1, 1), (1, 7), (3, 2), (10, 40), (512, 2048)])
@pytest.mark.parametrize("keep", [1, 20, 10_000])
def test_score_all_pairs_in_blocks_agrees_with_all_pairs_at_once(monkeypatch, block, keep):
    monkeypatch.setattr(all_pairs, "_ROWS", block[0])
    monkeypatch.setattr(all_pairs, "_COLUMNS", block[1])
    monkeypatch.setattr(topk, "_SPARE", block[0] * block[1])
    x, labels = people()
    similarity, left, right, same = at_once(x, labels)
    result = score_all_pairs(x, labels, keep)
    scores = result.scores
    expected = np.sort(similarity[~same])[::-1]
    assert scores.impostors == len(expected)
    assert scores.complete == (keep >= len(expected))
    np.testing.assert_allclose(scores.impostor, expected[:keep], atol=1e-6)
    np.testing.assert_allclose(scores.genuine, np.sort(similarity[same])[::-1], atol=1e-6)
    # Every score belongs to the pair that is named with it, and that pair to its kind.
    by_pair = dict(zip(zip(left, right, strict=True), similarity, strict=True))
    for values, pairs, kind in (
        (scores.genuine, scores.genuine_pairs, True),
        (scores.impostor, scores.impostor_pairs, False),
    ):
        named = [tuple(sorted(map(int, pair))) for pair in pairs]
        assert len(set(named)) == len(named)
        np.testing.assert_allclose(values, [by_pair[pair] for pair in named], atol=1e-6)
        assert ((labels[pairs[:, 0]] == labels[pairs[:, 1]]) == kind).all()
        assert ((scores.identity[pairs[:, 0]] == scores.identity[pairs[:, 1]]) == kind).all()
    assert scores.identities == 8
    for counts, kind in ((result.genuine, same), (result.impostor, ~same)):
        np.testing.assert_array_equal(counts, np.histogram(similarity[kind], result.edges)[0])


def test_AllPairs_roc_continues_below_the_kept_scores():
    x, labels = people(sizes=(6,) * 40)
    similarity, _, _, same = at_once(x, labels)
    far, tar, thresholds = score_all_pairs(x, labels, 50).roc()
    assert (np.diff(thresholds) < 0).all()
    assert (far[-1], tar[-1]) == (1.0, 1.0)
    assert (np.diff(far) >= 0).all()
    assert (np.diff(tar) >= 0).all()
    exact_far, exact_tar, _ = roc(similarity[same], similarity[~same])
    for level in (1e-3, 1e-2, 0.1, 0.5):
        ours, theirs = tar[far <= level].max(), exact_tar[exact_far <= level].max()
        assert ours == pytest.approx(theirs, abs=0.01)


def test_score_all_pairs_handles_equal_embeddings():
    x, labels = np.tile([[1.0, 0.0]], (6, 1)), np.array([0, 0, 1, 1, 2, 2])
    result = score_all_pairs(x, labels, 5)
    assert result.scores.impostor.tolist() == [1.0] * 5
    assert result.scores.genuine.tolist() == [1.0] * 3
    assert (result.impostor[-1], result.impostor.sum(), result.scores.impostors) == (12, 12, 12)


@pytest.mark.parametrize("labels", [[], [4], [4, 4], [4, 5]])
def test_score_all_pairs_handles_fewer_than_three_pictures(labels):
    x = np.tile([[0.6, 0.8]], (len(labels), 1))
    scores = score_all_pairs(x, np.array(labels, np.int64), 10).scores
    assert len(scores.genuine) == (labels == [4, 4])
    assert len(scores.impostor) == scores.impostors == (labels == [4, 5])


@pytest.mark.parametrize("block", [(1, 1), (1, 7), (3, 2), (10, 40), (512, 2048)])
def test_score_all_pairs_nearest_agrees_with_a_loop(monkeypatch, block):
    monkeypatch.setattr(all_pairs, "_ROWS", block[0])
    monkeypatch.setattr(all_pairs, "_COLUMNS", block[1])
    x, labels = people()
    own, other = score_all_pairs(x, labels, 5).nearest
    for k in range(len(x)):
        similarity = x @ x[k]
        mates = [similarity[j] for j in range(len(x)) if labels[j] == labels[k] and j != k]
        assert own[k] == pytest.approx(max(mates, default=-np.inf), abs=1e-6)
        assert other[k] == pytest.approx(max(similarity[labels != labels[k]]), abs=1e-6)
