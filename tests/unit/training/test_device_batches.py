import threading
from types import SimpleNamespace

import pytest
import torch

from vplface.data.augment import Augmentation
from vplface.data.batches import Batch, load_batches
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.samplers import ShuffledBatches
from vplface.training.device_batches import on_device, one_ahead


def batches(count):
    for number in range(count):
        yield Batch(torch.full((2, 112, 112, 3), number, dtype=torch.uint8), torch.tensor([number, 0]), [f"{number}"])


def test_on_device_leaves_batches_of_the_cpu_as_they_are():
    source = batches(2)
    assert on_device(source, torch.device("cpu")) is source


def test_one_ahead_makes_the_next_while_one_is_in_use():
    made = [threading.Event() for _ in range(4)]
    numbers = iter(range(3))

    def make():
        number = next(numbers, 3)
        made[number].set()
        if number == 3:
            raise StopIteration
        return number

    for number in one_ahead(make):
        assert made[number + 1].wait(10), "the next is made by a thread"
        assert number == 2 or not made[min(number + 2, 3)].is_set()


def test_one_ahead_raises_an_error_in_its_place():
    numbers = iter([1, 2, 0, 4])
    inverses = one_ahead(lambda: 1 / next(numbers))
    assert [next(inverses), next(inverses)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(inverses)
    assert list(numbers) == [4]


def test_one_ahead_ends_its_thread_when_it_is_closed():
    before = threading.active_count()
    numbers = iter(range(100))
    results = one_ahead(lambda: next(numbers))
    assert next(results) == 0
    results.close()
    assert threading.active_count() == before


def test_one_ahead_loads_from_worker_processes(faces):
    pictures = ImageFolder(faces)
    order = ShuffledBatches(len(pictures), 16, 0)

    def load(workers):
        return load_batches(pictures, order, Augmentation(), 0, 0, 5, workers)

    source = load(2)
    seen = list(one_ahead(lambda: next(source)))
    for batch, expected in zip(seen, load(0), strict=True):
        assert torch.equal(batch.pictures, expected.pictures)
        assert torch.equal(batch.labels, expected.labels)


class Recorder:
    """Streams and events that record in which order they are used."""

    def __init__(self):
        self.calls = []

    def stream(self, name):
        count = iter(range(100))
        return SimpleNamespace(
            record_event=lambda: f"{name} {next(count)}",
            wait_event=lambda event: self.calls.append(f"waits for {event}"),
        )


def test_on_device_lets_the_stream_of_the_steps_wait_for_each_batch(monkeypatch):
    recorder = Recorder()
    steps = recorder.stream("steps")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: recorder.stream("copies"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: threading.Lock())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: steps)
    monkeypatch.setattr(Batch, "pin_memory", lambda batch: batch)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: recorder.calls.append("is in use"))
    monkeypatch.setattr(Batch, "to", lambda batch, device: batch)
    for number, batch in enumerate(on_device(batches(2), torch.device("cuda"))):
        assert batch.unreadable == [f"{number}"]
        assert recorder.calls == [f"waits for copies {number}", "is in use", "is in use"]
        recorder.calls.clear()
    assert number == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_device_sends_batches_to_a_GPU():
    for number, batch in enumerate(on_device(batches(5), torch.device("cuda", 0))):
        assert batch.pictures.is_cuda
        assert batch.labels.tolist() == [number, 0]
        assert (batch.pictures == number).all()
        assert batch.unreadable == [f"{number}"]
    assert number == 4
