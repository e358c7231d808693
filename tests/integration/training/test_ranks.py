"""Runs of several processes equal runs of one, also from a checkpoint of another number of processes."""

from __future__ import annotations

import hashlib
import json
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import yaml

from vplface.config import build_config
from vplface.data.batches import load_batches
from vplface.data.pictures import Preprocessing
from vplface.training.distributed import DistributedContext
from vplface.training.run_state import build_run
from vplface.training.train import train, train_as
from vplface.training.trainer import Trainer

CLOCKS = ("pictures_per_second", "time")
TERMS = ["unitsface", "unpg", {"name": "xbm", "size": 20, "start": 2}, {"name": "epl", "start": 3}]


def settings(faces, output, **changes):
    raw = {
        "name": "run",
        "output": str(output),
        "data": {"train": str(faces), "workers": 0, "augmentation": {"flip": 0.5, "shift": 0.05}},
        "backbone": {"name": "tiny", "embedding_dim": 8, "options": {"width": 8, "norm": "none"}},
        "margin": {"name": "arcface", "scale": 16, "margin": 0.2},
        "variational": {"lam": 0.3, "delta_t": 3, "start": 2},
        "optimizer": {"lr": 0.02},
        "schedule": {"length": 8, "warmup": 2},
        "batch_size": 14,
        "evaluation": {"bootstrap": 20},
        "log_every": 1,
        "drift_every": 4,
        "checkpoint_every": 4,
    }
    return build_config({**raw, **changes}, "test").to_yaml()


def start(group, text, resume=False):
    """Carry out a run as a rank of a group, which stands in for what torchrun would have made."""

    turn = f"{hash_of(text)}-{resume}-{group.size()}"
    store = dist.PrefixStore(turn, dist.distributed_c10d._get_default_store())
    context = DistributedContext(group.rank(), group.size(), group=group, _store=store)
    run = train_as(context, build_config(yaml.safe_load(text), "test"), resume=resume)
    assert (run is None) == (group.rank() > 0)
    return 0 if run is None else run.step


def hash_of(text):
    return hashlib.sha256(text.encode()).hexdigest()


def alone(text, resume=False):
    return train(build_config(yaml.safe_load(text), "test"), resume=resume)


def journal(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def require_near(folder, other):
    ours, theirs = journal(folder), journal(other)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key, value in flat(a).items():
            expected = flat(b)[key]
            assert value == (pytest.approx(expected, rel=2e-3, abs=1e-4) if isinstance(value, float) else expected), key


def flat(entry):
    """The numbers of a line of the journal, mappings taken apart."""
    parts = {key: value if isinstance(value, dict) else {"": value} for key, value in entry.items()}
    return {(key, name): value for key, part in parts.items() for name, value in part.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": {"lr": 0.02, "clip": None, "fused": True}},
        {"optimizer": {"name": "adamw", "lr": 0.001}, "accumulate": 3},
        {"optimizer": {"lr": 0.02, "clip": 0.5, "fused": False}, "ema": 0.9, "evaluation": {"every": 4}},
        {"optimizer": {"lr": 0.02, "clip": 0.5, "fused": True}, "accumulate": 2, "prototypes": "means"},
        {"variational": {"lam": 0.3, "delta_t": 3, "start": 2, "momentum": 0.8}, "accumulate": 2},
        {
            "variational": {
                "lam": 0.3,
                "delta_t": {"coverage": 0.7, "drift": 4},
                "start": {"drift": 9, "measurements": 2},
            }
        },
        {"terms": TERMS},
        {"finetune": {"freeze": "backbone", "until": 3, "layer_decay": 0.5}, "accumulate": 2},
    ],
    ids=[
        "sgd",
        "fused",
        "adamw accumulated",
        "clipped",
        "clipped fused",
        "momentum accumulated",
        "by rules",
        "terms",
        "thawed accumulated",
    ],
)
def test_train_as_with_two_processes_equals_one(processes, faces, tmp_path, changes):
    assert processes.run(start, 2, settings(faces, tmp_path / "two", **changes)) == [8, 0]
    alone(settings(faces, tmp_path / "one", **changes))
    require_near(tmp_path / "two" / "run", tmp_path / "one" / "run")


def start_fused(group, text):
    """Carry out a run as a rank whose head takes fused steps; returns its steps, and how many batches were gathered."""
    from vplface.exchange import Exchange

    with (
        patch("vplface.softmax.fused.conditions.fastest_backend", lambda device: "triton"),
        patch.object(Exchange, "gather", autospec=True, side_effect=Exchange.gather) as gather,
    ):
        return start(group, text), gather.call_count


