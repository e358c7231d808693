"""Sets of pictures with degraded pictures."""

from __future__ import annotations

import pickle

import numpy as np

from vplface.data.batches import load_all
from vplface.data.degrade import Degradation, DegradedPictures, LowResolution, Noise
from vplface.data.selection import Subset


class People:
    """Four people with three pictures each, of noise."""

    def __init__(self) -> None:
        self.identities = ["a", "b", "c", "d"]
        self.labels = np.repeat(np.arange(4), 3)

    def __len__(self) -> int:
        return 12

    def name(self, index: int) -> str:
        return f"{self.identities[index // 3]}/{index % 3}.png"

    def picture(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (112, 112, 3), dtype=np.uint8)


PEOPLE = People()
HALF = Degradation(LowResolution(), share=0.5)


def test_DegradedPictures_degrades_the_chosen_and_no_other() -> None:
    degraded = DegradedPictures.of_all_pairs(PEOPLE, HALF)
    assert degraded.degraded.tolist() == [HALF.is_chosen(PEOPLE.name(index)) for index in range(12)]
    assert 0 < degraded.degraded.sum() < 12
    for index in range(12):
        clean, name = PEOPLE.picture(index), PEOPLE.name(index)
        expected = HALF(clean, name) if HALF.is_chosen(name) else clean
        assert np.array_equal(degraded.picture(index), expected)
        assert degraded.name(index) == name
    assert degraded.labels.tolist() == PEOPLE.labels.tolist()
    assert degraded.identities == PEOPLE.identities


def test_DegradedPictures_are_the_same_in_any_order() -> None:
    order = np.random.default_rng(0).permutation(12)
    probes = Degradation(Noise(), share=0.5, probes=True)
    for degradation in (HALF, probes):
        whole = DegradedPictures.of_all_pairs(PEOPLE, degradation)
        shuffled = DegradedPictures.of_all_pairs(Subset(PEOPLE, order), degradation)
        chosen = whole.only(order)
        for index, place in enumerate(order.tolist()):
            for each in (shuffled, chosen):
                assert each.name(index) == whole.name(place)
                assert each.degraded[index] == whole.degraded[place]
                assert np.array_equal(each.picture(index), whole.picture(place))


def test_DegradedPictures_are_the_same_for_any_number_of_workers() -> None:
    degraded = DegradedPictures.of_pairs(PEOPLE, Degradation(Noise(), share=0.5, probes=True))
    inline, loaded = (
        np.concatenate([batch.pictures.numpy() for batch in load_all(degraded, np.arange(len(degraded)), 4, workers)])
        for workers in (0, 2)
    )
    assert np.array_equal(inline, loaded)
    assert np.array_equal(inline[14], pickle.loads(pickle.dumps(degraded)).picture(14))


def test_DegradedPictures_of_all_pairs_with_probes_leaves_one_picture_of_each_person_clean() -> None:
    everything = Degradation(LowResolution(), probes=True)
    degraded = DegradedPictures.of_all_pairs(PEOPLE, everything)
    clean = np.flatnonzero(~degraded.degraded)
    assert PEOPLE.labels[clean].tolist() == [0, 1, 2, 3]
    for index in clean.tolist():
        own = [PEOPLE.name(other) for other in range(12) if other // 3 == index // 3]
        assert min(own, key=everything.reference_rank) == PEOPLE.name(index)


def test_DegradedPictures_of_pairs_with_probes_appends_a_degraded_copy_of_each_chosen_picture() -> None:
    probes = Degradation(LowResolution(), share=0.5, probes=True)
    degraded = DegradedPictures.of_pairs(PEOPLE, probes)
    chosen = [index for index in range(12) if probes.is_chosen(PEOPLE.name(index))]
    assert len(degraded) == 12 + len(chosen)
    assert degraded.degraded.tolist() == [False] * 12 + [True] * len(chosen)
    assert degraded.places.tolist() == [*range(12), *chosen]
    assert degraded.labels[12:].tolist() == PEOPLE.labels[chosen].tolist()
    assert len({degraded.name(index) for index in range(len(degraded))}) == len(degraded)
    assert degraded.name(12) == f"{PEOPLE.name(chosen[0])} (degraded)"
    for index in range(12):
        second = degraded.second[index]
        assert degraded.places[second] == index
        assert degraded.degraded[second] == (index in chosen)
        assert np.array_equal(degraded.picture(index), PEOPLE.picture(index))
    assert np.array_equal(degraded.picture(12), probes(PEOPLE.picture(chosen[0]), PEOPLE.name(chosen[0])))
