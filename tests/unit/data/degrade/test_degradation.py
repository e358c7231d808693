"""Which pictures a degradation chooses, and in which way it degrades them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.data.degrade import KINDS, Degradation, LowResolution, Noise

NAMES = [f"person_{number // 4}/{number % 4:04d}.jpg" for number in range(4000)]
PICTURE = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)


def chosen(degradation: Degradation) -> set[str]:
    return {name for name in NAMES if degradation.is_chosen(name)}


def test_Degradation_is_chosen_compares_the_documented_hash_with_the_share() -> None:
    digest = hashlib.blake2b(b"5/ada/0001", digest_size=16, person=b"share").digest()
    drawn = int.from_bytes(digest[:8], "big") / 2**64
    assert not Degradation(Noise(), drawn - 1e-9, seed=5).is_chosen("ada/0001.jpg")
    assert Degradation(Noise(), drawn + 1e-9, seed=5).is_chosen("ada/0001.jpg")


def test_Degradation_is_chosen_is_the_same_in_every_version() -> None:
    degradation = Degradation(LowResolution(), share=0.2)
    assert [number for number, name in enumerate(NAMES[:60]) if degradation.is_chosen(name)] == [
        0,
        9,
        10,
        13,
        15,
        27,
        28,
        34,
        43,
        50,
        56,
    ]
    assert degradation.reference_rank("ada/0001.jpg").hex() == "ad5c942599a6a9f1409a92cff60c40c7"


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_Degradation_is_chosen_for_about_the_share(share: float) -> None:
    deviation = (share * (1 - share) * len(NAMES)) ** 0.5
    assert abs(len(chosen(Degradation(Noise(), share))) - share * len(NAMES)) < 4 * deviation


def test_Degradation_is_chosen_for_none_at_0_and_for_all_at_1() -> None:
    assert not chosen(Degradation(Noise(), 0.0))
    assert chosen(Degradation(Noise(), 1.0)) == set(NAMES)


def test_Degradation_is_chosen_at_every_larger_share_and_by_every_kind_alike() -> None:
    small = chosen(Degradation(Noise(), 0.2))
    assert small < chosen(Degradation(Noise(), 0.4))
    assert small == chosen(Degradation(LowResolution(), 0.2))
    assert small != chosen(Degradation(Noise(), 0.2, seed=1))


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**62), st.text(st.characters(exclude_categories=["Cs"])))
def test_Degradation_degrades_by_seed_and_name_alone(kind: str, seed: int, name: str) -> None:
    degradation = Degradation(KINDS[kind](), seed=seed)
    first = degradation(PICTURE[:24, :20], name)
    degradation(PICTURE, "another")
    again = Degradation(KINDS[kind](), share=0.1, seed=seed)(PICTURE[:24, :20], name)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)


def test_Degradation_ignores_the_file_type_and_the_composition_of_accents() -> None:
    degradation = Degradation(Noise(), 0.5)
    for name, same in (("ada/1.jpg", "ada/1.PNG"), ("ada/1.jpeg", "ada/1"), ("Ren\u00e9/1", "Rene\u0301/1")):
        assert degradation.is_chosen(name) == degradation.is_chosen(same)
        assert np.array_equal(degradation(PICTURE, name), degradation(PICTURE, same))
    assert not np.array_equal(degradation(PICTURE, "Jr./1.5"), degradation(PICTURE, "Jr./1.7"))


def test_Degradation_draws_other_noise_for_another_name_or_seed() -> None:
    degradation = Degradation(Noise())
    one = degradation(PICTURE, "a")
    assert not np.array_equal(one, degradation(PICTURE, "b"))
    assert not np.array_equal(one, replace(degradation, seed=1)(PICTURE, "a"))


def test_Degradation_takes_names_that_are_not_unicode() -> None:
    assert Degradation(Noise()).is_chosen("Ren\udce9/1.jpg")


def test_Degradation_to_dict_and_str_tell_everything() -> None:
    degradation = Degradation(LowResolution((7, 11)), 0.2, seed=3, probes=True)
    assert degradation.to_dict() == {
        "kind": "low_resolution",
        "share": 0.2,
        "pixels": [7, 11],
        "seed": 3,
        "probes": True,
    }
    assert str(degradation) == "low_resolution (pixels 7–11) of 20 % of the probes, seed 3"
    assert str(Degradation(Noise((9.0, 9.0)))) == "noise (sigma 9) of 100 % of the pictures, seed 0"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 1.1}, r"share must lie in 0\.\.1, got 1\.1"),
        ({"share": float("nan")}, "share"),
        ({"seed": -1}, "seed"),
    ],
)
def test_Degradation_names_a_value_out_of_range(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Degradation(Noise(), **values)
