import copy
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import filelock
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vplface.config import build_config, read_config
from vplface.data import batches
from vplface.data.augment import Augmentation
from vplface.data.batches import load_batches
from vplface.data.pictures import UnreadablePictureError
from vplface.errors import ConfigError, DataError, TrainingInterrupted, VplfaceError
from vplface.files import write_json
from vplface.plan import plan
from vplface.softmax import tiled
from vplface.stored_model import load_model
from vplface.training import checkpoint, checkpoint_manifest, claim
from vplface.training.distributed import DistributedContext
from vplface.training.failures import TrainingError
from vplface.training.journal import Journal
from vplface.training.resume import restore_config
from vplface.training.run_state import build_run
from vplface.training.sources import open_sources
from vplface.training.train import train
from vplface.training.trainer import Trainer

CLOCKS = ("pictures_per_second", "time")


def settings(faces, output, **changes):
    raw = {
        "name": "run",
        "output": str(output),
        "data": {"train": str(faces), "workers": 0, "augmentation": {"flip": 0.5, "shift": 0.05}},
        "backbone": {"name": "tiny", "embedding_dim": 8, "options": {"width": 8, "dropout": 0.2}},
        "margin": {"name": "arcface", "scale": 16, "margin": 0.2},
        "variational": {"lam": 0.3, "delta_t": 3, "start": 4},
        "optimizer": {"lr": 0.02},
        "schedule": {"length": 12, "warmup": 2},
        "batch_size": 16,
        "ema": 0.9,
        "evaluation": {"bootstrap": 20},
        "log_every": 1,
        "drift_every": 4,
        "checkpoint_every": 5,
    }
    return build_config({**raw, **changes}, "test")


