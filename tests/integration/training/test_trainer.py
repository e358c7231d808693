"""Trainer: steps, accumulation, injection, signals and unreadable pictures."""

import copy
import json
import os
import signal
import sys
import threading
import time

import pytest
import torch

from helpers import forked
from helpers.small_runs import before_step, interrupt_by, journal, settings
from vplface.data import batches
from vplface.data.augment import Augmentation
from vplface.data.batches import load_batches
from vplface.data.pictures import UnreadablePictureError
from vplface.errors import TrainingInterrupted
from vplface.training.distributed import DistributedContext
from vplface.training.run_state import build_run
from vplface.training.train import train
from vplface.training.trainer import Trainer


def test_Trainer_train_step_accumulates_exactly_without_BatchNorm(faces, tmp_path):
    backbone = {"name": "tiny", "embedding_dim": 8, "options": {"width": 8, "norm": "none"}}
    results = {}
    for parts in (1, 3):
        run = train(settings(faces, tmp_path / str(parts), backbone=backbone, accumulate=parts, ema=None))
        results[parts] = run
    for a, b in zip(results[1].backbone.parameters(), results[3].backbone.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert torch.equal(results[1].head.timer, results[3].head.timer)
    losses = [[line["loss"] for line in journal(tmp_path / str(parts) / "run")] for parts in (1, 3)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("changes", [{"clip": None}, {"clip": 0.5}, {"clip": None, "accumulate": 2}], ids=str)
def test_Trainer_trains_fused_prototypes_as_unfused_ones(faces, tmp_path, changes):
    # Few steps: later an activation near zero changes its sign by rounding, and the two runs diverge.
    few = {"schedule": {"length": 4, "warmup": 2}, "variational": {"lam": 0.3, "delta_t": 3, "start": 1}}
    options = {"lr": 0.02, "clip": changes["clip"]}
    few["accumulate"] = changes.get("accumulate", 1)
    plain = train(settings(faces, tmp_path / "plain", optimizer={**options, "fused": False}, **few))
    fused = train(settings(faces, tmp_path / "fused", optimizer={**options, "fused": True}, **few))
    assert ("used up" if changes == {"clip": None} else "until step") in repr(fused.head.weight.grad)
    torch.testing.assert_close(fused.head.weight, plain.head.weight, rtol=1e-4, atol=1e-5)
    lines = [journal(tmp_path / name / "run") for name in ("plain", "fused")]
    assert lines[0][-1]["coverage"] > 0
    losses = [[line["loss"] for line in each] for each in lines]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


DROPPING = {"name": "tiny", "embedding_dim": 8, "options": {"width": 8, "dropout": 0.5}}


def test_Trainer_momentum_encoder_changes_only_the_memory(faces, tmp_path):
    options = {"backbone": DROPPING, "schedule": {"length": 4, "warmup": 1}, "ema": None}
    injection = {"lam": 0.0, "delta_t": 9, "start": 1}  # with λ = 0 the memory has no effect
    without = train(settings(faces, tmp_path / "a", variational=injection, **options))
    with_it = train(settings(faces, tmp_path / "b", variational={**injection, "momentum": 0.75}, **options))
    for key, value in without.backbone.state_dict().items():
        assert torch.equal(value, with_it.backbone.state_dict()[key]), key
    assert torch.equal(without.head.timer, with_it.head.timer)
    assert not torch.allclose(without.head.memory, with_it.head.memory, atol=1e-3)


def test_Trainer_train_step_updates_the_momentum_encoder_as_by_hand(faces, tmp_path):
    injection = {"lam": 0.3, "delta_t": 9, "start": 0, "momentum": 0.75}
    run = build_run(settings(faces, tmp_path, backbone=DROPPING, variational=injection, ema=None))
    states, trainer = [], Trainer(run, DistributedContext())
    for batch in load_batches(run.pictures, run.batches, Augmentation(), 0, 0, 3, 0):
        before = copy.deepcopy(run.encoder.module)
        trainer.train_step(batch)
        run.step += 1
        states.append(copy.deepcopy(run.backbone.state_dict()))
    for key, kept in before.state_dict().items():  # after two updates, the first of which copies
        if kept.is_floating_point():
            torch.testing.assert_close(kept, 0.75 * states[0][key] + 0.25 * states[1][key], msg=key)
    before.train()
    for part in before.modules():
        if isinstance(part, torch.nn.Dropout):
            part.eval()
    features = torch.nn.functional.normalize(before(run.preprocessing(batch.pictures)).detach(), dim=1)
    last = {int(label): row for row, label in enumerate(batch.labels)}
    for label, row in last.items():
        torch.testing.assert_close(run.head.memory[label], features[row])


RULES = {"lam": 0.3, "delta_t": {"coverage": 0.8, "drift": 9}, "start": {"drift": 9, "measurements": 2}}


def test_Trainer_begins_injection_by_rules_and_reports_it(faces, tmp_path, capsys):
    config = settings(faces, tmp_path, variational=RULES, drift_every=2)
    run = train(config)
    # 12 classes, a batch of 16: 1 − exp(−16·Δt/12) ≥ .8 from Δt = 2 on; drift is known over 2 steps from step 4 on.
    assert (run.head.begun_at, run.head.delta_t) == (6, 2)
    entries = journal(tmp_path / "run")
    assert [entry["step"] for entry in entries if "begin" in entry] == [6]
    assert entries[5]["begin"] == {"delta_t": 2, "settled": True, "by_drift": False}
    assert [entry["coverage"] > 0 for entry in entries] == [step > 6 for step in range(1, 13)]
    assert "injection begins at step 6 with Δt 2" in capsys.readouterr().err
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["drift_every"] == 2


def test_Trainer_begins_injection_at_the_latest_step_if_features_do_not_settle(faces, tmp_path, caplog):
    config = settings(faces, tmp_path, variational={"start": {"drift": 1e-9, "by": 0.5}, "delta_t": 4}, drift_every=2)
    assert train(config).head.begun_at == 6
    assert "although features have not settled" in caplog.text
    assert journal(tmp_path / "run")[5]["begin"]["settled"] is False


def test_Trainer_records_the_effects_of_injection(faces, tmp_path):
    run = train(settings(faces, tmp_path))
    entries = journal(tmp_path / "run")
    assert [list(entry.get("drift_by_lag", "")) for entry in entries[3::4]] == [[], ["4"], ["4", "8"]]
    assert entries[7]["drift"] == entries[7]["drift_by_lag"]["4"]
    assert all(0 < entry["spread"] < 4 for entry in entries[3::4])
    assert "injected_angle" not in entries[3]
    assert 0 < entries[7]["injected_angle"]["mean"] <= entries[7]["injected_angle"]["p95"] < 180
    assert set(entries[7]["gradient_norm"]) == {"injected", "plain"}
    assert 0 <= entries[7]["nearer_to_memory"] <= 1
    assert ["cosine_by_age" in entry for entry in entries] == [step in (8, 12) for step in range(1, 13)]
    assert all(set(entry["cosine_by_age"]) <= {"1", "2", "3"} for entry in entries[7::4])
    # One bin per age: the mean of the bins weighted by samples is that over all pictures with a memory.
    whole = entries[11]
    assert set(whole["samples_by_age"]) == set(whole["cosine_by_age"])
    assert sum(whole["samples_by_age"].values()) <= 4 * 16
    every = train(settings(faces, tmp_path / "every", drift_every=1, schedule={"length": 8, "warmup": 2}))
    assert every.step == 8
    for entry in journal(tmp_path / "every" / "run")[5:]:
        counts, cosines = entry["samples_by_age"], entry["cosine_by_age"]
        mean = sum(counts[age] * cosines[age] for age in counts) / sum(counts.values())
        assert mean == pytest.approx(entry["cos_memory"], abs=1e-5)
    assert run.head.cosine_by_age() == {}


def test_Trainer_stops_while_it_waits_for_pictures(faces, tmp_path, monkeypatch):
    options = {"data": {"train": str(faces), "workers": 2}}
    train(settings(faces, tmp_path / "a", **options))
    config = settings(faces, tmp_path / "b", **options)
    loads, step = batches._Steps.__call__, Trainer.train_step

    def waits(task, item, room):
        if item == 3:
            time.sleep(600)
        return loads(task, item, room)

    def stopping(trainer, *rest, **options):
        if trainer.run.step == 2:
            threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        return step(trainer, *rest, **options)

    monkeypatch.setattr(batches._Steps, "__call__", waits)
    monkeypatch.setattr(Trainer, "train_step", stopping)
    with pytest.raises(TrainingInterrupted, match="stopped after step 3 of 12; everything is saved"):
        train(config)
    monkeypatch.undo()
    train(config, resume=True)
    assert journal(tmp_path / "b" / "run") == journal(tmp_path / "a" / "run")


def test_Trainer_joins_too_few_readable_pictures_with_those_of_the_next_steps(faces, tmp_path, monkeypatch):
    options = {"data": {"train": str(faces), "workers": 0}, "batch_size": 6, "accumulate": 3}
    kind = type(build_run(settings(faces, tmp_path, **options)).pictures)
    reads = kind.picture

    def broken(pictures, index):
        if index % 2:
            raise UnreadablePictureError(pictures.name(index), "broken")
        return reads(pictures, index)

    monkeypatch.setattr(kind, "picture", broken)
    whole = train(settings(faces, tmp_path / "a", **options))
    config = settings(faces, tmp_path / "b", **options)
    with monkeypatch.context() as patch:
        before_step(patch, 5, interrupt_by(signal.SIGTERM))
        with pytest.raises(TrainingInterrupted):
            train(config)
    resumed = train(
        settings(faces, tmp_path / "b", **options | {"data": {"train": str(faces), "workers": 2}}), resume=True
    )
    assert journal(tmp_path / "b" / "run") == journal(tmp_path / "a" / "run")
    assert torch.equal(whole.head.weight, resumed.head.weight)
    assert len(whole.unreadable) > 10


def test_Trainer_saves_on_ctrl_c_and_says_how_to_resume(faces, tmp_path, monkeypatch):

    config = settings(faces, tmp_path / "b")
    before_step(monkeypatch, 7, interrupt_by(signal.SIGINT))
    with pytest.raises(TrainingInterrupted, match=r"after step 7 of 12.*vplface train .*run --resume"):
        train(config)
    monkeypatch.undo()
    train(settings(faces, tmp_path / "a"))
    train(config, resume=True)
    assert journal(tmp_path / "a" / "run") == journal(tmp_path / "b" / "run")


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 0), ("SIGUSR1", 0), ("SIGINT", 130)])
def test_vplface_train_saves_on_a_signal_and_says_how_to_resume(faces, tmp_path, number, status):
    recipe = tmp_path / "c.yaml"
    config = settings(faces, tmp_path / "b", schedule={"length": 3000, "warmup": 2}, checkpoint_every=1000)
    recipe.write_text(config.to_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "vplface", "train", str(recipe)]
    child = forked.Popen(command, stdout=forked.PIPE, stderr=forked.STDOUT, text=True)
    while not (tmp_path / "b" / "run" / "metrics.jsonl").exists() or not journal(tmp_path / "b" / "run"):
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(getattr(signal, number))
    output, _ = child.communicate(timeout=60)
    assert child.returncode == status, output
    step = journal(tmp_path / "b" / "run")[-1]["step"]
    assert f"stopped after step {step} of 3000; everything is saved. Continue with: vplface train" in output
    assert "Traceback" not in output
    assert [path.name for path in (tmp_path / "b/run/checkpoints").iterdir()] == [f"step-{step:08d}"]
