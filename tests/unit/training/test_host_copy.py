import pytest
import torch

from vplface.training import host_copy
from vplface.training.host_copy import Readout, copies_on_host, copy_through


def test_Readout_has_the_values_of_its_moment():
    numbers = torch.arange(3.0).requires_grad_()
    kept = Readout({"a": numbers, "b": torch.tensor(3.0)})
    with torch.no_grad():
        numbers.zero_()
    assert kept.ready
    assert kept.read() == {"a": [0.0, 1.0, 2.0], "b": [3.0]}


def test_copies_on_host_are_contiguous_copies():
    filters = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last).requires_grad_()
    found = copies_on_host({"filters": filters, "count": torch.tensor(3), "alive": torch.tensor([True, False])})
    assert found["filters"].is_contiguous()
    assert not found["filters"].requires_grad
    assert torch.equal(found["filters"], filters)
    assert found["filters"].data_ptr() != filters.data_ptr()
    assert found["count"].item() == 3
    assert found["alive"].tolist() == [True, False]


class Arrival:
    """An event of a device that fills a buffer only when it is waited for."""

    waiting = 0

    def __init__(self):
        Arrival.waiting += 1
        assert Arrival.waiting <= 2, "a buffer is filled again before it was emptied"

    def synchronize(self):
        Arrival.waiting -= 1


@pytest.mark.parametrize("size", [64, 17, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_copy_through_copies_every_byte(dtype, size):
    generator = torch.Generator().manual_seed(0)
    sources = [torch.randint(2, shape, generator=generator).to(dtype) for shape in [(5, 7), (), (3, 2, 2, 2), (0,)]]
    sources[2] = sources[2].to(memory_format=torch.channels_last)
    targets = [torch.full(source.shape, 1).to(dtype) for source in sources]
    pairs = zip(sources, targets, strict=True)
    chunks = (chunk for source, target in pairs for chunk in host_copy._chunks(source, target, size))
    copy_through(torch.zeros(2, size, dtype=torch.uint8), chunks, Arrival)
    assert Arrival.waiting == 0
    for source, target in zip(sources, targets, strict=True):
        assert torch.equal(source, target)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_Readout_leaves_a_GPU_without_waiting():
    numbers = torch.arange(4.0, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        kept = Readout({"numbers": numbers})
        numbers.zero_()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert kept.read()["numbers"] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_copies_on_host_of_a_GPU_are_exact(monkeypatch):
    monkeypatch.setattr(host_copy, "_CHUNK", 1000)
    tensors = {"a": torch.randn(1234, 3, device="cuda"), "b": torch.tensor(7, device="cuda"), "c": torch.arange(5)}
    for name, copy in copies_on_host(tensors).items():
        assert copy.device.type == "cpu"
        assert torch.equal(copy, tensors[name].cpu())
