from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vplface.data.pairs import Pairs, read_pairs, read_people, resolve, write_pairs
from vplface.errors import DataError


@dataclass
class Named:
    names: list[str]
    identities: list[str] = field(default_factory=list)
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def picture(self, index: int) -> np.ndarray:
        raise NotImplementedError


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_view_2_has_folds(tmp_path: Path) -> None:
    text = "2\t1\nAl_Gore\t1\t12\nAl_Gore\t3\tTony_Blair\t64\nTony_Blair\t2\t3\nAl_Gore\t1\tTony_Blair\t1\n"
    pairs = read_pairs(written(tmp_path, text))
    assert pairs.left == [f"Al_Gore/Al_Gore_000{n}" for n in "13"] + [
        "Tony_Blair/Tony_Blair_0002",
        "Al_Gore/Al_Gore_0001",
    ]
    assert pairs.right[:2] == ["Al_Gore/Al_Gore_0012", "Tony_Blair/Tony_Blair_0064"]
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.fold.tolist() == [0, 0, 1, 1]


def test_view_1_is_one_fold(tmp_path: Path) -> None:
    pairs = read_pairs(written(tmp_path, "2\r\na\t1\t2\r\nb\t1\t2\r\na\t1\tb\t2\r\nb\t1\tc\t1\r\n"))
    assert pairs.same.tolist() == [True, True, False, False]
    assert pairs.fold.tolist() == [0, 0, 0, 0]
    assert pairs.right == ["a/a_0002", "b/b_0002", "b/b_0002", "c/c_0001"]


@pytest.mark.parametrize("separator", [" ", "\t", ",", " , ", "   "])
def test_plain_lists(tmp_path: Path, separator: str) -> None:
    lines = [separator.join(row) for row in (("a/1.jpg", "a/2.jpg", "1"), ("a/1.jpg", "b/x.png", "0"))]
    pairs = read_pairs(written(tmp_path, "\ufeff" + lines[0] + "\n\n" + lines[1]))
    assert pairs.left == ["a/1.jpg", "a/1.jpg"]
    assert pairs.right == ["a/2.jpg", "b/x.png"]
    assert pairs.same.tolist() == [True, False]
    assert pairs.fold.tolist() == [0, 0]


def test_plain_lists_may_name_their_columns_and_give_folds(tmp_path: Path) -> None:
    pairs = read_pairs(written(tmp_path, "Left,Right,Same,Fold\nmy picture.jpg,b.jpg,1,0\na.jpg,c.jpg,0,7\n"))
    assert pairs.left == ["my picture.jpg", "a.jpg"]
    assert pairs.fold.tolist() == [0, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no pairs"),
        ("left right same\n", "no pairs"),
        ("a b 2\n", "line 1: the third field must be 0 or 1, got '2'"),
        ("a b 1\n\na b\n", "line 3: expected 'left right 0|1'"),
        ("a b 1\na b 1 0\n", "line 2: 4 fields where earlier lines have 3"),
        ("a b 1 x\n", "line 1: the fold must be a number"),
        ("a,,1\n", "line 1: expected"),
        ("1\n", "announces 1 x .2 x 1. pairs, but 0 lines follow"),
        ("0\n", "0 lines follow"),
        ("10 300\na 1 2\n", "announces 10 x .2 x 300. pairs, but 1 lines follow"),
        ("1\na\t1\t2\na\tx\tb\t2\n", "line 3: 'x' should be the number of a picture of 'a'"),
        ("1\na\t1\t2\na\t1\n", "line 3: expected 'NAME i j'"),
        ("1\na\t1\t2\na\t1\t3\n", "fold 1 has 2 pairs of one person, line 1 announces 1"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
    ],
)
def test_malformed_lists_name_file_and_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_pairs(written(tmp_path, text))
    assert "list.txt" in str(caught.value)


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    for read in (read_pairs, read_people):
        with pytest.raises(DataError, match=r"nowhere\.txt: cannot be read: No such file"):
            read(tmp_path / "nowhere.txt")
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path)


