"""A verification task, given to several models."""

from __future__ import annotations

import numpy as np
import pytest

from vplface.data.pairs import Pairs
from vplface.data.selection import Subset
from vplface.errors import DataError
from vplface.evaluation import EvalOptions, evaluate_all_pairs_embedded, evaluate_pairs_embedded, protocols
from vplface.evaluation.task import VerificationTask


class People:
    """Three pictures each of some people."""

    def __init__(self, count: int) -> None:
        self.labels = np.repeat(np.arange(count), 3)
        self.identities = [str(label) for label in range(count)]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"{self.labels[index]}/{index % 3}.png"


PEOPLE = People(4)
EMBEDDINGS = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
PAIRS = Pairs(
    ["0/0.png", "1/0.png", "2/0.png", "0/0.png"],
    ["0/1.png", "1/2.png", "1/0.png", "1/1.png"],
    np.array([True, True, False, False]),
    np.zeros(4, np.int64),
)
OPTIONS = EvalOptions(flip=None, fars=[0.5], bootstrap=20)


def test_VerificationTask_evaluate_resolves_each_pair_list_once(monkeypatch):
    looked_up = []
    resolve = protocols.resolve
    monkeypatch.setattr(protocols, "resolve", lambda *lists: looked_up.append(lists) or resolve(*lists))
    task = VerificationTask("some", PEOPLE, PAIRS, PAIRS)
    assert task.used.tolist() == [0, 1, 3, 4, 5, 6]
    first, second = (task.evaluate(factor * EMBEDDINGS, OPTIONS) for factor in (1, 2))
    assert first.to_dict() == second.to_dict()
    assert len(looked_up) == 2  # the pairs, and those that the threshold is chosen on
    alone = evaluate_pairs_embedded(
        EMBEDDINGS, PEOPLE, PAIRS, name="some", threshold_pairs=PAIRS, flip=None, fars=[0.5], bootstrap=20
    )
    assert first.to_dict() == alone.to_dict()


def test_VerificationTask_evaluate_compares_all_pairs_of_the_chosen_pictures():
    chosen = np.arange(6)
    task = VerificationTask("half", PEOPLE, chosen=chosen)
    embeddings = EMBEDDINGS.copy()
    embeddings[6:] = np.nan
    alone = evaluate_all_pairs_embedded(
        EMBEDDINGS[:6], Subset(PEOPLE, chosen), name="half", flip=None, fars=[0.5], bootstrap=20
    )
    assert task.used is chosen
    assert task.evaluate(embeddings, OPTIONS).to_dict() == alone.to_dict()


def test_VerificationTask_used_names_missing_pictures():
    strangers = Pairs(["9/0.png"], ["0/0.png"], np.array([False]), np.zeros(1, np.int64))
    with pytest.raises(DataError, match=r"9/0\.png"):
        _ = VerificationTask("strangers", PEOPLE, strangers).used
