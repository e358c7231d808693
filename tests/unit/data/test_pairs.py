from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vplface.data.cfp import read_cfp
from vplface.data.drop import indices_without, read_drop
from vplface.data.pair_lists import pair_files, read_pairs
from vplface.data.pairs import Pairs, resolve, write_pairs
from vplface.data.people import read_people
from vplface.data.selection import narrow
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


def test_read_pairs_reads_lfw_view_2_with_folds(tmp_path: Path) -> None:
    text = "2\t1\nAl_Gore\t1\t12\nAl_Gore\t3\tTony_Blair\t64\nTony_Blair\t2\t3\nAl_Gore\t1\tTony_Blair\t1\n"
    pairs = read_pairs(written(tmp_path, text))
    assert pairs.left == [f"Al_Gore/Al_Gore_000{n}" for n in "13"] + [
        "Tony_Blair/Tony_Blair_0002",
        "Al_Gore/Al_Gore_0001",
    ]
    assert pairs.right[:2] == ["Al_Gore/Al_Gore_0012", "Tony_Blair/Tony_Blair_0064"]
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.fold.tolist() == [0, 0, 1, 1]


def test_read_pairs_reads_lfw_view_1_as_one_fold(tmp_path: Path) -> None:
    pairs = read_pairs(written(tmp_path, "2\r\na\t1\t2\r\nb\t1\t2\r\na\t1\tb\t2\r\nb\t1\tc\t1\r\n"))
    assert pairs.same.tolist() == [True, True, False, False]
    assert pairs.fold.tolist() == [0, 0, 0, 0]
    assert pairs.right == ["a/a_0002", "b/b_0002", "b/b_0002", "c/c_0001"]


@pytest.mark.parametrize("separator", [" ", "\t", ",", " , ", "   "])
def test_read_pairs_reads_plain_lists_with_any_separator(tmp_path: Path, separator: str) -> None:
    lines = [separator.join(row) for row in (("a/1.jpg", "a/2.jpg", "1"), ("a/1.jpg", "b/x.png", "0"))]
    pairs = read_pairs(written(tmp_path, "\ufeff" + lines[0] + "\n\n" + lines[1]))
    assert pairs.left == ["a/1.jpg", "a/1.jpg"]
    assert pairs.right == ["a/2.jpg", "b/x.png"]
    assert pairs.same.tolist() == [True, False]
    assert pairs.fold.tolist() == [0, 0]


def test_read_pairs_reads_named_columns_and_folds(tmp_path: Path) -> None:
    pairs = read_pairs(written(tmp_path, "Left,Right,Same,Fold\nmy picture.jpg,b.jpg,1,0\na.jpg,c.jpg,0,7\n"))
    assert pairs.left == ["my picture.jpg", "a.jpg"]
    assert pairs.fold.tolist() == [0, 7]


def test_read_pairs_accepts_the_flag_in_the_first_column(tmp_path: Path) -> None:
    pairs = read_pairs(written(tmp_path, "1 a/1.jpg a/2.jpg\n0 a/1.jpg 1\n"))
    assert (pairs.left, pairs.right) == (["a/1.jpg", "a/1.jpg"], ["a/2.jpg", "1"])
    assert pairs.same.tolist() == [True, False]
    pairs = read_pairs(written(tmp_path, "1 0 1\n0 a 0\n"))  # flags last as well: so they are
    assert (pairs.left, pairs.right) == (["1", "0"], ["0", "a"])


def test_read_pairs_starts_a_fold_of_lfw_csv_at_each_run_of_genuine_pairs(tmp_path: Path) -> None:
    text = "name,imagenum1,imagenum2,\na,1,4,\nb,1,2,\na,1,b,1\nc,2,b,10\nc,1,2,\na,3,c,1\n"
    pairs = read_pairs(written(tmp_path, text))
    assert pairs.left == ["a/a_0001", "b/b_0001", "a/a_0001", "c/c_0002", "c/c_0001", "a/a_0003"]
    assert pairs.right == ["a/a_0004", "b/b_0002", "b/b_0001", "b/b_0010", "c/c_0002", "c/c_0001"]
    assert pairs.same.tolist() == [True, True, False, False, True, False]
    assert pairs.fold.tolist() == [0, 0, 0, 0, 1, 1]
    with pytest.raises(DataError, match="line 2: 'x' should be the number of a picture of 'a'"):
        read_pairs(written(tmp_path, "name,imagenum1,imagenum2\na,1,x\n"))