def journal(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def test_a_run_leaves_its_journal_models_and_environment(faces, tmp_path):
    config = settings(faces, tmp_path)
    run = train(config)
    folder = tmp_path / "run"
    entries = journal(folder)
    assert [entry["step"] for entry in entries] == list(range(1, 13))
    assert [entry["coverage"] > 0 for entry in entries] == [step > 4 for step in range(1, 13)]
    assert [entry["cos_memory"] is not None for entry in entries] == [step > 5 for step in range(1, 13)]
    assert [("drift" in entry) for entry in entries] == [step % 4 == 0 for step in range(1, 13)]
    assert entries[3]["drift"] is None
    assert 0 < entries[7]["drift"] < 4
    assert entries[0]["lr"] == pytest.approx(0.01)
    assert entries[-1]["loss"] < entries[0]["loss"]
    backbone, card = load_model(folder)
    assert card.step == 12
    assert card.identities == 12
    assert card.pictures == 48
    assert card.preprocessing.color == "rgb"
    for kept, average in zip(backbone.state_dict().values(), run.average.module.state_dict().values(), strict=True):
        assert torch.equal(kept, average)
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["torch"].startswith("2.")
    assert environment["steps"] == 12
    assert list((folder / "tensorboard").iterdir())
    if os.name == "posix":
        private = [folder / "identities.json", *(folder / "checkpoints").glob("step-*")]
        assert [path.stat().st_mode & 0o777 for path in private] == [0o600, *[0o700] * (len(private) - 1)]
        assert len(private) > 1


def test_killed_and_resumed_is_the_run_that_was_never_killed(faces, tmp_path):
    whole = train(settings(faces, tmp_path / "a"))
    config = settings(faces, tmp_path / "b")
    script = textwrap.dedent("""
        import os, signal, sys
        from vplface.config import read_config
        from vplface.training.train import train
        from vplface.training.trainer import Trainer
        step = Trainer.train_step
        def killed(trainer, *rest, **options):
            if trainer.run.step == 8:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(trainer, *rest, **options)
        Trainer.train_step = killed
        import torch; torch.set_num_threads(1)
        train(read_config(sys.argv[1]))
    """)
    recipe = tmp_path / "c.yaml"
    recipe.write_text(config.to_yaml(), encoding="utf-8")
    killed = subprocess.run([sys.executable, "-c", script, str(recipe)], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert journal(tmp_path / "b" / "run")[-1]["step"] == 8
    resumed = train(config, resume=True)
    assert journal(tmp_path / "b" / "run") == journal(tmp_path / "a" / "run")
    for a, b in zip(whole.backbone.state_dict().values(), resumed.backbone.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for key, value in whole.head.state_dict().items():
        assert torch.equal(value, resumed.head.state_dict()[key]), key


def test_workers_do_not_change_the_run(faces, tmp_path):
    config = settings(faces, tmp_path / "a", schedule={"length": 4, "warmup": 1})
    train(config)
    data = config.model_dump(mode="json")["data"] | {"workers": 2}
    train(settings(faces, tmp_path / "b", schedule={"length": 4, "warmup": 1}, data=data))
    assert journal(tmp_path / "a" / "run") == journal(tmp_path / "b" / "run")


def test_accumulation_is_exact_without_batch_statistics(faces, tmp_path):
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


ALL_TERMS = ["unitsface", "unpg", {"name": "xbm", "size": 20, "start": 2}, {"name": "epl", "start": "1 epochs"}]


@pytest.mark.parametrize(
    "changes",
    [
        {"terms": ALL_TERMS},
        {"terms": ALL_TERMS, "optimizer": {"lr": 0.02, "clip": None, "fused": True}},
        {"terms": [{"name": "broadface", "size": 20, "start": 1}], "variational": None},
    ],
    ids=["all", "fused", "broadface"],
)
def test_terms_are_logged_and_resumed(faces, tmp_path, changes, monkeypatch):

    whole = train(settings(faces, tmp_path / "whole", **changes))
    step = Trainer.train_step

    def stopped(trainer, *rest, **options):
        if trainer.run.step == 8:
            raise KeyboardInterrupt
        return step(trainer, *rest, **options)

    monkeypatch.setattr(Trainer, "train_step", stopped)
    again = settings(faces, tmp_path / "again", **changes)
    with pytest.raises(KeyboardInterrupt):
        train(again)
    monkeypatch.undo()
    resumed = train(again, resume=True)
    assert any(key.startswith("terms.") for key in whole.head.state_dict())
    for key, value in whole.head.state_dict().items():
        assert torch.equal(value, resumed.head.state_dict()[key]), key
    logged = {key for key in journal(tmp_path / "whole" / "run")[-2] if key.startswith("terms/")}
    assert logged == {f"terms/{name}" for name in whole.head.terms}


def test_fused_prototypes_train_as_the_others(faces, tmp_path):
    # Few steps: later an activation beside zero changes its sign by rounding, and the two runs part.
    few = {"schedule": {"length": 4, "warmup": 2}, "variational": {"lam": 0.3, "delta_t": 3, "start": 1}}
    options = {"lr": 0.02, "clip": None}
    plain = train(settings(faces, tmp_path / "plain", optimizer=options, **few))
    fused = train(settings(faces, tmp_path / "fused", optimizer={**options, "fused": True}, **few))
    assert fused.head.weight.grad is None or "used up" in repr(fused.head.weight.grad)
    torch.testing.assert_close(fused.head.weight, plain.head.weight, rtol=1e-4, atol=1e-5)
    lines = [journal(tmp_path / name / "run") for name in ("plain", "fused")]
    assert lines[0][-1]["coverage"] > 0
    losses = [[line["loss"] for line in each] for each in lines]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_fused_prototypes_resume(faces, tmp_path, monkeypatch):
    changes = {"optimizer": {"lr": 0.02, "clip": None, "fused": True}}
    whole = train(settings(faces, tmp_path / "whole", **changes))
    step = Trainer.train_step

    def stopped(trainer, *rest, **options):
        if trainer.run.step == 8:
            raise KeyboardInterrupt
        return step(trainer, *rest, **options)

    monkeypatch.setattr(Trainer, "train_step", stopped)
    again = settings(faces, tmp_path / "again", **changes)
    with pytest.raises(KeyboardInterrupt):
        train(again)
    monkeypatch.undo()
    resumed = train(again, resume=True)
    for key, value in whole.head.state_dict().items():
        assert torch.equal(value, resumed.head.state_dict()[key]), key
    momentum = [run.head.optimizer.state_dict()["state"][0]["momentum_buffer"] for run in (whole, resumed)]
    assert torch.equal(*momentum)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"fused": True}}, "clip: null"),
        ({"optimizer": {"fused": True, "clip": None, "name": "adamw"}}, "name: sgd"),
        ({"optimizer": {"fused": True, "clip": None}, "accumulate": 2}, "accumulate: 1"),
    ],
)
def test_what_fused_prototypes_cannot_do_is_refused(faces, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(faces, tmp_path, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"name": "adamw", "lr": 1e-3, "clip": None}},
        {"precision": "bfloat16"},
        {"variational": None, "ema": None},
        {"margin": {"name": "normsoftmax", "scale": 16}},
        {"schedule": {"name": "step", "length": 6, "milestones": [2, 4], "warmup": 0}},
    ],
)
def test_options_train(faces, tmp_path, changes):
    run = train(settings(faces, tmp_path, **{"schedule": {"length": 6, "warmup": 1}, **changes}))
    assert run.step == 6
    assert all(np.isfinite(entry["loss"]) for entry in journal(tmp_path / "run"))