@pytest.mark.slow
def test_train_as_with_two_processes_in_fused_steps_equals_one(processes, faces, tmp_path):
    pytest.importorskip("triton", reason="needs vplface[triton]")
    changes = {
        "data": {"train": str(faces), "workers": 0, "sampler": "proximity"},
        "batch_size": 11,  # of 10 and 9 pictures
        "accumulate": 2,
        "backbone": {"name": "tiny", "embedding_dim": 64, "options": {"width": 8, "norm": "none"}},
        "optimizer": {"lr": 0.02, "clip": 0.5, "fused": True},
        "schedule": {"length": 4, "warmup": 2},
    }
    found = processes.run(start_fused, 2, settings(faces, tmp_path / "two", **changes))
    assert found == [(4, 8), (0, 8)]
    alone(settings(faces, tmp_path / "one", **changes))
    require_near(tmp_path / "two" / "run", tmp_path / "one" / "run")


def start_silent(group, text):
    """Carry out a run as a rank on a device that the host does not wait for; its steps, and agreements on sizes."""
    from vplface import devices
    from vplface.exchange import Exchange

    with (
        patch.object(devices, "reading_waits", lambda device: True),
        patch.object(Exchange, "_agree", autospec=True, side_effect=Exchange._agree) as agree,
    ):
        return start(group, text), agree.call_count


@pytest.mark.parametrize("accumulate", [1, 2])
def test_train_as_with_two_silent_processes_equals_one_and_agrees_once_for_each_part(
    processes, faces, tmp_path, accumulate
):
    changes = {
        "data": {"train": str(faces), "workers": 0, "sampler": "proximity"},
        "batch_size": 11,  # of 10 and 9 pictures
        "accumulate": accumulate,
        "variational": {"lam": 0.3, "delta_t": 3, "start": 2, "memory": "gaussian"},
    }
    found = processes.run(start_silent, 2, settings(faces, tmp_path / "two", **changes))
    assert found == [(8, accumulate), (0, accumulate)]
    alone(settings(faces, tmp_path / "one", **changes))
    require_near(tmp_path / "two" / "run", tmp_path / "one" / "run")


def test_train_as_with_two_processes_follows_a_teacher_as_one_does(processes, faces, tmp_path):
    alone(settings(faces, tmp_path / "teacher", schedule={"length": 2, "warmup": 0}))
    distill = {"teacher": str(tmp_path / "teacher/run"), "cosine": 2}
    assert processes.run(start, 2, settings(faces, tmp_path / "two", distill=distill, seed=1)) == [8, 0]
    alone(settings(faces, tmp_path / "one", distill=distill, seed=1))
    one, two = (journal(tmp_path / name / "run") for name in ("one", "two"))
    assert two[-1]["cos_prototype"] == pytest.approx(one[-1]["cos_prototype"], rel=2e-3, abs=1e-4)
    assert two[-1]["drift"] == pytest.approx(one[-1]["drift"], rel=2e-3, abs=1e-4)


def test_train_as_with_two_processes_ends_by_patience_as_one_does(processes, faces, tmp_path):
    still = {"optimizer": {"lr": 1e-12}, "finetune": {"batchnorm": "freeze"}}
    asked = {"every": 2, "patience": 1, "untouched": True, "bootstrap": 20, "fars": [0.1]}
    changes = {**still, "evaluation": asked, "data": {"train": str(faces), "workers": 0, "holdout": 0.4}}
    assert processes.run(start, 2, settings(faces, tmp_path / "two", **changes)) == [4, 0]
    alone(settings(faces, tmp_path / "one", **changes))
    require_near(tmp_path / "two" / "run", tmp_path / "one" / "run")


@pytest.mark.parametrize(("before", "after", "terms"), [(4, 1, []), (1, 3, []), (3, 2, TERMS), (2, 4, [])])
def test_train_as_resumes_with_another_number_of_processes(processes, faces, tmp_path, before, after, terms):
    whole = settings(faces, tmp_path / "whole", terms=terms)
    alone(whole)
    text = settings(faces, tmp_path / "moved", terms=terms)
    processes.run(stop_after, before, text, 4)
    parts = sorted(path.name for path in (tmp_path / "moved/run/checkpoints/step-00000004").glob("rows-*"))
    assert len(parts) == before
    assert processes.run(start, after, text, True)[0] == 8
    require_near(tmp_path / "moved" / "run", tmp_path / "whole" / "run")