def cfp(root: Path) -> Path:
    """The layout of the data set: ten folds of one genuine and one impostor pair."""
    protocol = root / "cfp-dataset/Protocol"
    for kind, letter, count in (("frontal", "F", 10), ("profile", "P", 4)):
        protocol.mkdir(parents=True, exist_ok=True)
        people = [f"../Data/Images/{p:03d}/{kind}/{k:02d}.jpg" for p in range(1, 4) for k in range(1, count + 1)]
        lines = [f"{number} {place}\r\n" for number, place in enumerate(people, start=1)]
        (protocol / f"Pair_list_{letter}.txt").write_text("".join(lines), newline="")
    for kind, same, diff in (("FF", "{0},11", "{0},21"), ("FP", "{0},4", "{0} , 9")):
        for fold in range(1, 11):
            folder = protocol / f"Split/{kind}/{fold:02d}"
            folder.mkdir(parents=True)
            (folder / "same.txt").write_text(same.format(fold) + "\n")
            (folder / "diff.txt").write_text(diff.format(fold) + "\n\n")
        (protocol / f"Split/{kind}/.DS_Store").write_text("")
    return root / "cfp-dataset"


def test_read_cfp_reads_the_downloaded_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = cfp(tmp_path)
    for place in (root, root / "Protocol", root / "Protocol/Split", root / "Protocol/Split/FP"):
        pairs = read_cfp(place, "FP")
        assert pairs.left == [f"001/frontal/{fold:02d}.jpg" for fold in range(1, 11) for _ in range(2)]
        assert pairs.right == ["001/profile/04.jpg", "003/profile/01.jpg"] * 10
        assert pairs.same.tolist() == [True, False] * 10
        assert pairs.fold.tolist() == [fold for fold in range(10) for _ in range(2)]
    pairs = read_pairs(root / "Protocol/Split/FF")
    assert pairs.right == ["002/frontal/01.jpg", "003/frontal/01.jpg"] * 10
    monkeypatch.chdir(root / "Protocol/Split/FP")
    assert read_pairs(".").right[0] == "001/profile/04.jpg"
    with pytest.raises(DataError, match=r"holds two protocols; choose .*Split/FF or .*Split/FP"):
        read_pairs(root)


def test_pair_files_lists_the_files_of_a_pair_list(tmp_path: Path) -> None:
    root = cfp(tmp_path)
    assert pair_files(tmp_path / "x.txt") == [tmp_path / "x.txt"]
    files = pair_files(root / "Protocol/Split/FP")
    assert len(files) == 22
    assert all(file.is_file() for file in files)
    assert len(pair_files(root / "Protocol/Split/FF")) == 21
    with pytest.raises(DataError, match=r"no Pair_list_F\.txt in it or its parents"):
        pair_files(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("Split/FP/03/same.txt", "1,2,3\n", "same.txt, line 1: expected two numbers 'i,j', got"),
        ("Split/FP/03/diff.txt", "\n1,99\n", "diff.txt, line 2: unknown picture number '99'; there are 12 pictures"),
        ("Split/FP/03/diff.txt", "x,1\n", "unknown picture number 'x'; there are 30 pictures"),
        ("Split/FP/03/diff.txt", None, r"03.diff\.txt: cannot be read: No such file"),
        ("Pair_list_P.txt", None, r"Pair_list_P\.txt: cannot be read: No such file"),
        ("Pair_list_P.txt", "1 ../Data/Images/a.jpg\n1 ../Data/Images/b.jpg\n", "line 2: duplicate picture number 1"),
        ("Pair_list_P.txt", "one\n", "Pair_list_P.txt, line 1: expected a number and a path, got 'one'"),
    ],
)
def test_read_cfp_names_the_damaged_file(tmp_path: Path, file: str, text: str | None, message: str) -> None:
    path = cfp(tmp_path) / "Protocol" / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_cfp(tmp_path / "cfp-dataset", "FP")