def test_validation_keeps_the_best_model_beside_the_last(faces, tmp_path):
    data = {"train": str(faces), "workers": 0, "holdout": 0.5}
    train(settings(faces, tmp_path, data=data, evaluation={"every": 4, "fars": [0.1], "best": "holdout/tar@far=1e-1"}))
    values = [
        entry["validation"]["holdout"]["tar@far=1e-1"] for entry in journal(tmp_path / "run") if "validation" in entry
    ]
    assert len(values) == 3
    _, card = load_model(tmp_path / "run" / "best")
    assert card.step == 4 * (1 + int(np.argmax(values)))
    assert card.identities == 6


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_two_processes_do_not_train_in_one_folder(faces, tmp_path, monkeypatch, options):
    monkeypatch.setattr(claim, "LOCK_PATIENCE", 0.1)
    config = settings(faces, tmp_path, schedule={"length": 2, "warmup": 0})
    train(config)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with filelock.FileLock(tmp_path / "run" / ".lock"), pytest.raises(DataError, match="another process is training"):
        train(config, **options)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    train(config, overwrite=True)


def test_a_run_is_not_overwritten_unasked(faces, tmp_path):
    config = settings(faces, tmp_path, schedule={"length": 2, "warmup": 0})
    with pytest.raises(ConfigError, match="no whole checkpoint to resume from"):
        train(config, resume=True)
    assert not (tmp_path / "run").exists()
    train(config)
    with pytest.raises(ConfigError, match="already holds a run"):
        train(config)
    with pytest.raises(ConfigError, match="trained with another batch_size, seed"):
        train(settings(faces, tmp_path, schedule={"length": 2, "warmup": 0}, seed=1, batch_size=8), resume=True)
    train(settings(faces, tmp_path, schedule={"length": 3, "warmup": 0}), overwrite=True)
    assert [entry["step"] for entry in journal(tmp_path / "run")] == [1, 2, 3]


def test_a_run_that_starts_anew_leaves_nothing_of_the_earlier_one(faces, tmp_path):
    data = {"train": str(faces), "workers": 0, "holdout": 0.5}
    validated = {"every": 1, "fars": [0.1], "best": "holdout/tar@far=1e-1"}
    few = {"schedule": {"length": 2, "warmup": 0}, "loggers": []}
    train(settings(faces, tmp_path, data=data, evaluation=validated, **few))
    folder = tmp_path / "run"
    for name in ("evaluation.json", "sphere.npz", "report.html", "operating_point.json", "mine.txt"):
        (folder / name).write_text("of before")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert folder / "best/model.json" in before
    train(settings(faces, tmp_path, variational=None, **few), overwrite=True)
    assert {path.name for path, content in before.items() if path.exists() and path.read_bytes() == content} == {
        "mine.txt"
    }
    assert not (folder / "best").exists()


def test_what_is_asked_may_change_when_a_run_goes_on_and_what_is_trained_may_not(faces, tmp_path):
    data = {"train": str(faces), "workers": 0, "holdout": 0.5}
    asked = {"every": 1, "fars": [0.1], "best": "holdout/rank-1"}
    train(
        settings(faces, tmp_path, data=data, evaluation=asked, schedule={"length": 3, "warmup": 0}, checkpoint_every=1)
    )
    checkpoints = sorted((tmp_path / "run/checkpoints").glob("step-*"))
    shutil.rmtree(checkpoints[-1])
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    changes = ("evaluation.best=holdout/auc", "data.workers=1", "evaluation.fars=[0.2]")
    again = read_config(tmp_path / "elsewhere", changes)
    resumed = train(again, resume=True)
    assert not (tmp_path / "run").exists()
    last = [line["validation"] for line in journal(tmp_path / "elsewhere") if "validation" in line][-1]
    assert resumed.best == last["holdout"]["auc"]
    for change, key in (("evaluation.seed=5", "evaluation.seed"), ("optimizer.lr=1", "optimizer.lr")):
        with pytest.raises(ConfigError, match=f"was trained with another {key};"):
            train(read_config(tmp_path / "elsewhere", [change]), resume=True)


