from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from vplface.data import batches as module
from vplface.data import workers
from vplface.data.augment import Augmentation
from vplface.data.batches import Batch, load_all, load_batches
from vplface.data.pictures import Picture, UnreadablePictureError
from vplface.data.samplers import ShuffledBatches
from vplface.errors import DataError, VplfaceError

forks = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")


class Numbered:
    """Picture i shows the number i in its first pixel; those in ``broken`` cannot be read."""

    identities = ("even", "odd")

    def __init__(self, n: int, broken: tuple[int, ...] = ()) -> None:
        self.labels = np.arange(n) % 2
        self.broken = broken

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"{index}.png"

    def picture(self, index: int) -> Picture:
        if index in self.broken:
            raise UnreadablePictureError(self.name(index), "broken")
        picture = np.random.default_rng(index).integers(0, 256, (112, 112, 3), dtype=np.uint8)
        picture[0, 0, 0] = index
        return picture


def numbers(batch: Batch) -> list[int]:
    return batch.pictures[:, 0, 0, 0].tolist()


def test_load_all_and_load_batches_refuse_impossible_batches() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        load_all(Numbered(3), [0], 0, 0)
    with pytest.raises(ValueError, match="made for 5 pictures, the set has 4"):
        load_batches(Numbered(4), ShuffledBatches(5, 2, 0), None, 0, 0, 1, 0)


def test_load_batches_loads_the_pictures_of_each_step() -> None:
    pictures, batches = Numbered(23), ShuffledBatches(23, 5, seed=1)
    loaded = list(load_batches(pictures, batches, None, 0, 3, 9, workers=0))
    assert len(loaded) == 6
    for step, batch in enumerate(loaded, start=3):
        indices = batches.batch(step)[1]
        assert numbers(batch) == indices.tolist()
        assert batch.labels.tolist() == (indices % 2).tolist()
        assert batch.labels.dtype == torch.int64
        assert torch.equal(batch.pictures[2], torch.from_numpy(pictures.picture(int(indices[2]))))


@forks
def test_load_batches_does_not_depend_on_workers_or_on_the_first_step() -> None:
    pictures, batches = Numbered(40, broken=(7,)), ShuffledBatches(40, 6, seed=1)
    augmentation = Augmentation(shift=0.1, rotate=10, light=0.5, occlusion=0.3, blur=0.3)
    alone, one, two, later = (
        list(load_batches(pictures, batches, augmentation, 9, first, 14, workers))
        for first, workers in ((0, 0), (0, 1), (0, 2), (5, 2))
    )
    assert len(alone) == len(one) == len(two) == 14
    for other, reference in ((one, alone), (two, alone), (later, alone[5:])):
        for a, b in zip(other, reference, strict=True):
            assert torch.equal(a.pictures, b.pictures)
            assert torch.equal(a.labels, b.labels)
            assert a.unreadable == b.unreadable
    assert sum(len(batch.unreadable) for batch in alone) > 0
    another_seed = next(load_batches(pictures, batches, augmentation, 10, 0, 1, 0))
    assert not torch.equal(another_seed.pictures, alone[0].pictures)


def test_load_batches_augments_a_picture_differently_in_every_epoch() -> None:
    first, second = load_batches(Numbered(1), ShuffledBatches(1, 1, 0), Augmentation(rotate=30), 0, 0, 2, 0)
    assert not torch.equal(first.pictures, second.pictures)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=forks)])
def test_load_batches_omits_and_names_unreadable_pictures(workers: int) -> None:
    batches = ShuffledBatches(8, 4, seed=0)
    expected = [index for index in batches.batch(0)[1] if index not in (2, 5, 6)]
    batch = next(load_batches(Numbered(8, broken=(2, 5, 6)), batches, None, 0, 0, 2, workers))
    assert numbers(batch) == expected
    missing = set(batches.batch(0)[1].tolist()) - set(expected)
    assert set(batch.unreadable) == {f"{index}.png: broken" for index in missing}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=forks)])
def test_load_batches_names_the_files_of_a_batch_without_readable_pictures(workers: int) -> None:
    with pytest.raises(DataError, match=r"7 of 7 pictures of a batch(.|\n)*\d\.png: broken(.|\n)*\.\.\."):
        next(load_batches(Numbered(7, tuple(range(7))), ShuffledBatches(7, 7, 0), None, 0, 0, 3, workers))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=forks)])
def test_load_all_keeps_the_order_and_the_last_partial_batch(workers: int) -> None:
    loaded = list(load_all(Numbered(9), np.array([3, 1, 8, 1, 0]), 2, workers))
    assert [numbers(batch) for batch in loaded] == [[3, 1], [8, 1], [0]]
    assert [batch.labels.tolist() for batch in loaded] == [[1, 1], [0, 1], [0]]
    assert list(load_all(Numbered(9), [], 2, workers)) == []


def test_load_all_refuses_an_unreadable_picture() -> None:
    with pytest.raises(DataError, match=r"1 of 3 pictures of a batch cannot be read:\n  4\.png: broken"):
        list(load_all(Numbered(9, broken=(4,)), range(9), 3, 0))


