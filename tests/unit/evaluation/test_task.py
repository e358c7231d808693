"""A verification task, given to several models."""

from __future__ import annotations

import numpy as np
import pytest

from vplface.backbones import build
from vplface.data.degrade import Degradation, DegradedPictures, Noise
from vplface.data.pairs import Pairs
from vplface.data.selection import Subset
from vplface.embedder import Embedder
from vplface.errors import DataError
from vplface.evaluation import EvalOptions, evaluate_all_pairs_embedded, evaluate_pairs_embedded, protocols
from vplface.evaluation.task import VerificationTask
from vplface.stored_model import ModelCard


class People:
    """Three pictures each of some people."""

    def __init__(self, count: int) -> None:
        self.labels = np.repeat(np.arange(count), 3)
        self.identities = [str(label) for label in range(count)]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"{self.labels[index]}/{index % 3}.png"

    def picture(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (112, 112, 3), dtype=np.uint8)


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


def test_VerificationTask_with_degraded_probes_compares_each_first_picture_with_a_degraded_second() -> None:
    """The copies get the embeddings of their clean pictures turned round, which reverses every similarity."""
    task = VerificationTask("some", PEOPLE, PAIRS).with_degraded(Degradation(Noise(), probes=True))
    clean = VerificationTask("some", PEOPLE, PAIRS).evaluate(EMBEDDINGS, OPTIONS)
    degraded = task.evaluate(np.concatenate([EMBEDDINGS, -EMBEDDINGS]), OPTIONS)
    assert task.used.tolist() == [0, 3, 6, 13, 15, 16, 17]
    assert {pair["right"] for pair in degraded.worst["genuine"]} == {"0/1.png (degraded)", "1/2.png (degraded)"}
    assert {pair["left"] for pair in degraded.worst["genuine"]} == {"0/0.png", "1/0.png"}
    before, after = (
        {pair["left"]: pair["similarity"] for pair in each.worst["impostor"]} for each in (clean, degraded)
    )
    assert after == {left: pytest.approx(-similarity) for left, similarity in before.items()}


def test_VerificationTask_with_degraded_pictures_records_the_degradation_and_how_many_pictures_it_has() -> None:
    degradation = Degradation(Noise(), share=0.5)
    clean = VerificationTask("half", PEOPLE, chosen=np.arange(6))
    task = clean.with_degraded(degradation)
    first, second = task.evaluate(EMBEDDINGS, OPTIONS), clean.evaluate(EMBEDDINGS, OPTIONS)
    count = sum(degradation.is_chosen(PEOPLE.name(index)) for index in range(6))
    assert 0 < count < 6
    assert first.protocol["degrade"] == degradation.to_dict() | {"pictures": count}
    assert first.fingerprint != second.fingerprint  # not the same pictures: not to be compared pair by pair
    assert {key: first.metrics[key] for key in second.metrics} == second.metrics  # the same embeddings


def test_VerificationTask_with_degraded_probes_has_a_clean_reference_among_the_compared_pictures_of_each_person() -> (
    None
):
    """With two of the three pictures of each person compared, one of these two is clean."""
    for seed in range(10):
        chosen = np.array([0, 1, 3, 5, 7, 8])
        task = VerificationTask("some", PEOPLE, chosen=chosen).with_degraded(
            Degradation(Noise(), seed=seed, probes=True)
        )
        assert isinstance(task.pictures, DegradedPictures)
        assert task.pictures.degraded[chosen].reshape(3, 2).sum(axis=1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("pairs", [PAIRS, None])
@pytest.mark.parametrize("probes", [False, True])
def test_VerificationTask_embed_with_the_embeddings_of_the_clean_pictures_gives_the_same(
    pairs: Pairs | None, probes: bool
) -> None:
    embedder = Embedder.from_backbone(build("tiny", 8, width=8), ModelCard("tiny", 8, {"width": 8}))
    task = VerificationTask("some", PEOPLE, pairs)
    degraded = task.with_degraded(Degradation(Noise(), share=0.5, probes=probes))
    assert isinstance(degraded.pictures, DegradedPictures)
    alone = degraded.embed(embedder, "none")
    after = degraded.embed(embedder, "none", clean=task.embed(embedder, "none"))
    assert np.isfinite(alone[degraded.used]).all()
    assert np.abs(after[degraded.used] - alone[degraded.used]).max() < 1e-5
    changed = degraded.used[degraded.pictures.degraded[degraded.used]]
    assert 0 < len(changed) < len(degraded.used)
    clean = task.embed(embedder, "none")[degraded.pictures.places[changed]]
    assert (np.abs(alone[changed] - clean).max(axis=1) > 1e-3).all()
