"""Files of arrays from untrusted sources: refused with their name, in memory bounded by the size of the file."""

import io
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

from vplface.arrays import array_names, read_array, read_arrays
from vplface.errors import DataError


def header(shape, descr="'<f4'"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def zipped(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_read_arrays_and_read_array_read_what_numpy_saves(tmp_path):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b/c": np.array(["x", "yz"]),
        "empty": np.empty((0, 3)),
        "n": np.array(1),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "e.npz", **arrays)
        found = read_arrays(tmp_path / "e.npz")
        assert array_names((tmp_path / "e.npz").read_bytes(), "e.npz") == list(found) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
        assert list(read_arrays(tmp_path / "e.npz", ["n"])) == ["n"]
    np.save(tmp_path / "a.npy", arrays["a"])
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy"), arrays["a"])


@pytest.mark.parametrize(
    "shape", ["(1000000000000, 512)", "(-1, 512)", "(1000, 512)", "(" + 400 * "9" + ",)", "(2.5,)"]
)
def test_read_array_and_read_arrays_refuse_a_shape_larger_than_the_file_without_memory(tmp_path, shape):
    data = header(shape) + b"\0" * 64
    (tmp_path / "e.npy").write_bytes(data)
    zipped(tmp_path / "e.npz", {"e.npy": data})
    tracemalloc.start()
    for read in (lambda: read_array(tmp_path / "e.npy"), lambda: read_arrays(tmp_path / "e.npz")):
        with pytest.raises(DataError, match=r"e\.np[yz]: .*damaged"):
            read()
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_read_arrays_refuses_a_zip_bomb_before_unpacking_it(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "e.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("e.npy", "w") as member,
    ):
        member.write(header("(300, 262144)"))
        for _ in range(300):
            member.write(bytes(2**20))
    with pytest.raises(DataError, match=r"e\.npz: would take 314,572,\d+ bytes in memory"):
        read_arrays(tmp_path / "e.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_read_arrays_refuses_compression_methods_that_numpy_does_not_write(tmp_path, method):
    zipped(tmp_path / "e.npz", {"e.npy": header("(4,)") + bytes(16)}, method)
    with pytest.raises(DataError, match="compressed in a way that numpy does not write"):
        read_arrays(tmp_path / "e.npz")


class _Code:
    def __reduce__(self):
        return (pytest.fail, ("code was run",))


def test_read_array_and_read_arrays_refuse_pickled_objects(tmp_path):
    objects = io.BytesIO()
    np.save(objects, np.array([_Code()], object), allow_pickle=True)
    (tmp_path / "e.npy").write_bytes(objects.getvalue())
    (tmp_path / "p.npy").write_bytes(pickle.dumps(_Code()))
    zipped(tmp_path / "e.npz", {"e.npy": objects.getvalue()})
    with pytest.raises(DataError, match="not an npy or npz file, or damaged: it holds Python objects"):
        read_array(tmp_path / "e.npy")
    with pytest.raises(DataError, match="not an npy or npz file, or damaged: it holds Python objects"):
        read_arrays(tmp_path / "e.npz")
    with pytest.raises(DataError, match="not an npy or npz file"):
        read_array(tmp_path / "p.npy")


def test_read_array_and_read_arrays_refuse_damaged_missing_and_irregular_files(tmp_path):
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "deep.npy").write_bytes(header("(" * 9000))
    np.savez(tmp_path / "half.npz", a=np.arange(1000))
    (tmp_path / "half.npz").write_bytes((tmp_path / "half.npz").read_bytes()[:-50])
    np.savez_compressed(tmp_path / "torn.npz", a=np.random.default_rng(0).random(1000))
    torn = bytearray((tmp_path / "torn.npz").read_bytes())
    torn[500:600] = bytes(100)
    (tmp_path / "torn.npz").write_bytes(torn)
    for name in ("empty.npy", "deep.npy", "nowhere.npy", ".", "/dev/zero"):
        with pytest.raises(DataError, match=r"cannot be read|damaged|not a regular file"):
            read_array(tmp_path / name)
    for name in ("half.npz", "torn.npz", "empty.npy", "nowhere.npz", ".", "/dev/zero"):
        with pytest.raises(DataError, match=r"cannot be read|damaged|not a regular file"):
            read_arrays(tmp_path / name)
