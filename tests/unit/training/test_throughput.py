import pytest

from vplface.training import throughput
from vplface.training.distributed import DistributedContext
from vplface.training.throughput import Throughput


def test_Throughput_read_leaves_out_pauses_and_starts_again(monkeypatch):
    now = 100.0
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now)
    speed = Throughput()
    speed.pictures = 60
    now += 2
    with speed.paused():
        now += 50
    now += 1
    assert speed.read(DistributedContext()) == pytest.approx(20)
    speed.pictures += 8
    now += 4
    assert speed.read(DistributedContext()) == pytest.approx(2)