def test_a_name_that_is_no_text_is_read_back_as_it_was(tmp_path):
    write_json(tmp_path / "a.json", {"name": "caf\udce9, café"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "caf\udce9, café"}
    assert b"caf\\udce9, caf\xc3\xa9" in (tmp_path / "a.json").read_bytes()


def test_what_cannot_start_leaves_the_earlier_run_as_it_was(faces, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    train(settings(faces, tmp_path, schedule={"length": 2, "warmup": 0}))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for changes, fault in (
        ({"data": {"train": str(tmp_path / "nowhere")}}, DataError),
        ({"backbone": {"name": "tiny", "weights": str(tmp_path / "none.pth")}}, VplfaceError),
        ({"init_from": str(tmp_path / "nobody")}, DataError),
        ({"evaluation": {"sets": [{"name": "a", "path": str(tmp_path / "nowhere")}]}}, DataError),
        ({"loggers": ["wandb", "tensorboard"]}, VplfaceError),
    ):
        with pytest.raises(fault):
            train(settings(faces, tmp_path, **changes), overwrite=True)
        assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_run_may_start_from_the_one_that_it_replaces(faces, tmp_path):
    first = train(settings(faces, tmp_path, schedule={"length": 2, "warmup": 0}))
    again = {"schedule": {"length": 1, "warmup": 0}, "optimizer": {"lr": 1e-9}, "init_from": tmp_path / "run"}
    second = train(settings(faces, tmp_path, **again), overwrite=True)
    torch.testing.assert_close(second.head.weight, first.head.weight, atol=1e-6, rtol=0)


def test_divergence_stops_with_step_cause_and_checkpoint(faces, tmp_path, monkeypatch):
    config = settings(faces, tmp_path)
    original = torch.optim.SGD.step

    def poisoned(self, *args):
        original(self, *args)
        poisoned.steps += 1
        if poisoned.steps == 7:
            next(iter(self.param_groups[0]["params"])).data.fill_(float("nan"))

    poisoned.steps = 0
    monkeypatch.setattr(torch.optim.SGD, "step", poisoned)
    with pytest.raises(TrainingError, match=r"step 8: embeddings of sample 0 is NaN.*stem.*step-00000005.*lr"):
        train(config)
    monkeypatch.undo()
    assert train(config, resume=True).step == 12


def test_an_infinite_learning_rate_ruins_nothing(faces, tmp_path):
    config = settings(faces, tmp_path, optimizer={"lr": float("inf")}, schedule={"length": 12, "warmup": 0})
    with pytest.raises(TrainingError, match="diverged at step 1: the learning rate is inf; no checkpoint had been"):
        train(config)
    stored = load_file(config.run_folder / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in stored.values())
    assert json.loads((config.run_folder / "model.json").read_text())["step"] == 0


def test_an_infinite_loss_is_told_from_broken_embeddings(faces, tmp_path, monkeypatch):
    infinite = lambda features, *rest, **options: features.sum() * float("inf")  # noqa: E731
    monkeypatch.setattr(tiled, "margin_softmax", infinite)
    with pytest.raises(
        TrainingError, match=r"step 1: the loss is .* although all embeddings are finite; no checkpoint"
    ):
        train(settings(faces, tmp_path))


@pytest.mark.parametrize(
    ("labels", "width", "fault"),
    [(99, 8, r"label 99 of sample 0 is not a class id in \[0, \d+\)"), (0, 4, r"embeddings must be \[batch ≥ 1, 8\]")],
)
def test_train_reports_a_ValueError_of_the_head_as_what_it_is(faces, tmp_path, monkeypatch, labels, width, fault):
    step = Trainer.train_step

    def refused(trainer, batch, **options):
        if trainer.run.step == 6:
            backbone = trainer.network
            trainer.network = lambda inputs: backbone(inputs)[:, :width]
            batch = dataclasses.replace(batch, labels=torch.full_like(batch.labels, labels))
        return step(trainer, batch, **options)

    monkeypatch.setattr(Trainer, "train_step", refused)
    with pytest.raises(TrainingError, match=rf"refused the batch of step 7: {fault}.*step-00000005") as caught:
        train(settings(faces, tmp_path, loggers=[]))
    assert "diverged" not in str(caught.value)
    assert "optimizer.lr" not in str(caught.value)


def test_running_out_of_memory_gives_advice(faces, tmp_path, monkeypatch):
    def hungry(*args, **options):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Trainer, "train_step", hungry)
    with pytest.raises(TrainingError, match=r"batch of 16 in more parts \(accumulate=2"):
        train(settings(faces, tmp_path))


def test_ctrl_c_saves_and_says_how_to_go_on(faces, tmp_path, monkeypatch):

    step = Trainer.train_step

    def interrupted(trainer, *rest, **options):
        if trainer.run.step == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer, *rest, **options)

    config = settings(faces, tmp_path / "b")
    monkeypatch.setattr(Trainer, "train_step", interrupted)
    with pytest.raises(TrainingInterrupted, match=r"after step 7 of 12.*vplface train .*run --resume"):
        train(config)
    monkeypatch.undo()
    train(settings(faces, tmp_path / "a"))
    train(config, resume=True)
    assert journal(tmp_path / "a" / "run") == journal(tmp_path / "b" / "run")


