from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vplface.config import Config, build_config
from vplface.data.samplers import (
    Balanced,
    BalancedBatches,
    Batches,
    Proximity,
    ProximityBatches,
    Sharded,
    ShardedBatches,
    Shuffled,
    ShuffledBatches,
    visits,
)
from vplface.errors import ConfigError
from vplface.plan import plan
from vplface.prototypes import simulate_memory
from vplface.training.distributed import DistributedContext
from vplface.training.run_state import build_run
from vplface.training.train import train
from vplface.training.trainer import Trainer

CHOICES = [Shuffled(), Balanced(2), Proximity(3), Sharded(7, 2)]
class_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=40)


def labels_of(sizes: list[int], seed: int) -> np.ndarray:
    """Labels with these class sizes, in any order, some numbers unused."""
    rng = np.random.default_rng(seed)
    numbers = np.sort(rng.choice(3 * len(sizes), len(sizes), replace=False))
    return rng.permutation(np.repeat(numbers, sizes))


def epoch_of(batches: Batches, epoch: int) -> list[np.ndarray]:
    drawn = [batches.batch(step) for step in range(epoch * len(batches), (epoch + 1) * len(batches))]
    assert {number for number, _ in drawn} == {epoch}
    assert all(batches.smallest <= len(indices) <= batches.batch_size for _, indices in drawn)
    assert all(indices.dtype == np.int64 for _, indices in drawn)
    return [indices for _, indices in drawn]


@pytest.mark.parametrize("sampler", CHOICES)
@given(sizes=class_sizes, batch_size=st.integers(2, 60), seed=st.integers(0, 3), steps=st.lists(st.integers(0, 200)))
def test_Batches_batch_depends_on_its_step_alone(sampler, sizes, batch_size, seed, steps) -> None:
    labels = labels_of(sizes, seed)
    visited = sampler.batches(labels, batch_size, seed)
    for step in steps:
        epoch, indices = visited.batch(step)
        assert epoch == step // len(visited)
        indices[:] = -1  # a caller may change its copy
        fresh = pickle.loads(pickle.dumps(sampler.batches(labels, batch_size, seed)))
        assert np.array_equal(visited.batch(step)[1], fresh.batch(step)[1])


@pytest.mark.parametrize("sampler", CHOICES)
def test_Batches_batch_draws_another_order_for_each_epoch_and_seed(sampler) -> None:
    labels = np.repeat(np.arange(30), 4)
    one, other = sampler.batches(labels, 120, 0), sampler.batches(labels, 120, 1)
    orders = [np.concatenate(each) for each in (epoch_of(one, 0), epoch_of(one, 1), epoch_of(other, 0))]
    assert not any(np.array_equal(a, b) for i, a in enumerate(orders) for b in orders[:i])


@pytest.mark.parametrize("sampler", CHOICES)
def test_Sampler_refuses_empty_sets_and_invalid_options(sampler) -> None:
    for labels, batch_size, seed in ((np.zeros(0, int), 4, 0), (np.zeros(4, int), 0, 0), (np.zeros(4, int), 4, -1)):
        with pytest.raises(ValueError, match=r"at least|cannot hold"):
            sampler.batches(labels, batch_size, seed)
    with pytest.raises(ValueError, match="step must be at least 0"):
        sampler.batches(np.zeros(4, int), 4, 0).batch(-1)
    for option in vars(sampler):
        for value in (0, 1.5, True, "3"):
            with pytest.raises(ValueError, match=f"{option} must be a whole number of at least 1, got"):
                type(sampler)(**{option: value})


