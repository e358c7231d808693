import json
import os

import pytest
import torch
from safetensors.torch import save_file

from vplface.errors import DataError
from vplface.training import stored_tensors
from vplface.training.stored_tensors import StoredTensors


@pytest.fixture
def tensors():
    kinds = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16)
    made = {
        str(kind): torch.arange(15).reshape(5, 3).to(kind) for kind in (*kinds, torch.int8, torch.uint8, torch.bool)
    }
    return made | {"number": torch.tensor(7), "empty": torch.empty(0, 4), "cube": torch.rand(4, 2, 3)}


def test_StoredTensors_reads_what_safetensors_writes(tmp_path, tensors, monkeypatch):
    monkeypatch.setattr(stored_tensors, "_AT_ONCE", 7)
    save_file(tensors, tmp_path / "a", {"about": "x"})
    stored = StoredTensors(tmp_path / "a")
    assert set(stored.names) == set(tensors)
    for key, value in tensors.items():
        assert torch.equal(stored.tensor(key), value)
        assert stored.tensor(key).dtype == value.dtype
        if value.ndim:
            for first, stop in ((0, 0), (1, 3), (0, 99), (9, 99), (3, 2)):
                assert torch.equal(stored.rows(key, first, stop), value[first : max(first, stop)])
    with pytest.raises(DataError, match="'number' is a single number"):
        stored.rows("number", 0, 1)


def test_StoredTensors_tensor_refuses_a_file_that_became_shorter(tmp_path):
    save_file({"a": torch.zeros(100_000)}, tmp_path / "a")
    stored = StoredTensors(tmp_path / "a")
    os.truncate(tmp_path / "a", 4096)
    with pytest.raises(DataError, match=r"cannot be read: .*had 400,\d+ bytes and now has 4,096"):
        stored.tensor("a")


def _file(header, data=b"12345678"):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _of(**changes):
    return _file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        b"\xff" * 100,
        _file(b"["),
        _file([1]),
        _file({"a": 1}),
        _of(dtype="F31"),
        _of(shape=[3]),
        _of(shape=[-1, -2]),
        _of(shape=[2.0]),
        _of(shape=2),
        _of(shape=[0] * 1000, data_offsets=[0, 0]),
        _of(data_offsets=[8, 16]),
        _of(data_offsets=[-8, 0]),
        _of(data_offsets=[0]),
        _of(shape=[2**62, 4], data_offsets=[0, 2**66]),
    ],
)
def test_StoredTensors_names_a_damaged_file(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(DataError, match=r"/a: not (a whole safetensors file|valid)"):
        StoredTensors(tmp_path / "a")