def test_unreadable_pictures_are_counted_and_skipped(faces, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(faces, broken)
    (broken / "p0" / "3.png").write_bytes(b"no picture")
    train(settings(broken, tmp_path, schedule={"length": "2 epochs", "warmup": 0}))
    assert journal(tmp_path / "run")[-1]["unreadable"] == 1


def test_a_set_of_broken_pictures_is_refused(tmp_path):
    for person in ("a", "b"):
        (tmp_path / "faces" / person).mkdir(parents=True)
        (tmp_path / "faces" / person / "1.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match="none of the pictures can be read"):
        train(settings(tmp_path / "faces", tmp_path))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": {"train": "/nowhere"}}, DataError, "/nowhere"),
        ({"device": "tpu9"}, ConfigError, "tpu9"),
        ({"schedule": {"length": 0}}, ConfigError, "schedule.length"),
        ({"backbone": {"name": "tinny"}}, ConfigError, "tiny"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_with_its_key(faces, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        build_run(settings(faces, tmp_path, **changes))


def test_one_identity_is_not_enough(faces, tmp_path):
    people = tmp_path / "people.txt"
    people.write_text("p1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="at least two"):
        build_run(settings(faces, tmp_path, data={"train": {"path": str(faces), "people": str(people)}}))


def test_pictures_on_a_list_are_left_out(faces, tmp_path):
    (tmp_path / "drop.txt").write_text("p1/0.png\tblurred\np3/3.png\n", encoding="utf-8")
    source = {"path": str(faces), "drop": str(tmp_path / "drop.txt"), "max_pictures": 3}
    config = build_config({"name": "x", "data": {"train": source}}, "test")
    pictures = open_sources(config.data.train)
    assert len(pictures.identities) == 12
    of_p1 = [pictures.name(index) for index in np.flatnonzero(pictures.labels == 1)]
    assert of_p1 == ["p1/1.png", "p1/2.png", "p1/3.png"]
    (tmp_path / "drop.txt").write_text("p1/9.png\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.train\.0: .*'p1/9\.png' for one"):
        open_sources(config.data.train)


def test_people_and_exclude_choose_identities(faces, tmp_path, capsys):
    (tmp_path / "people.txt").write_text("p1\np2\np3\n", encoding="utf-8")
    (tmp_path / "exclude.txt").write_text("p2\n", encoding="utf-8")
    source = {"path": str(faces), "people": str(tmp_path / "people.txt"), "exclude": str(tmp_path / "exclude.txt")}
    assert list(build_run(settings(faces, tmp_path, data={"train": source})).pictures.identities) == ["p1", "p3"]
    everyone = {"path": str(faces), "exclude": str(tmp_path / "exclude.txt")}
    assert len(build_run(settings(faces, tmp_path, data={"train": everyone})).pictures.identities) == 11
    assert capsys.readouterr().err == ""
    (tmp_path / "exclude.txt").write_text("faces/p2\n", encoding="utf-8")
    assert len(build_run(settings(faces, tmp_path, data={"train": everyone})).pictures.identities) == 12
    assert "none of its 1 people is in" in capsys.readouterr().err
    (tmp_path / "exclude.txt").write_text("", encoding="utf-8")
    assert len(build_run(settings(faces, tmp_path, data={"train": everyone})).pictures.identities) == 12
    (tmp_path / "exclude.txt").unlink()
    with pytest.raises(DataError, match=r"exclude\.txt"):
        build_run(settings(faces, tmp_path, data={"train": everyone}))


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 0), ("SIGUSR1", 0), ("SIGINT", 130)])
def test_a_signal_saves_and_says_how_to_go_on(faces, tmp_path, number, status):
    recipe = tmp_path / "c.yaml"
    config = settings(faces, tmp_path / "b", schedule={"length": 3000, "warmup": 2}, checkpoint_every=1000)
    recipe.write_text(config.to_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "vplface", "train", str(recipe)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (tmp_path / "b" / "run" / "metrics.jsonl").exists() or not journal(tmp_path / "b" / "run"):
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(getattr(signal, number))
    output, _ = child.communicate(timeout=60)
    assert child.returncode == status, output
    step = journal(tmp_path / "b" / "run")[-1]["step"]
    assert f"stopped after step {step} of 3000; everything is saved. Go on with: vplface train" in output
    assert "Traceback" not in output
    assert [path.name for path in (tmp_path / "b/run/checkpoints").iterdir()] == [f"step-{step:08d}"]


def test_checkpoints_damaged_twice_are_put_aside_twice(faces, tmp_path, capsys):
    config = settings(faces, tmp_path)
    for _ in range(2):
        train(config, overwrite=True) if not (tmp_path / "run").exists() else train(config, resume=True)
        newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
        (newest / "common.safetensors").write_bytes(b"")
    run = train(config, resume=True)
    assert run.step == 12
    aside = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("damaged-*"))
    assert aside == ["damaged-step-00000012.0", "damaged-step-00000012.1"]
    assert "common.safetensors has 0 bytes" in capsys.readouterr().err


RULES = {"lam": 0.3, "delta_t": {"coverage": 0.8, "drift": 9}, "start": {"drift": 9, "measurements": 2}}


def test_a_run_begins_by_its_rules_and_says_so(faces, tmp_path, capsys):
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


def test_a_run_whose_features_never_settle_begins_late_and_says_so(faces, tmp_path, caplog):
    config = settings(faces, tmp_path, variational={"start": {"drift": 1e-9, "by": 0.5}, "delta_t": 4}, drift_every=2)
    assert train(config).head.begun_at == 6
    assert "although features have not settled" in caplog.text
    assert journal(tmp_path / "run")[5]["begin"]["settled"] is False


def test_what_injection_does_is_in_the_journal(faces, tmp_path):
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
    # One bin an age: between two measurements their mean by samples is the mean over all pictures with a memory.
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


@pytest.mark.parametrize("momentum", [None, 0.8])
@pytest.mark.parametrize("stop", [3, 5, 8])
def test_stopped_and_resumed_by_rules_and_with_momentum(faces, tmp_path, monkeypatch, stop, momentum):
    options = {"variational": {**RULES, "momentum": momentum}, "drift_every": 2, "log_every": 3}
    whole = train(settings(faces, tmp_path / "a", **options))
    config = settings(faces, tmp_path / "b", **options)
    real = Trainer.train_step

    def stopping(trainer, *rest, **options):
        if trainer.run.step == stop - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(trainer, *rest, **options)

    monkeypatch.setattr(Trainer, "train_step", stopping)
    with pytest.raises(TrainingInterrupted):
        train(config)
    monkeypatch.setattr(Trainer, "train_step", real)
    resumed = train(config, resume=True)
    assert journal(tmp_path / "b" / "run") == journal(tmp_path / "a" / "run")
    assert resumed.head.begun_at == whole.head.begun_at == 6
    modules = [(whole.backbone, resumed.backbone), (whole.head, resumed.head)]
    modules += [(whole.encoder, resumed.encoder)] if momentum else []
    for one, other in modules:
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key


DROPPING = {"name": "tiny", "embedding_dim": 8, "options": {"width": 8, "dropout": 0.5}}


def test_the_momentum_encoder_writes_the_memory_and_touches_nothing_else(faces, tmp_path):
    options = {"backbone": DROPPING, "schedule": {"length": 4, "warmup": 1}, "ema": None}
    injection = {"lam": 0.0, "delta_t": 9, "start": 1}  # with λ = 0 the memory does nothing
    without = train(settings(faces, tmp_path / "a", variational=injection, **options))
    with_it = train(settings(faces, tmp_path / "b", variational={**injection, "momentum": 0.75}, **options))
    for key, value in without.backbone.state_dict().items():
        assert torch.equal(value, with_it.backbone.state_dict()[key]), key
    assert torch.equal(without.head.timer, with_it.head.timer)
    assert not torch.allclose(without.head.memory, with_it.head.memory, atol=1e-3)


def test_the_momentum_encoder_by_hand(faces, tmp_path):
    injection = {"lam": 0.3, "delta_t": 9, "start": 0, "momentum": 0.75}
    run = build_run(settings(faces, tmp_path, backbone=DROPPING, variational=injection, ema=None))
    states, trainer = [], Trainer(run, DistributedContext())
    for batch in load_batches(run.pictures, run.batches, Augmentation(), 0, 0, 3, 0):
        before = copy.deepcopy(run.encoder.module)
        trainer.train_step(batch)
        run.step += 1
        states.append(copy.deepcopy(run.backbone.state_dict()))
    for key, kept in before.state_dict().items():  # after two updates, of which the first copies
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


def test_a_start_that_failed_does_not_block_its_name(faces, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.holdout keeps one person aside"):
        train(settings(faces, tmp_path, data={"train": str(faces), "workers": 0, "holdout": 0.1}))
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    config = settings(faces, tmp_path, schedule={"length": 2, "warmup": 1})
    train(config)
    with pytest.raises(ConfigError, match="already holds a run"):
        train(config)


def test_a_stop_is_heard_while_pictures_do_not_come(faces, tmp_path, monkeypatch):
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


def test_too_few_readable_pictures_are_joined_by_those_of_the_next_steps(faces, tmp_path, monkeypatch):
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
    step = Trainer.train_step

    def stopping(trainer, *rest, **options):
        if trainer.run.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *rest, **options)

    monkeypatch.setattr(Trainer, "train_step", stopping)
    with pytest.raises(TrainingInterrupted):
        train(config)
    monkeypatch.setattr(Trainer, "train_step", step)
    resumed = train(
        settings(faces, tmp_path / "b", **options | {"data": {"train": str(faces), "workers": 2}}), resume=True
    )
    assert journal(tmp_path / "b" / "run") == journal(tmp_path / "a" / "run")
    assert torch.equal(whole.head.weight, resumed.head.weight)
    assert len(whole.unreadable) > 10


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 4, "accumulate": 4}, {"accumulate": 9}])
def test_parts_of_one_picture_are_refused_where_there_is_batch_norm(faces, tmp_path, changes):
    for asked in (build_run, plan):
        with pytest.raises(ConfigError, match=r"one picture.*the BatchNorm of backbone tiny.*raise batch_size"):
            asked(settings(faces, tmp_path, **changes))
    plain = {"name": "tiny", "embedding_dim": 8, "options": {"width": 8, "norm": "none"}}
    assert build_run(settings(faces, tmp_path, backbone=plain, **changes)).rate.steps == 12


