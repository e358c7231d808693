from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.data.pictures import Picture
from vplface.data.selection import Joined, Subset, narrow, split_identities
from vplface.errors import DataError


@dataclass
class Plain:
    """A set whose picture i is filled with the value i."""

    identities: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, index: int) -> Picture:
        return np.full((112, 112, 3), index, np.uint8)

    def name(self, index: int) -> str:
        return f"{self.identities[self.labels[index]]}/{index}.png"


def named(pictures) -> list[str]:
    return [pictures.name(index) for index in range(len(pictures))]


def test_narrow_selects_by_min_pictures_and_max_pictures() -> None:
    pictures = Plain(["a", "b", "c"], np.array([2, 0, 1, 2, 1, 2]))
    narrowed = narrow(pictures, min_pictures=2, max_pictures=2)
    assert list(narrowed.identities) == ["b", "c"]
    assert narrowed.labels.tolist() == [1, 0, 1, 0]
    assert named(narrowed) == [pictures.name(index) for index in (0, 2, 3, 4)]
    assert narrow(pictures) is pictures
    with pytest.raises(DataError, match="no identity has 4 pictures, the most is 3"):
        narrow(pictures, min_pictures=4)
    with pytest.raises(ValueError, match="min_pictures"):
        narrow(pictures, min_pictures=0)
    with pytest.raises(ValueError, match="max_pictures"):
        narrow(pictures, max_pictures=0)


def test_narrow_selects_and_excludes_people() -> None:
    pictures = Plain(["a", "b", "c", "empty"], np.array([0, 1, 2, 2]))
    assert list(narrow(pictures, ["c", "a"]).identities) == ["a", "c"]
    assert list(narrow(pictures, {"c", "a"}, min_pictures=2).identities) == ["c"]
    assert list(narrow(pictures, exclude={"c", "nobody"}).identities) == ["a", "b"]
    with pytest.raises(DataError, match="no identity is left"):
        narrow(pictures, exclude={"a", "b", "c"})
    strangers = ["a", "empty", "..", "./a", "../a", "x0", "x1"]
    with pytest.raises(
        DataError, match=r"^faces: 6 of the 7 people asked for have no pictures: .*, empty, x0, \.\.\.$"
    ):
        narrow(pictures, strangers, where="faces")
    with pytest.raises(TypeError, match="collection of names"):
        narrow(pictures, "abc")


def test_Subset_relabels_to_the_identities_that_remain() -> None:
    subset = Subset(Plain(["a", "b", "c", "d"], np.array([0, 1, 1, 2, 3])), [4, 1, 2])
    assert list(subset.identities) == ["b", "d"]
    assert subset.labels.tolist() == [1, 0, 0]
    assert subset.labels.dtype == np.int64
    assert subset.name(0) == "d/4.png"
    assert subset.picture(2)[0, 0, 0] == 2
    with pytest.raises(IndexError, match=r"0\.\.4"):
        Subset(Plain(["a"], np.zeros(5, int)), [5])
    with pytest.raises(IndexError, match=r"0\.\.4"):
        Subset(Plain(["a"], np.zeros(5, int)), [-1])


def test_Joined_keeps_identities_of_one_name_apart() -> None:
    joined = Joined(
        [
            Plain(["x", "y"], np.array([0, 1, 1])),
            Plain(["y", "x (2)", "x"], np.array([0, 1, 2])),
            Plain(["x"], np.array([0])),
        ]
    )
    assert list(joined.identities) == ["x", "y", "y (2)", "x (2)", "x (3)", "x (4)"]
    assert joined.labels.tolist() == [0, 1, 1, 2, 3, 4, 5]
    assert [int(joined.picture(i)[0, 0, 0]) for i in range(len(joined))] == [0, 1, 2, 0, 1, 2, 0]
    assert joined.name(3) == "y/0.png"
    with pytest.raises(IndexError):
        joined.picture(7)


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 5))
def test_split_identities_partitions_the_identities(count: int, fraction: float, seed: int) -> None:
    pictures = Plain([f"p{i}" for i in range(count)], np.arange(3 * count) % count)
    rest, held_out = split_identities(pictures, fraction, seed)
    assert set(rest.identities).isdisjoint(held_out.identities)
    assert set(rest.identities) | set(held_out.identities) == set(pictures.identities)
    assert len(rest) + len(held_out) == len(pictures)
    assert len(held_out) == 3 * len(held_out.identities)
    assert len(held_out.identities) == min(count - 1, max(1, round(fraction * count)))
    again = split_identities(pictures, fraction, seed)[1]
    assert list(again.identities) == list(held_out.identities)


def test_split_identities_depends_on_the_seed_not_on_order_and_hardly_on_other_identities() -> None:
    names = [f"p{i}" for i in range(100)]
    held_out = set(split_identities(Plain(names, np.arange(100)), 0.3, 1)[1].identities)
    assert held_out != set(split_identities(Plain(names, np.arange(100)), 0.3, 2)[1].identities)
    assert held_out == set(split_identities(Plain(names[::-1], np.arange(100)), 0.3, 1)[1].identities)
    grown = set(split_identities(Plain([*names, "new"], np.arange(101)), 0.3, 1)[1].identities)
    assert len(held_out - grown) <= 1
    with pytest.raises(DataError, match="at least 2"):
        split_identities(Plain(["a"], np.zeros(3, int)), 0.5, 0)
    with pytest.raises(ValueError, match="fraction"):
        split_identities(Plain(names, np.arange(100)), 1.0, 0)