@pytest.mark.parametrize("stop", [3, 5])
def test_train_as_resumes_rules_and_momentum_with_another_number_of_processes(processes, faces, tmp_path, stop):
    rules = {"lam": 0.3, "delta_t": {"coverage": 0.7, "drift": 4}, "start": {"drift": 9, "measurements": 3, "by": 0.9}}
    changes = {"variational": {**rules, "momentum": 0.8}, "log_every": 2, "drift_every": 1}
    whole = settings(faces, tmp_path / "whole", **changes)
    alone(whole)
    text = settings(faces, tmp_path / "moved", **changes)
    processes.run(stop_after, 2, text, stop)
    assert processes.run(start, 3, text, True)[0] == 8
    require_near(tmp_path / "moved" / "run", tmp_path / "whole" / "run")
    begun = [line["step"] for line in journal(tmp_path / "moved" / "run") if "begin" in line]
    assert begun == [5]


def stop_after(group, text, step):
    """Carry out a run up to a step, as if a scheduler had taken the machine."""
    import os
    import signal

    from vplface.errors import TrainingInterrupted

    real = Trainer.train_step

    def stepping(trainer, *rest, **options):
        if trainer.run.step == step - 1 and group.rank() == group.size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(trainer, *rest, **options)

    Trainer.train_step = stepping
    try:
        with pytest.raises(TrainingInterrupted) as caught:
            start(group, text)
    finally:
        Trainer.train_step = real
    assert caught.value.preempted
    return str(caught.value)


@pytest.mark.parametrize("world", [2, 3])
def test_train_as_stops_all_ranks_on_a_signal_to_one_and_resumes_exactly(processes, faces, tmp_path, world):
    norm = {"name": "tiny", "embedding_dim": 8, "options": {"width": 8, "dropout": 0.2}}
    processes.run(start, world, settings(faces, tmp_path / "whole", backbone=norm))
    text = settings(faces, tmp_path / "stopped", backbone=norm)
    stopped = processes.run(stop_after, world, text, 3)
    assert [message.partition(" of ")[0] for message in stopped] == ["stopped after step 4"] * world
    processes.run(start, world, text, True)
    assert journal(tmp_path / "stopped" / "run") == journal(tmp_path / "whole" / "run")


def test_train_as_runs_with_fewer_classes_than_ranks(processes, faces, tmp_path):
    (tmp_path / "people.txt").write_text("p1\np2\np3\n", encoding="utf-8")
    data = {"train": {"path": str(faces), "people": str(tmp_path / "people.txt")}, "workers": 0}
    assert processes.run(start, 4, settings(faces, tmp_path, data=data, batch_size=6))[0] == 8


def fail_at_preparing(group, text):
    from vplface.errors import VplfaceError

    try:
        start(group, text)
    except VplfaceError as error:
        return str(error)
    return None


def test_train_as_reports_an_error_of_rank_0_on_every_rank(processes, faces, tmp_path):
    text = settings(tmp_path / "nowhere", tmp_path)
    first, second = processes.run(fail_at_preparing, 2, text)
    assert "nowhere" in first
    assert second.startswith("rank 0 failed: DataError")
    assert "nowhere" in second


def test_train_as_refuses_a_batch_smaller_than_the_number_of_ranks(processes, faces, tmp_path):
    first, *_ = processes.run(fail_at_preparing, 4, settings(faces, tmp_path, batch_size=3))
    assert "a batch of 3 cannot be shared by 4 processes" in first


def test_train_as_keeps_the_running_statistics_of_the_first_slice_of_a_batch(processes, faces, tmp_path):
    from safetensors.torch import load_file

    norm = {"name": "tiny", "embedding_dim": 8, "options": {"width": 8}}
    text = settings(faces, tmp_path, backbone=norm, schedule={"length": 1, "warmup": 0})
    processes.run(start, 2, text)
    run = build_run(build_config(yaml.safe_load(text), "test"))
    data = run.config.data
    batch = next(load_batches(run.pictures, run.batches, data.augmentation, run.config.seed, 0, 1, 0, (0, 2)))
    assert len(batch.labels) == 7
    run.backbone.train()
    run.backbone(Preprocessing()(batch.pictures))
    kept = load_file(tmp_path / "run" / "model.safetensors")
    expected = dict(run.backbone.named_buffers())
    assert any(name.endswith("running_var") for name in expected)
    for name, value in expected.items():
        torch.testing.assert_close(kept[name], value, atol=1e-5, rtol=1e-4)