def test_a_share_of_one_picture_is_refused_as_well(faces, tmp_path):
    for asked in (lambda config: build_run(config, DistributedContext(size=8)), lambda config: plan(config, 8)):
        with pytest.raises(ConfigError, match=r"batches of 16 over 8 processes.*raise batch_size or lower accumulate"):
            asked(settings(faces, tmp_path, accumulate=2))


@pytest.mark.parametrize("error", [MemoryError("no memory"), KeyboardInterrupt(), RuntimeError("a bug"), SystemExit(2)])
def test_any_error_of_the_thread_that_writes_checkpoints_ends_the_run(faces, tmp_path, monkeypatch, error):
    def fails(tensors, path):
        raise error

    monkeypatch.setattr(checkpoint, "save_file", fails)
    with pytest.raises(DataError, match=f"a checkpoint could not be written.*{type(error).__name__}"):
        train(settings(faces, tmp_path, checkpoint_every=1))


def test_without_another_thread_checkpoints_are_written_in_this_one(faces, tmp_path, monkeypatch):
    class NoThread(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(checkpoint, "threading", SimpleNamespace(Thread=NoThread, Event=threading.Event))
    run = train(settings(faces, tmp_path, loggers=[]))
    assert checkpoint_manifest.newest_checkpoint(tmp_path / "run/checkpoints")[0].name == f"step-{run.step:08d}"


RUINED = {"sgd": {"lr": 1e30}, "adamw": {"lr": 1e30}, "head alone": {"head_lr_scale": 1e38}}


@pytest.mark.parametrize("changes", RUINED.values(), ids=RUINED)
def test_weights_that_are_not_finite_are_never_kept(faces, tmp_path, request, changes):
    name = "adamw" if "adamw" in request.node.name else "sgd"
    options = {"checkpoint_every": 1, "checkpoints_kept": 9, "loggers": [], "ema": None}
    config = settings(faces, tmp_path, optimizer={"name": name, "clip": None}, **options)
    absurd = config.optimizer.model_copy(update=changes)  # more than a recipe may ask for
    config = config.model_copy(update={"optimizer": absurd})
    with pytest.raises(TrainingError, match=r"diverged at step \d+"):
        train(config)
    for path in (tmp_path / "run").rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path


@pytest.mark.parametrize("part", ["weights", "momentum", "memory", "average"])
def test_no_part_of_a_checkpoint_may_be_infinite(faces, tmp_path, monkeypatch, part):
    step = Trainer.train_step

    def ruins(trainer, *rest, **options):
        found = step(trainer, *rest, **options)
        if trainer.run.step == 6:
            ruined = {
                "weights": next(trainer.run.backbone.parameters()),
                "momentum": trainer.run.optimizer.state[trainer.run.head.weight]["momentum_buffer"],
                "memory": trainer.run.head.memory,
                "average": next(trainer.run.average.module.parameters()),
            }[part]
            ruined.data[(0,) * ruined.ndim] = float("inf")
        return found

    monkeypatch.setattr(Trainer, "train_step", ruins)
    with pytest.raises(TrainingError, match=r"diverged at step 7.*last good checkpoint is .*step-00000006"):
        train(settings(faces, tmp_path, checkpoint_every=1, loggers=[]))
    assert load_model(tmp_path / "run")[1].step == 6


def stopped_run(faces, tmp_path, monkeypatch):
    """A run of twelve steps that was stopped after the sixth."""
    config, step = settings(faces, tmp_path, loggers=[]), Trainer.train_step

    def stopping(trainer, *rest, **options):
        if trainer.run.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopping)
        with pytest.raises(TrainingInterrupted):
            train(config)
    return config


