import numpy as np
import pytest
import torch

from vplface.config import build_config
from vplface.errors import ConfigError
from vplface.training.networks import device_of
from vplface.training.probe import PROBE_SIZE, probe_indices
from vplface.training.run_state import build_run, drift_every


def config(**changes):
    return build_config({"name": "a", "data": {"train": "x"}, **changes}, "test")


@pytest.mark.parametrize(
    ("sizes", "pairs"),
    [([4] * 12, 12), ([1] * 40, 0), ([2] * 300, 128), ([1, 9, 1, 2], 2), ([1] * 600 + [2] * 3, 3), ([1000], 1)],
)
def test_probe_indices_hold_pairs_of_a_class_where_there_are_some(sizes, pairs):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    chosen = probe_indices(labels)
    assert len(chosen) == len(set(chosen.tolist())) == min(PROBE_SIZE, sum(sizes))
    several = np.unique(labels[chosen], return_counts=True)[1] >= 2
    assert several.sum() >= pairs
    for label in np.unique(labels[chosen])[several][:5]:
        own = np.flatnonzero(labels == label)
        assert {own[0], own[-1]} <= set(chosen.tolist())


def test_drift_every_is_an_eighth_of_a_lifetime_within_its_budget():
    assert drift_every(config(drift_every=7), 100, 800) == 7
    assert drift_every(config(batch_size=512), 10_000, 800) == 100
    assert drift_every(config(batch_size=512), 10_000, None) == 1250
    assert drift_every(config(batch_size=512), 10_000, 80) == 25  # 50·256/512
    assert drift_every(config(batch_size=100), 10, 80) == 128


def test_build_run_refuses_a_start_rule_that_the_data_cannot_follow(faces):
    raw = {"backbone": {"name": "tiny", "options": {"width": 8}}, "data": {"train": {"path": str(faces)}}}
    start = {"start": "auto", "delta_t": 5000}
    with pytest.raises(ConfigError, match="variational: 64 measurements, 2 steps apart"):
        build_run(config(**raw, variational=start, drift_every=2))
    raw["data"]["train"]["max_pictures"] = 1
    with pytest.raises(ConfigError, match="no two pictures of the probe are of one class"):
        build_run(config(**raw, variational=start))


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"), [(True, True, "cuda:1"), (False, True, "mps"), (False, False, "cpu")]
)
def test_device_of_auto_prefers_cuda_to_mps_to_cpu(monkeypatch, cuda, mps, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.mps, "is_available", lambda: mps)
    assert device_of("auto", local_rank=1) == torch.device(chosen)
