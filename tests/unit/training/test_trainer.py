"""A step of training on a device that nobody waits for."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from helpers.host_traffic import DEVICE, host_traffic
from helpers.small_runs import settings
from vplface.data.batches import load_batches
from vplface.training.distributed import DistributedContext
from vplface.training.run_state import build_run
from vplface.training.trainer import Trainer


class SilentHead(nn.Module):
    """A softmax over the prototypes of a head, in plain operations that read nothing."""

    optimizer = None
    ranks = None
    remembers = True

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def micro_batches(self):
        return nullcontext()

    def last_fault(self):
        return None

    def forward(self, embeddings, labels, memory=None):
        return cross_entropy(normalize(embeddings) @ normalize(self.weight).t(), labels)


@pytest.mark.parametrize(
    "offence",
    [
        lambda x: x[0].item(),
        lambda x: bool(x.isfinite().all()),
        lambda x: x.tolist(),
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x[x > 0],
        lambda x: x.__setitem__(x > 0, 1.0),
        lambda x: x[torch.tensor([0])],
        lambda x: x[[0, 1]],
    ],
)
def test_host_traffic_refuses_what_the_host_waits_for(offence):
    x = torch.ones(3, device=DEVICE)
    with host_traffic(), pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
        offence(x)


def silent_run(faces, output, **changes):
    """A run on the meta device whose head asks nothing of the host."""
    run = build_run(settings(faces, output, device=str(DEVICE), **changes))
    run.head = SilentHead(run.head.weight)
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"accumulate": 3}, {"optimizer": {"name": "adamw", "lr": 0.01}}, {"optimizer": {"lr": 0.02, "clip": None}}],
    ids=["sgd", "accumulated", "adamw", "not clipped"],
)
def test_train_step_makes_a_device_wait_for_nothing(faces, tmp_path, changes):
    injection = {"lam": 0.3, "delta_t": 3, "start": 0, "momentum": 0.8}
    run = silent_run(faces, tmp_path, variational=injection, **changes)
    norm = [] if run.config.optimizer.clip is None else [()]
    require_silence(run, [(run.config.accumulate,), *norm])


def require_silence(run, to_host):
    """Steps of a run copy a batch to the device and begin to copy some numbers to the host, and that is all."""
    trainer = Trainer(run, DistributedContext())
    for number, batch in enumerate(load_batches(run.pictures, run.batches, None, 0, 0, 4, 0)):
        with host_traffic() as traffic:
            trainer.train_step(batch)
        run.step += 1
        if number > 1:  # the first send what stays on the device
            assert traffic.to_device == [(16, 112, 112, 3), (16,)]
            assert traffic.to_host == to_host


class NotLaunched:
    """A Triton kernel of which no launch does anything but count."""

    launches = 0

    def __getitem__(self, grid):
        def launch(*arguments, **options):
            NotLaunched.launches += 1

        return launch


def test_train_step_with_the_fused_step_of_a_head_makes_a_device_wait_for_nothing(faces, tmp_path, monkeypatch):
    kernels = pytest.importorskip("vplface.softmax.fused.kernels", reason="needs vplface[triton]", exc_type=ImportError)
    monkeypatch.setattr("vplface.softmax.fused.conditions.fastest_backend", lambda device: "triton")
    for name, value in list(vars(kernels).items()):
        if hasattr(value, "run"):
            monkeypatch.setattr(kernels, name, NotLaunched())
    run = build_run(
        settings(
            faces,
            tmp_path,
            device=str(DEVICE),
            backbone={"name": "tiny", "embedding_dim": 64, "options": {"width": 8}},
            optimizer={"lr": 0.02, "clip": None, "fused": True},
            variational={"lam": 0.3, "delta_t": 3, "start": 0},
        )
    )
    assert run.head._reason_against_fused() is None
    before = NotLaunched.launches
    require_silence(run, [(1,)])
    assert NotLaunched.launches - before == 4 * 8
    assert run.head.step_count == 4