def test_an_edited_config_is_compared_with_what_the_checkpoint_was_trained_with(faces, tmp_path, monkeypatch):
    stopped_run(faces, tmp_path, monkeypatch)
    stored = tmp_path / "run" / "config.yaml"
    edited = stored.read_text().replace("lr: 0.02", "lr: 0.5").replace("seed: 0", "seed: 3", 1)
    assert edited != stored.read_text()
    stored.write_text(edited)
    with pytest.raises(ConfigError, match=r"another optimizer\.lr.*--resume optimizer\.lr=0\.02"):
        train(read_config(tmp_path / "run"), resume=True)
    as_it_was = read_config(tmp_path / "run", ["optimizer.lr=0.02", "seed=0", "evaluation.seed=0"])
    assert train(as_it_was, resume=True).step == 12


@pytest.mark.parametrize("damage", ["emptied", "missing", "not text"])
def test_a_run_with_damaged_small_files_goes_on(faces, tmp_path, monkeypatch, damage):
    config = stopped_run(faces, tmp_path, monkeypatch)
    for name in ("config.yaml", "identities.json", "environment.json", "loggers.json"):
        path = tmp_path / "run" / name
        if damage == "missing":
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(b"" if damage == "emptied" else b"\xff[[[")
    restore_config(tmp_path / "run")
    assert train(read_config(tmp_path / "run"), resume=True).step == 12
    assert read_config(tmp_path / "run").optimizer == config.optimizer
    assert len(json.loads((tmp_path / "run/identities.json").read_text())) == 12


