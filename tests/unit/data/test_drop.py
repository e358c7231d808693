from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.data.drop import indices_without, read_drop, write_drop
from vplface.data.formats import open_pictures
from vplface.errors import DataError


@given(st.dictionaries(st.text("ab\\\t\n\r nté\udcff", min_size=1), st.text("ab\\\t\n\r nt\u2028")))
def test_write_drop_round_trips_through_read_drop(tmp_path_factory, dropped):
    path = tmp_path_factory.mktemp("drop") / "drop.txt"
    write_drop(path, dropped)
    assert read_drop(path) == dropped


def test_read_drop_reads_a_hand_written_list_and_names_unreadable_files(tmp_path):
    path = tmp_path / "drop.txt"
    path.write_bytes(b"\xef\xbb\xbfada/1.png\r\n\r\ngrace/a b.png\tblurred\tvery\n")
    assert read_drop(path) == {"ada/1.png": "", "grace/a b.png": "blurred\tvery"}
    path.write_bytes(b"\x89PNG\r\n\0")
    with pytest.raises(DataError, match="line 2: is not text"):
        read_drop(path)
    with pytest.raises(DataError, match=r"none.txt: cannot be read: No such file"):
        read_drop(tmp_path / "none.txt")


def test_indices_without_removes_exactly_the_listed_pictures(faces):
    pictures = open_pictures(faces)
    assert indices_without(pictures, []).tolist() == list(range(48))
    assert indices_without(pictures, {"p0/1.png": "", "p11/3.png": ""}).tolist() == [0, *range(2, 47)]
    assert indices_without(pictures, {"p0/1.png": ""}).dtype == np.int64
    with pytest.raises(DataError, match=r"faces: 1 of the 2 pictures to drop .*'p0/9.png'.*look like 'p0/0.png'"):
        indices_without(pictures, ["p0/1.png", "p0/9.png"], "faces")
    with pytest.raises(DataError, match="the list drops all 48 pictures"):
        indices_without(pictures, [pictures.name(index) for index in range(48)])
