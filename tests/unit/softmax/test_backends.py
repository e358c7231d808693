from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from vplface import PrototypeHead, softmax
from vplface.errors import MissingExtraError
from vplface.softmax import fastest_backend, tile_operations


def test_fastest_backend_is_tiled_on_a_cpu_and_triton_on_a_gpu_if_installed(monkeypatch):
    assert fastest_backend(torch.device("cpu")) == "tiled"
    assert fastest_backend(torch.device("mps")) == "tiled"
    monkeypatch.setattr(softmax, "find_spec", lambda name: None)
    assert fastest_backend(torch.device("cuda")) == "tiled"
    monkeypatch.setattr(softmax, "find_spec", lambda name: object())
    assert fastest_backend(torch.device("cuda")) == "triton"
    assert tile_operations("tiled", torch.device("cpu")).name == "numba"
    assert tile_operations("tiled", torch.device("mps")).name == "torch"
    monkeypatch.setattr(softmax, "find_spec", lambda name: None)
    assert tile_operations("tiled", torch.device("cpu")).name == "torch"


def test_PrototypeHead_refuses_triton_on_a_cpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    head = PrototypeHead(5, 3, backend="triton")
    with pytest.raises(ValueError, match="backend='triton' needs the head on a GPU"):
        head(torch.ones(1, 3), torch.zeros(1, dtype=torch.int64))


def test_tile_operations_names_the_extra_if_triton_is_missing(monkeypatch):
    monkeypatch.delitem(sys.modules, "vplface.softmax.triton_tiles", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(MissingExtraError, match=r"vplface\[triton\]"):
        tile_operations("triton", torch.device("cuda"))


@pytest.mark.slow
def test_PrototypeHead_keeps_the_number_of_torch_threads():
    script = """
import torch
torch.set_num_threads(1)
from vplface import PrototypeHead
head = PrototypeHead(50, 8)
head(torch.randn(4, 8), torch.arange(4)).backward()
print(torch.get_num_threads())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_PrototypeHead_repr_names_the_implementation(monkeypatch):
    assert "softmax=tiled (numba)" in repr(PrototypeHead(5, 3))
    assert "softmax=reference" in repr(PrototypeHead(5, 3, backend="reference"))
    assert "softmax=triton" in repr(PrototypeHead(5, 3, backend="triton"))
    monkeypatch.setattr(softmax, "find_spec", lambda name: None)
    assert "softmax=tiled (torch)" in repr(PrototypeHead(5, 3))