def test_a_checkpoint_that_does_not_know_its_configuration_is_compared_with_the_folders(faces, tmp_path, monkeypatch):
    config = stopped_run(faces, tmp_path, monkeypatch)
    manifest = checkpoint_manifest.newest_checkpoint(tmp_path / "run/checkpoints")[0] / "manifest.json"
    told = json.loads(manifest.read_text())
    for key in ("config", "data", "sha256"):
        del told[key]
    manifest.write_text(json.dumps(told | {"sha256": checkpoint_manifest.manifest_digest(told)}))
    with pytest.raises(ConfigError, match=r"another optimizer\.lr"):
        train(settings(faces, tmp_path, optimizer={"lr": 0.5}), resume=True)
    assert train(config, resume=True).step == 12


def test_what_killed_processes_left_is_taken_away(faces, tmp_path):
    config, folder = settings(faces, tmp_path, loggers=[]), tmp_path / "run"
    train(config)
    left = [".model.safetensors.ab12_xyz.safetensors", ".model.json.tmp-0123456789ab.json"]
    for name in left:
        (folder / name).write_bytes(b"half")
    (folder / ".mine.settings.yaml").write_text("keep me")
    train(config, resume=True)
    assert not any((folder / name).exists() for name in left)
    assert (folder / ".mine.settings.yaml").exists()


def test_a_journal_on_a_full_disk_keeps_its_message(tmp_path):
    class Silent:
        def log(self, *of):
            pass

    journal = Journal(tmp_path / "metrics.jsonl", 0, Silent())
    journal._file.close()
    journal._file = open("/dev/full", "a", encoding="utf-8")  # noqa: PTH123, SIM115
    with pytest.raises(DataError, match=r"cannot write .*metrics\.jsonl: No space left"), journal:
        journal.write({"step": 1})
    journal = Journal(tmp_path / "metrics.jsonl", 0, Silent())
    journal._file.close()
    journal._file = open("/dev/full", "a", encoding="utf-8")  # noqa: PTH123, SIM115
    with pytest.raises(DataError, match=r"cannot write .*metrics\.jsonl: No space left"), journal:
        journal._file.write("not flushed")


def test_a_journal_that_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(DataError, match="not a regular file"):
        Journal(tmp_path / "metrics.jsonl", 3, None)
