"""Embeddings read from files: rows are matched to pictures, and errors name files that do not fit."""

from __future__ import annotations

import hashlib
import os
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.errors import DataError
from vplface.evaluation import embeddings_file as module
from vplface.evaluation.embeddings_file import EmbeddingsFile, read_embeddings


class Named:
    identities = ("a", "b")

    def __init__(self, names):
        self._names = names
        self.labels = np.array([name.startswith("b") for name in names], np.int64)

    def __len__(self):
        return len(self._names)

    def name(self, index):
        return self._names[index]


NAMES = ["a/0.jpg", "a/1.jpg", "b/0.jpg", "b/x/1.jpg"]
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


@given(order=st.permutations(range(4)), prefix=st.sampled_from(["", "/data/faces/", "faces/", "C:\\faces\\", "a/"]))
def test_read_embeddings_matches_rows_by_name_in_any_order_and_under_any_prefix(tmp_path_factory, order, prefix):
    names = [prefix + (NAMES[k].replace("/", "\\") if "\\" in prefix else NAMES[k]) for k in order]
    path = tmp_path_factory.mktemp("npz") / "e.npz"
    np.savez(path, names=np.array(names), embeddings=ROWS[list(order)], model_card=np.array("{}"))
    np.testing.assert_array_equal(read_embeddings(path, Named(NAMES)), ROWS)


def test_read_embeddings_reads_structured_and_plain_arrays_in_npy_and_npz(tmp_path):
    fields = np.empty(4, [("name", "U20"), ("embedding", np.float32, 3)])
    fields["name"], fields["embedding"] = NAMES[::-1], ROWS[::-1]
    np.save(tmp_path / "fields.npy", fields)
    np.save(tmp_path / "plain.npy", ROWS.astype(np.float64))
    np.savez(tmp_path / "plain.npz", embeddings=ROWS)
    for name in ("fields.npy", "plain.npy", "plain.npz"):
        found = read_embeddings(tmp_path / name, Named(NAMES))
        np.testing.assert_array_equal(found, ROWS)
        assert found.dtype == np.float32


def test_read_embeddings_needs_rows_only_for_the_requested_pictures(tmp_path):
    np.savez(tmp_path / "e.npz", names=np.array([NAMES[2], "c/9.jpg", NAMES[0]]), embeddings=ROWS[:3])
    found = read_embeddings(tmp_path / "e.npz", Named(NAMES), np.array([0, 2]))
    np.testing.assert_array_equal(found[[0, 2]], ROWS[[2, 0]])
    assert np.isnan(found[[1, 3]]).all()
    with pytest.raises(
        DataError, match=r"2 of the 4 pictures .* have no embedding in the file, for example 'a/1\.jpg'"
    ):
        read_embeddings(tmp_path / "e.npz", Named(NAMES))


def save(path, **arrays):
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"embeddings": ROWS[:3]}, "holds 3 embeddings, the set 4 pictures"),
        ({"vectors": ROWS}, "lacks the array 'embeddings'; it holds vectors"),
        ({"embeddings": ROWS[0]}, r"must be an array \[n, dim\]"),
        ({"embeddings": ROWS.astype(int)}, "floating-point numbers, got int64"),
        ({"embeddings": ROWS, "names": np.array(NAMES[:2])}, "a text for each of the 4"),
        ({"embeddings": ROWS, "names": np.arange(4)}, "a text for each of the 4"),
        ({"embeddings": ROWS, "names": np.array(["a/0.jpg", "x/a/0.jpg", *NAMES[2:]])}, "both name the picture"),
    ],
)
def test_read_embeddings_refuses_arrays_that_do_not_fit_the_set(tmp_path, arrays, message):
    save(tmp_path / "e.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_embeddings(tmp_path / "e.npz", Named(NAMES))


def test_read_embeddings_refuses_missing_damaged_and_foreign_files(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.npz'?: cannot be read"):
        read_embeddings(tmp_path / "nowhere.npz", Named(NAMES))
    (tmp_path / "text.npy").write_text("1 2 3")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.savez(tmp_path / "cut.npz", embeddings=ROWS)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-40])
    for name in ("text.npy", "empty.npy", "cut.npz"):
        with pytest.raises(DataError, match="not an npy or npz file, or damaged"):
            read_embeddings(tmp_path / name, Named(NAMES))


def test_EmbeddingsFile_read_hashes_the_bytes_it_read(tmp_path):
    path = tmp_path / "e.npz"
    np.savez(path, embeddings=ROWS)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    stored = EmbeddingsFile.read(path)
    np.savez(path, embeddings=-ROWS)
    assert stored.files == {str(path): before}
    np.testing.assert_array_equal(stored.of(Named(NAMES)), ROWS)


def array_header(shape: str) -> bytes:
    """A .npy file that claims this shape and ends there."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def packed(path, kind, member="embeddings.npy", content=b"\0" * 1000):
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr(member, content)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(array_header("(1000000000000, 1000)")), "not an npy or npz file, or damaged"),
        (lambda path: path.write_bytes(array_header("(" * 3000)), "not an npy or npz file, or damaged"),
        (lambda path: path.write_bytes(array_header("(" + "9" * 4000 + ",)")), "not an npy or npz file, or damaged"),
        (lambda path: packed(path, zipfile.ZIP_LZMA, content=b"no array"), "compressed in a way"),
        (lambda path: packed(path, zipfile.ZIP_DEFLATED, "embeddings"), "not an npy or npz file, or damaged"),
        (lambda path: path.write_bytes(b"\0" * 200_000), "larger than"),
        (lambda path: path.mkdir(), "cannot be read|not a regular file"),
        (os.mkfifo, "not a regular file"),
    ],
)
def test_read_embeddings_refuses_hostile_headers_and_oversized_or_special_files(tmp_path, make, message, monkeypatch):
    monkeypatch.setattr(module, "ARRAYS_LIMIT", 100_000)
    make(tmp_path / "e.npz")
    with pytest.raises(DataError, match=rf"e\.npz'?: .*({message})"):
        read_embeddings(tmp_path / "e.npz", Named(NAMES))


def test_read_embeddings_runs_no_pickled_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("code in a file was run",))

    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not an npy or npz file"):
        read_embeddings(tmp_path / "trap.npy", Named(NAMES))


def test_read_embeddings_refuses_a_set_with_duplicate_picture_names(tmp_path):
    np.savez(tmp_path / "e.npz", names=np.array(NAMES), embeddings=ROWS)
    with pytest.raises(DataError, match=r"two pictures 'a/0\.jpg'"):
        read_embeddings(tmp_path / "e.npz", Named(["a/0.jpg", "a/0.jpg"]))