def test_load_batches_leaves_the_global_generators_unchanged() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    list(load_batches(Numbered(8), ShuffledBatches(8, 4, 0), Augmentation(), 0, 0, 4, 0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@forks
def test_load_batches_starts_workers_fast_and_ends_them_when_closed() -> None:
    began = time.perf_counter()
    loading = load_batches(Numbered(100), ShuffledBatches(100, 1, 0), None, 0, 0, 10_000, 2)
    next(loading)
    # 0.05 to 0.15 s where nothing else runs; a worker that imports the package again takes seconds.
    assert time.perf_counter() - began < 1.5
    assert len(multiprocessing.active_children()) == 2
    loading.close()
    assert multiprocessing.active_children() == []


class Deadly(Numbered):
    def picture(self, index: int) -> Picture:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@forks
def test_load_batches_advises_fewer_workers_when_a_worker_dies() -> None:
    with pytest.raises(VplfaceError, match="use fewer workers"):
        next(load_batches(Deadly(8), ShuffledBatches(8, 4, 0), None, 0, 0, 2, 1))


class Buggy(Numbered):
    def picture(self, index: int) -> Picture:
        raise RuntimeError("a bug, not a data error")


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=forks)])
def test_load_batches_raises_unexpected_errors_unchanged(workers: int) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        next(load_batches(Buggy(8), ShuffledBatches(8, 4, 0), None, 0, 0, 2, workers))


UNCAUGHT = """
from vplface.data.batches import load_batches
from vplface.data.samplers import ShuffledBatches

class Buggy:
    identities, labels = ["a"], [0] * 64
    def __len__(self): return 64
    def name(self, index): return str(index)
    def picture(self, index): raise RuntimeError("a bug")

loading = load_batches(Buggy(), ShuffledBatches(64, 32, 0), None, 0, 0, 10**9, 2)
next(loading)
"""


@pytest.mark.slow
@forks
def test_load_batches_does_not_delay_the_exit_after_an_uncaught_error() -> None:
    ended = subprocess.run([sys.executable, "-c", UNCAUGHT], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "RuntimeError: a bug" in ended.stderr


def test_load_batches_can_pickle_what_a_spawned_worker_needs() -> None:
    steps = module._Steps(Numbered(8), ShuffledBatches(8, 4, 0), Augmentation(), 3)
    again = pickle.loads(pickle.dumps(steps))
    buffer, same_buffer = np.zeros((2, 4 * module.PICTURE_BYTES), np.uint8)
    assert again(1, buffer)[0] == steps(1, same_buffer)[0] == 4 * module.PICTURE_BYTES
    assert np.array_equal(buffer, same_buffer)
    assert pickle.loads(pickle.dumps(workers._worker_main)) is workers._worker_main


INTERRUPTED = """
import signal
import numpy as np
from vplface.data.batches import load_batches
from vplface.data.samplers import ShuffledBatches

class Blank:
    identities, labels = ["a"], np.zeros(64, int)
    def __len__(self): return 64
    def name(self, index): return str(index)
    def picture(self, index): return np.zeros((112, 112, 3), np.uint8)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us with it ignored
try:
    for batch in load_batches(Blank(), ShuffledBatches(64, 32, 0), None, 0, 0, 10**9, 2):
        print("loading", flush=True)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
@forks
def test_load_batches_interrupts_only_the_main_process_on_ctrl_c() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "loading\n":
            break
    os.killpg(process.pid, signal.SIGINT)
    rest = process.communicate(timeout=60)[0]
    assert set(rest.split("\n")) <= {"loading", "interrupted", ""}
    assert "interrupted" in rest


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=forks)])
def test_load_batches_fills_a_batch_below_min_pictures_from_the_next_steps(workers: int) -> None:
    order = ShuffledBatches(12, 4, seed=0)
    first, second, third = (order.batch(step)[1].tolist() for step in range(3))
    pictures = Numbered(12, broken=(*first[1:], *second[:3]))
    loaded = list(load_batches(pictures, order, Augmentation(), 5, 0, 3, workers, min_pictures=3))
    assert [len(batch.labels) for batch in loaded] == [3, 3, 4]
    expected = [first[0], second[3], third[0]]
    assert loaded[0].labels.tolist() == [index % 2 for index in expected]
    assert torch.equal(loaded[0].pictures[1:2], loaded[1].pictures[:1])  # augmented as in its own step
    assert torch.equal(loaded[0].pictures[2], loaded[2].pictures[0])
    assert set(loaded[0].unreadable) == {f"{index}.png: broken" for index in (*first[1:], *second[:3])}


def test_load_batches_fills_a_slice_from_the_same_slice_of_the_next_steps() -> None:
    order = ShuffledBatches(12, 6, seed=0)
    first, second = (order.batch(step)[1].tolist() for step in range(2))
    pictures = Numbered(12, broken=tuple(first[3:5]))
    slices = [next(load_batches(pictures, order, None, 0, 0, 2, 0, (rank, 2), min_pictures=2)) for rank in range(2)]
    assert [numbers(batch) for batch in slices] == [first[:3], [first[5], second[3]]]


def test_load_batches_repeats_pictures_of_the_next_epochs_if_too_few_are_readable() -> None:
    pictures = Numbered(8, broken=tuple(range(1, 8)))
    batch = next(load_batches(pictures, ShuffledBatches(8, 8, seed=0), None, 0, 0, 3, 0, min_pictures=3))
    assert numbers(batch) == [0, 0, 0]


class Vanishing(Numbered):
    def picture(self, index: int) -> Picture:
        found = super().picture(index)
        self.broken = tuple(range(len(self)))
        return found


def test_load_batches_refuses_an_epoch_with_fewer_than_min_pictures_readable() -> None:
    with pytest.raises(DataError, match=r"at least 3 pictures, and only 1 of its epoch can be read(.|\n)*broken"):
        next(load_batches(Vanishing(8), ShuffledBatches(8, 8, seed=0), None, 0, 0, 3, 0, min_pictures=3))