def test_Balanced_batches_refuses_more_pictures_of_a_class_than_a_batch_holds() -> None:
    with pytest.raises(ValueError, match="a batch of 3 cannot hold 4 pictures of a class"):
        Balanced(4).batches(np.zeros(8, int), 3, 0)


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 3))
def test_ShuffledBatches_are_slices_of_a_numpy_permutation(n: int, batch_size: int, seed: int) -> None:
    batches = ShuffledBatches(n, batch_size, seed)
    assert len(batches) == max(1, n // batch_size)
    for epoch in range(3):
        together = np.concatenate(epoch_of(batches, epoch))
        assert batches.smallest == batches.batch_size == min(n, batch_size)
        assert np.array_equal(together, np.random.default_rng((seed, epoch)).permutation(n)[: len(together)])


@given(st.integers(1, 80), st.integers(1, 60), st.integers(1, 20), st.integers(1, 5), st.integers(0, 3))
def test_ShardedBatches_reads_few_shards_at_a_time(n: int, batch_size: int, shard: int, window: int, seed: int) -> None:
    batches = ShardedBatches(n, batch_size, seed, shard, window)
    assert len(batches) == max(1, n // batch_size)
    order = np.concatenate(epoch_of(batches, 1))
    assert len(set(order.tolist())) == len(order) == len(batches) * min(n, batch_size)
    # Pictures come from groups of `window` whole shards, and no shard comes twice.
    left = order.tolist()
    seen: set[int] = set()
    while left:
        turn = set()
        while left and (left[0] // shard in turn or len(turn) < window) and left[0] // shard not in seen:
            turn.add(left.pop(0) // shard)
        assert turn
        seen |= turn


def test_ShardedBatches_with_one_window_over_the_set_shuffles_all_pictures() -> None:
    order = np.concatenate(epoch_of(ShardedBatches(1000, 10, 0, shard=10, window=100), 0))
    assert 200 < np.abs(np.diff(order)).mean() < 450  # 333 for a permutation


@pytest.mark.parametrize("within", [1, 2, 3, 7, 100])
@given(sizes=class_sizes, batch_size=st.integers(1, 60), seed=st.integers(0, 10))
def test_ProximityBatches_is_a_permutation_with_gaps_of_at_most_within_but_for_split_classes(
    within: int, sizes: list[int], batch_size: int, seed: int
) -> None:
    labels = labels_of(sizes, seed)
    batches = ProximityBatches(labels, batch_size, seed, within)
    assert -(-len(labels) // batch_size) <= len(batches)
    for epoch in range(2):
        drawn = epoch_of(batches, epoch)
        assert sorted(np.concatenate(drawn).tolist()) == list(range(len(labels)))
        assert max(map(len, drawn)) - min(map(len, drawn)) <= 1
        assert max(map(len, drawn)) <= batch_size
        most = Counter()
        for indices in drawn:
            most |= Counter(labels[indices].tolist())
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            assert most[label] <= -(-count // len(drawn))  # 1, but for classes with more pictures than there are steps
        # A gap beyond `within` is that of a class which was split, and there are fewer of them than lanes.
        step = np.repeat(np.arange(len(drawn)), list(map(len, drawn)))
        order = np.lexsort((step, labels[np.concatenate(drawn)]))
        own, at = labels[np.concatenate(drawn)][order], step[order]
        long = own[1:][(own[1:] == own[:-1]) & (np.diff(at) > within)]
        assert len(set(long.tolist())) == len(long)
        assert len(long) < max(batch_size * ((within + 1) // 2), 1)


@pytest.mark.parametrize(("size", "classes", "batch_size", "within"), [(4, 30, 10, 2), (5, 40, 10, 4), (10, 8, 4, 1)])
def test_ProximityBatches_never_splits_equal_classes_that_fill_the_lanes(size, classes, batch_size, within) -> None:
    labels = np.repeat(np.arange(classes), size)
    batches = ProximityBatches(labels, batch_size, 0, within)
    assert batches.smallest == batches.batch_size == batch_size
    for epoch in range(5):
        drawn = [labels[indices] for indices in epoch_of(batches, epoch)]
        for label in range(classes):
            gaps = np.diff([step for step, own in enumerate(drawn) if label in own])
            assert len(gaps) == size - 1
            assert 1 <= gaps.min() <= gaps.max() <= within


def test_ProximityBatches_fills_lanes_with_classes_of_one_picture() -> None:
    labels = np.concatenate([np.repeat(np.arange(40), 5), np.arange(40, 120)])
    batches = ProximityBatches(labels, 10, 0, within=2)
    for epoch in range(5):
        step, index = visits(batches, epoch * len(batches), (epoch + 1) * len(batches))
        gaps = np.concatenate([np.diff(np.sort(step[labels[index] == label])) for label in range(40)])
        assert gaps.max() <= 2


def test_ProximityBatches_draws_another_order_each_epoch_with_random_gaps() -> None:
    labels = np.repeat(np.arange(200), 6)
    batches = ProximityBatches(labels, 20, 0, within=9)
    first = [np.array([labels[i] for i in np.concatenate(epoch_of(batches, epoch)[:10])]) for epoch in (0, 1)]
    assert len(np.intersect1d(*first)) < len(np.unique(first[0])) * 0.8
    step, index = visits(batches, 0, len(batches))
    order = np.lexsort((step, labels[index]))
    gaps = np.diff(step[order])[np.diff(labels[index][order]) == 0]
    assert set(range(1, 10)) <= set(gaps.tolist())


@given(class_sizes, st.integers(1, 5), st.integers(1, 40), st.integers(0, 3))
def test_BalancedBatches_shows_every_class_equally_often(
    sizes: list[int], per_class: int, more: int, seed: int
) -> None:
    labels = labels_of(sizes, seed)
    batches = BalancedBatches(labels, per_class + more, seed, per_class)
    classes_per_batch = min((per_class + more) // per_class, len(sizes))
    assert len(batches) == len(sizes) // classes_per_batch
    for epoch in range(3):
        turns: list[int] = []
        for indices in epoch_of(batches, epoch):
            groups = indices.reshape(classes_per_batch, per_class)
            own = labels[groups]
            assert (own == own[:, :1]).all()
            turns += own[:, 0].tolist()
            for group, label in zip(groups, own[:, 0], strict=True):
                have = int((labels == label).sum())
                assert len(set(group.tolist())) == min(per_class, have)
        assert len(set(turns)) == len(turns)  # a class comes at most once an epoch


def test_BalancedBatches_uses_every_picture_of_a_class_before_it_repeats_one() -> None:
    labels = np.repeat([0, 1], [12, 7])
    batches = BalancedBatches(labels, 6, 0, per_class=3)
    shown = {0: [], 1: []}
    for step in range(8):
        groups = batches.batch(step)[1].reshape(2, 3)
        for group in groups.tolist():
            shown[int(labels[group[0]])].append(group)
    for start in (0, 4):  # 12 pictures are four groups of three
        assert sorted(np.concatenate(shown[0][start : start + 4])) == list(range(12))
    for start in (0, 2, 4, 6):  # of 7, one is left over each time
        assert len(np.unique(shown[1][start : start + 2])) == 6
    assert len({index for group in shown[1] for index in group}) == 7


def test_simulate_memory_equals_values_computed_by_hand() -> None:
    # The example of docs/method.md, with one class twice in step 1.
    steps = np.array([0, 0, 1, 1, 2, 3, 4, 4])
    labels = np.array([0, 1, 1, 1, 2, 1, 0, 2])
    found = simulate_memory(steps, labels, 3, delta_t=2, since=0)
    # Alive after the steps: {0, 1}, {0, 1}, {1, 2}, {1, 2}, {0, 1, 2}.
    assert found.coverage == pytest.approx((2 + 2 + 2 + 2 + 3) / 15)
    # Class 1 meets its own memory in step 1 (twice, age 1) and step 3 (age 2), class 2 in step 4 (age 2).
    assert found.own == pytest.approx(4 / 8)
    assert found.age == pytest.approx((1 + 1 + 2 + 2) / 4)
    later = simulate_memory(steps, labels, 3, delta_t=2, since=3)
    assert later.coverage == pytest.approx(5 / 6)
    assert (later.own, later.age) == (2 / 3, 2)
    never = simulate_memory(steps, labels, 3, delta_t=2, since=4)
    assert never.own == 0.5
    assert np.isnan(simulate_memory(np.array([0, 9]), np.array([0, 0]), 1, 5, 0).age)


def settings(faces: Path, output: Path, sampler: object, **changes: object) -> Config:
    return build_config(
        {
            "name": "run",
            "output": str(output),
            "data": {"train": str(faces), "workers": 0, "sampler": sampler, "augmentation": {"shift": 0.05}},
            "backbone": {"name": "tiny", "embedding_dim": 8, "options": {"width": 8}},
            "variational": {"lam": 0.3, "delta_t": 3},
            "optimizer": {"lr": 0.02},
            "schedule": {"length": 7, "warmup": 2},
            "batch_size": 8,
            "log_every": 1,
            "checkpoint_every": 3,
            **changes,
        },
        "test",
    )


SAMPLERS_OF_A_RUN = [
    "shuffled",
    {"name": "balanced", "per_class": 2},
    {"name": "proximity", "within": 3},
    {"name": "sharded", "shard": 6, "window": 2},
]


def journal(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "pictures_per_second")} for line in lines]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the run that is killed is forked")
def test_train_killed_and_resumed_with_any_sampler_equals_the_uninterrupted_run(faces, tmp_path) -> None:
    script = textwrap.dedent("""
        import os, signal, sys, time
        import torch
        import torch._dynamo, torch.utils.tensorboard  # once, not in every child
        from vplface.config import read_config
        from vplface.training.train import train
        from vplface.training.trainer import Trainer
        torch.set_num_threads(1)
        step = Trainer.train_step
        def killed(trainer, *rest, **options):
            if trainer.run.step == 4:
                while not list(trainer.run.folder.path.glob("checkpoints/step-*")):
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            return step(trainer, *rest, **options)
        Trainer.train_step = killed
        for recipe in sys.argv[1:]:
            child = os.fork()
            if child == 0:
                train(read_config(recipe))
            print(os.waitpid(child, 0)[1])
    """)
    recipes = []
    for number, sampler in enumerate(SAMPLERS_OF_A_RUN):
        recipes.append(tmp_path / f"{number}.yaml")
        recipes[-1].write_text(settings(faces, tmp_path / f"b{number}", sampler).to_yaml(), encoding="utf-8")
    command = [sys.executable, "-c", script, *map(str, recipes)]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert killed.stdout.split() == [str(int(signal.SIGKILL))] * 4
    for number, sampler in enumerate(SAMPLERS_OF_A_RUN):
        whole = train(settings(faces, tmp_path / f"a{number}", sampler))
        resumed = train(settings(faces, tmp_path / f"b{number}", sampler), resume=True)
        assert whole is not None
        assert resumed is not None
        assert journal(tmp_path / f"a{number}") == journal(tmp_path / f"b{number}")
        for one, other in ((whole.backbone, resumed.backbone), (whole.head, resumed.head)):
            for value, again in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
                assert torch.equal(value, again)


def test_plan_computes_coverage_from_the_order_of_the_sampler(faces, tmp_path) -> None:
    # Twelve people with four pictures. Two pictures of each of four of them a step: an epoch is three steps.
    made = plan(settings(faces, tmp_path, {"name": "balanced", "per_class": 2}, schedule={"length": "2 epochs"}))
    assert (made.steps_per_epoch, made.steps) == (3, 6)
    assert made.coverage[3] > 0.6
    # Four steps of twelve pictures, one of each person: everybody is remembered from the step before.
    made = plan(settings(faces, tmp_path, {"name": "proximity", "within": 1}, batch_size=12))
    assert made.steps_per_epoch == 4
    assert set(made.coverage.values()) == set(made.own.values()) == {1.0}


def test_build_run_refuses_a_batch_too_small_for_the_sampler(faces, tmp_path) -> None:
    config = settings(faces, tmp_path, {"name": "balanced", "per_class": 9})
    with pytest.raises(ConfigError, match=r"data.sampler: a batch of 8 cannot hold 9 pictures of a class; raise batch"):
        build_run(config)
    uneven = settings(faces, tmp_path, {"name": "proximity", "within": 1}, batch_size=5)  # 48 pictures in 10 steps
    with pytest.raises(ConfigError, match="a batch of 4 cannot be shared by 5 processes"):
        build_run(uneven, DistributedContext(size=5))


def test_train_refuses_to_resume_with_another_sampler(faces, tmp_path) -> None:
    train(settings(faces, tmp_path, "shuffled", schedule={"length": 5, "warmup": 0}))
    with pytest.raises(ConfigError, match="was trained with another data"):
        train(settings(faces, tmp_path, "proximity", schedule={"length": 5, "warmup": 0}), resume=True)


@pytest.mark.slow
def test_Proximity_raises_the_share_of_pictures_with_a_live_memory_in_training(tmp_path, monkeypatch) -> None:
    """Ninety people with four pictures, and a memory that lives for two of the 45 steps of an epoch."""
    picture = np.random.default_rng(0).integers(0, 255, (112, 112, 3)).astype(np.uint8)
    for person in range(90):
        (tmp_path / f"faces/{person}").mkdir(parents=True)
        for number in range(4):
            picture[0] = person + number
            cv2.imwrite(str(tmp_path / f"faces/{person}/{number}.png"), picture)
    step = Trainer.train_step
    met: dict[str, float] = {}
    covered: dict[str, float] = {}
    for sampler in ("shuffled", "proximity"):
        alive, coverage = [], []

        def watched(trainer, batch, *, alive=alive, coverage=coverage, **options):
            run = trainer.run
            if run.head.timer is not None:
                alive.append((run.head.timer[batch.labels] > 0).float().mean().item())
            result = step(trainer, batch, **options)
            coverage.append(run.head.coverage())
            return result

        monkeypatch.setattr(Trainer, "train_step", watched)
        options = {"name": "proximity", "within": 2} if sampler == "proximity" else sampler
        config = settings(
            tmp_path / "faces",
            tmp_path / sampler,
            options,
            variational={"lam": 0.3, "delta_t": 2},
            schedule={"length": "2 epochs", "warmup": 0},
            checkpoint_every="2 epochs",
        )
        run = train(config)
        assert run is not None
        assert len(run.batches) == 45
        met[sampler], covered[sampler] = float(np.mean(alive[44:])), float(np.mean(coverage[45:]))
        # The timers of the head agree with the simulation from the order alone.
        steps, indices = visits(run.batches, 0, 90)
        expected = simulate_memory(steps, run.pictures.labels[indices], 90, delta_t=2, since=45)
        assert met[sampler] == pytest.approx(expected.own)
        assert covered[sampler] == pytest.approx(expected.coverage)
    # Three of four pictures follow one of their class by a step; by chance it is 3 x 2/45 of them.
    assert met["proximity"] > 0.7
    assert met["shuffled"] < 0.2
    # The price: the living memories are those of fewer classes.
    assert covered["proximity"] < covered["shuffled"]


def test_Sharded_batches_with_a_shard_larger_than_the_set_equals_one_shard():
    labels = np.arange(100) % 7
    whole, endless = (Sharded(shard, 8).batches(labels, 10, 3) for shard in (100, 10**14))
    for step in range(25):
        assert endless.batch(step)[1].tolist() == whole.batch(step)[1].tolist()