def test_read_cfp_names_missing_folds(tmp_path: Path) -> None:
    root = cfp(tmp_path)
    (root / "Protocol/Split/FF/07").rename(root / "elsewhere")
    with pytest.raises(DataError, match="1 of the folds 01 to 10 are missing, such as 07"):
        read_cfp(root, "FF")


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
def test_read_pairs_refuses_malformed_lists_and_names_the_file(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_pairs(written(tmp_path, text))
    assert "list.txt" in str(caught.value)


def test_read_pairs_and_read_people_name_a_missing_file(tmp_path: Path) -> None:
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
def test_write_pairs_round_trips_through_read_pairs(tmp_path: Path, rows: list[tuple[str, str, bool, int]]) -> None:
    left, right, same, fold = (list(column) for column in zip(*rows, strict=True))
    write_pairs(tmp_path / "pairs.txt", Pairs(left, right, np.array(same), np.array(fold)))
    pairs = read_pairs(tmp_path / "pairs.txt")
    assert (pairs.left, pairs.right) == (left, right)
    assert pairs.same.tolist() == same
    assert pairs.fold.tolist() == fold


@one_file
@given(st.one_of(st.binary(max_size=80), st.text("ab0123\t\t ,\n\n", max_size=60).map(str.encode)))
def test_read_pairs_and_read_people_read_or_refuse_any_bytes(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, content)
    with suppress(DataError):
        pairs = read_pairs(path)
        assert len(pairs) == len(pairs.right) == len(pairs.same) == len(pairs.fold) > 0
    with suppress(DataError):
        people = read_people(path)
        assert len(set(people)) == len(people) > 0


@pytest.mark.parametrize("name", ["", "a\tb", "a\nb", " a", "a\r", "\udc80"])
def test_write_pairs_refuses_names_that_would_not_read_back(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        write_pairs(tmp_path / "p", Pairs([name], ["b"], np.array([True]), np.array([0])))


def test_write_pairs_raises_DataError_for_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write"):
        write_pairs(tmp_path / "file/pairs.txt", Pairs(["a"], ["b"], np.array([True]), np.array([0])))


def test_Pairs_refuses_columns_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="one length"):
        Pairs(["a"], ["b", "c"], np.array([True]), np.array([0]))


def test_resolve_finds_pictures_by_name_and_by_stem() -> None:
    pictures = Named(["a/a_0001.jpg", "a/a_0002.png", "b.c/x.y.jpg", "bare", "d/1", "d/1.jpg"])
    pairs = Pairs(
        ["a/a_0002", "bare", "b.c/x.y"], ["a/a_0001.jpg", "a/a_0001", "d/1"], np.ones(3, bool), np.zeros(3, int)
    )
    left, right = resolve(pairs, pictures)
    assert left.tolist() == [1, 3, 2]
    assert right.tolist() == [0, 0, 4]  # the full name goes before the stem
    assert left.dtype == np.int64


def test_resolve_lists_missing_pictures() -> None:
    pairs = Pairs([f"p/{i}" for i in range(8)], ["q/1.jpg"] * 8, np.ones(8, bool), np.zeros(8, int))
    with pytest.raises(DataError, match=r"8 of the 9 .*: p/0, p/1, p/2, p/3, p/4, \.\.\.; .* like 'q/1\.jpg'"):
        resolve(pairs, Named(["q/1.jpg"]))
    with pytest.raises(DataError, match="empty"):
        resolve(pairs, Named([]))


def test_resolve_refuses_ambiguous_names() -> None:
    pairs = Pairs(["a/1"], ["b/1"], np.array([True]), np.array([0]))
    with pytest.raises(DataError, match="1 names of the pairs match several pictures: a/1"):
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
def test_read_people_reads_lfw_lists_and_plain_lists(tmp_path: Path, text: str, people: list[str]) -> None:
    assert read_people(written(tmp_path, text)) == people


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n \n", "holds no names"),
        ("3\nA\t1\nB\t1\n", "line 1: announces 3 people, but 2 follow"),
        ("3\n1\nA\t1\n1\nB\t1\n", "line 1: announces 3 folds, but 2 follow"),
        ("2\n1\nA\t1\n2\nB\t1\n", "line 4: announces 2 people, but 1 follow"),
        ("1\nA\tmany\n", "line 2: expected a name"),
        ("A\t1\nB\n", "line 2: expected a name, a tab and a count, got 'B'"),
        ("A\nB\nA\n", "line 3: 'A' is already on line 1"),
        ("A\t1\n1\nB\t1\n", "line 2: expected a name, a tab and a count, got '1'"),
    ],
)
def test_read_people_refuses_malformed_lists(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_people(written(tmp_path, text))


CALFW = (
    "Al_Gore_0001.jpg 1\nAl_Gore_0002.jpg 1\nB_0001.jpg 2\nB_0003.jpg 2\n"
    "A_0001.jpg 0\nB_0001.jpg 0\nA_0002.jpg 0\nC_0001.jpg 0\n"
)


@pytest.mark.parametrize("separator", [" ", "\t", ","])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_read_pairs_reads_calfw_with_two_lines_a_pair_and_folds(tmp_path: Path, separator: str, end: str) -> None:
    pairs = read_pairs(written(tmp_path, "\ufeff" + CALFW.replace(" ", separator).replace("\n", end)))
    assert pairs.left == ["Al_Gore_0001.jpg", "B_0001.jpg", "A_0001.jpg", "A_0002.jpg"]
    assert pairs.right == ["Al_Gore_0002.jpg", "B_0003.jpg", "B_0001.jpg", "C_0001.jpg"]
    assert pairs.same.tolist() == [True, True, False, False]
    assert pairs.fold.tolist() == [0, 1, 0, 1]


def test_read_pairs_reads_cplfw_and_assigns_folds(tmp_path: Path) -> None:
    lines = [f"{person}_{k}.jpg {same}\n" for same in (1, 0) for person in range(20) for k in (1, 2)]
    pairs = read_pairs(written(tmp_path, "".join(lines)))
    assert pairs.same.tolist() == [True] * 20 + [False] * 20
    assert pairs.fold.tolist() == [fold for fold in range(10) for _ in range(2)] * 2
    few = read_pairs(written(tmp_path, "a_1.jpg 1\na_2.jpg 1\na_1.jpg 0\nb_1.jpg 0\n"))
    assert (few.same.tolist(), few.fold.tolist()) == ([True, False], [0, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 1\nb.jpg 1\nc.jpg 1\n", "line 3: has no second picture"),
        ("a.jpg 1\nb.jpg 0\n", "line 2: ends in 0, but the other line of its pair in 1"),
        ("a.jpg 999999999\nb.jpg 999999999\n", "has a fold 999999999, but 1 pairs"),
    ],
)
def test_read_pairs_refuses_malformed_lists_of_two_lines_a_pair(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pairs(written(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg b.jpg True\na.jpg c.jpg False\n",
        "a.jpg\tb.jpg\ttrue\na.jpg\tc.jpg\tFALSE\n",
        "a.jpg,b.jpg,1.0\na.jpg,c.jpg,0.0\n",
        "a.jpg b.jpg 1\na.jpg c.jpg -1\n",
        "True a.jpg b.jpg\nFalse a.jpg c.jpg\n",
        '"a.jpg","b.jpg","1"\n"a.jpg","c.jpg","0"\n',
        'left,right,same\n"a.jpg", "b.jpg", True\n"a.jpg", "c.jpg", False\n',
        "img1,img2,is_same\r\na.jpg,b.jpg,1\r\na.jpg,c.jpg,0\r\n",
        ",Image 1,Image 2,Label\n0,a.jpg,b.jpg,1\n1,a.jpg,c.jpg,0\n",
        "label,file1,file2\n1,a.jpg,b.jpg\n0,a.jpg,c.jpg\n",
    ],
)
def test_read_pairs_reads_flags_quotes_and_headers_of_other_programs(tmp_path: Path, text: str) -> None:
    pairs = read_pairs(written(tmp_path, text))
    assert (pairs.left, pairs.right) == (["a.jpg", "a.jpg"], ["b.jpg", "c.jpg"])
    assert pairs.same.tolist() == [True, False]


def test_read_pairs_reads_commas_and_quotes_in_quoted_names(tmp_path: Path) -> None:
    pairs = read_pairs(written(tmp_path, '"Gore, Al/1.jpg","a ""b"".jpg",1\n"x,2".jpg,1\n'))
    assert (pairs.left, pairs.right) == (["Gore, Al/1.jpg", '"x'], ['a "b".jpg', '2".jpg'])


def test_read_pairs_reads_an_lfw_csv_of_impostors_alone(tmp_path: Path) -> None:
    pairs = read_pairs(written(tmp_path, "name,imagenum1,name,imagenum2\na,1,b,2\nc,3,d,4\n"))
    assert pairs.right == ["b/b_0002", "d/d_0004"]
    assert not pairs.same.any()


def test_read_pairs_lists_the_supported_formats_for_an_unknown_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The line is 'one two three four five'; supported formats: LFW's .*CALFW"):
        read_pairs(written(tmp_path, "one two three four five\n"))


def test_read_pairs_read_people_and_read_drop_refuse_irregular_files_and_paths(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        for read in (read_pairs, read_people, read_drop):
            with pytest.raises(DataError, match="not a regular file"):
                read(path)
    for path in (tmp_path / ("x" * 300), tmp_path / "a\0b"):
        for read in (read_pairs, read_people, read_drop):
            with pytest.raises(DataError, match=r"too long|null"):
                read(path)


DECOMPOSED, COMPOSED = "Zoe\u0308/1.jpg", "Zo\u00eb/1.jpg"


@pytest.mark.parametrize(("stored", "listed"), [(DECOMPOSED, COMPOSED), (COMPOSED, DECOMPOSED)])
def test_resolve_narrow_and_indices_without_match_composed_and_decomposed_accents(stored: str, listed: str) -> None:
    pictures = Named([stored, "b/1.jpg"], [stored[:-6], "b"], np.array([0, 1]))
    pairs = Pairs([listed, listed.removesuffix(".jpg")], ["b/1.jpg"] * 2, np.ones(2, bool), np.zeros(2, int))
    assert resolve(pairs, pictures)[0].tolist() == [0, 0]
    assert narrow(pictures, people=[listed[:-6]]).identities == [stored[:-6]]
    assert narrow(pictures, exclude=[listed[:-6]]).identities == ["b"]
    assert indices_without(pictures, [listed]).tolist() == [1]


def test_resolve_distinguishes_two_spellings_that_are_both_in_the_set() -> None:
    pictures = Named([DECOMPOSED, COMPOSED])
    pairs = Pairs([DECOMPOSED], [COMPOSED], np.ones(1, bool), np.zeros(1, int))
    assert [found.tolist() for found in resolve(pairs, pictures)] == [[0], [1]]


def test_resolve_finds_a_name_without_a_folder_in_any_folder() -> None:
    pictures = Named(["aligned images/A_0001.jpg", "B/B_0001.jpg", "C/1.jpg", "D/1.jpg"])
    pairs = Pairs(["A_0001.jpg"], ["B_0001"], np.ones(1, bool), np.zeros(1, int))
    assert [found.tolist() for found in resolve(pairs, pictures)] == [[0], [1]]
    with pytest.raises(DataError, match=r"match several pictures: 1\.jpg"):
        resolve(Pairs(["1.jpg"], ["B_0001"], np.ones(1, bool), np.zeros(1, int)), pictures)
    with pytest.raises(DataError, match=r"not in the set: x/A_0001\.jpg"):
        resolve(Pairs(["x/A_0001.jpg"], ["B_0001"], np.ones(1, bool), np.zeros(1, int)), pictures)