names = st.text(
    st.characters(blacklist_characters="\t\n\r", blacklist_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda name: name == name.strip())
rows = st.lists(st.tuples(names, names, st.booleans(), st.integers(0, 99)), min_size=1, max_size=8)
one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@one_file
@given(rows)
def test_what_is_written_reads_back(tmp_path: Path, rows: list[tuple[str, str, bool, int]]) -> None:
    left, right, same, fold = (list(column) for column in zip(*rows, strict=True))
    write_pairs(tmp_path / "pairs.txt", Pairs(left, right, np.array(same), np.array(fold)))
    pairs = read_pairs(tmp_path / "pairs.txt")
    assert (pairs.left, pairs.right) == (left, right)
    assert pairs.same.tolist() == same
    assert pairs.fold.tolist() == fold


@one_file
@given(st.one_of(st.binary(max_size=80), st.text("ab0123\t\t ,\n\n", max_size=60).map(str.encode)))
def test_garbage_gives_a_list_or_a_data_error(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, content)
    with suppress(DataError):
        pairs = read_pairs(path)
        assert len(pairs) == len(pairs.right) == len(pairs.same) == len(pairs.fold) > 0
    with suppress(DataError):
        people = read_people(path)
        assert len(set(people)) == len(people) > 0


@pytest.mark.parametrize("name", ["", "a\tb", "a\nb", " a", "a\r", "\udc80"])
def test_names_that_would_not_read_back_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        write_pairs(tmp_path / "p", Pairs([name], ["b"], np.array([True]), np.array([0])))


def test_a_place_that_cannot_be_written_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write"):
        write_pairs(tmp_path / "file/pairs.txt", Pairs(["a"], ["b"], np.array([True]), np.array([0])))


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        Pairs(["a"], ["b", "c"], np.array([True]), np.array([0]))


def test_resolve_by_name_and_by_stem() -> None:
    pictures = Named(["a/a_0001.jpg", "a/a_0002.png", "b.c/x.y.jpg", "bare", "d/1", "d/1.jpg"])
    pairs = Pairs(
        ["a/a_0002", "bare", "b.c/x.y"], ["a/a_0001.jpg", "a/a_0001", "d/1"], np.ones(3, bool), np.zeros(3, int)
    )
    left, right = resolve(pairs, pictures)
    assert left.tolist() == [1, 3, 2]
    assert right.tolist() == [0, 0, 4]  # the full name goes before the stem
    assert left.dtype == np.int64


def test_resolve_lists_what_is_missing() -> None:
    pairs = Pairs([f"p/{i}" for i in range(8)], ["q/1.jpg"] * 8, np.ones(8, bool), np.zeros(8, int))
    with pytest.raises(DataError, match=r"8 of the 9 .*: p/0, p/1, p/2, p/3, p/4, \.\.\.; .* like 'q/1\.jpg'"):
        resolve(pairs, Named(["q/1.jpg"]))
    with pytest.raises(DataError, match="empty"):
        resolve(pairs, Named([]))


def test_resolve_refuses_to_choose() -> None:
    pairs = Pairs(["a/1"], ["b/1"], np.array([True]), np.array([0]))
    with pytest.raises(DataError, match="1 names of the pairs stand for several pictures: a/1"):
        resolve(pairs, Named(["a/1.jpg", "a/1.png", "b/1.jpg"]))


@pytest.mark.parametrize(
    ("text", "people"),
    [
        ("2\nAl Gore\t3\nB\t1\n", ["Al Gore", "B"]),
        ("2\n1\nA\t3\n2\nB\t1\nC\t9\n", ["A", "B", "C"]),
        ("A\t3\nB\t1\n", ["A", "B"]),
        ("07201\n07202\n\n07203", ["07201", "07202", "07203"]),
        ("Al Gore\n", ["Al Gore"]),
    ],
)
def test_lists_of_people(tmp_path: Path, text: str, people: list[str]) -> None:
    assert read_people(written(tmp_path, text)) == people


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n \n", "names nobody"),
        ("3\nA\t1\nB\t1\n", "line 1: announces 3 people, but 2 follow"),
        ("3\n1\nA\t1\n1\nB\t1\n", "line 1: announces 3 folds, but 2 follow"),
        ("2\n1\nA\t1\n2\nB\t1\n", "line 4: announces 2 people, but 1 follow"),
        ("1\nA\tmany\n", "line 2: expected a name"),
        ("A\t1\nB\n", "line 2: expected a name, a tab and a count, got 'B'"),
        ("A\nB\nA\n", "line 3: 'A' is already on line 1"),
        ("A\t1\n1\nB\t1\n", "line 2: expected a name, a tab and a count, got '1'"),
    ],
)
def test_malformed_lists_of_people(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_people(written(tmp_path, text))
