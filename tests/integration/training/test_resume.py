"""Resumed runs equal uninterrupted ones and require the same configuration and data."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from helpers.small_runs import before_step, cut_off, interrupt_by, journal, settings, stopped_run
from vplface.config import read_config
from vplface.errors import ConfigError, TrainingInterrupted
from vplface.training import checkpoint_manifest
from vplface.training.resume import restore_config
from vplface.training.train import train


def test_train_resume_after_a_kill_equals_an_uninterrupted_run(faces, tmp_path):
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
def test_train_resume_with_terms_is_exact(faces, tmp_path, changes, monkeypatch):

    whole = train(settings(faces, tmp_path / "whole", **changes))
    before_step(monkeypatch, 9, cut_off)
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


def test_train_resume_with_fused_prototypes_is_exact(faces, tmp_path, monkeypatch):
    changes = {"optimizer": {"lr": 0.02, "clip": None, "fused": True}}
    whole = train(settings(faces, tmp_path / "whole", **changes))
    before_step(monkeypatch, 9, cut_off)
    again = settings(faces, tmp_path / "again", **changes)
    with pytest.raises(KeyboardInterrupt):
        train(again)
    monkeypatch.undo()
    resumed = train(again, resume=True)
    for key, value in whole.head.state_dict().items():
        assert torch.equal(value, resumed.head.state_dict()[key]), key
    momentum = [run.head.optimizer.state_dict()["state"][0]["momentum_buffer"] for run in (whole, resumed)]
    assert torch.equal(*momentum)


@pytest.mark.parametrize("before", [False, True])
def test_resume_may_change_where_the_momentum_of_prototypes_is_kept(faces, tmp_path, monkeypatch, before):
    changes = {"schedule": {"length": 6, "warmup": 2}, "checkpoint_every": 3}
    one, other = (
        settings(faces, tmp_path / "run", optimizer={"lr": 0.02, "clip": 0.5, "fused": fused}, **changes)
        for fused in (before, not before)
    )
    whole = train(settings(faces, tmp_path / "whole", optimizer={"lr": 0.02, "clip": 0.5, "fused": before}, **changes))
    before_step(monkeypatch, 4, cut_off)
    with pytest.raises(KeyboardInterrupt):
        train(one)
    monkeypatch.undo()
    resumed = train(other, resume=True)
    assert (resumed.head.optimizer is None) is before
    torch.testing.assert_close(resumed.head.weight, whole.head.weight, rtol=1e-4, atol=1e-5)
    states = [(run.head.optimizer or run.optimizer).state[run.head.weight] for run in (whole, resumed)]
    torch.testing.assert_close(*(state["momentum_buffer"] for state in states), rtol=1e-3, atol=1e-4)


def test_resume_refuses_another_update_of_classes_that_are_not_drawn(faces, tmp_path):
    changes = {"schedule": {"length": 2, "warmup": 1}, "sample_rate": 0.5}
    train(settings(faces, tmp_path, optimizer={"lr": 0.02, "fused": False}, **changes))
    with pytest.raises(ConfigError, match=r"another optimizer\.fused"):
        train(settings(faces, tmp_path, optimizer={"lr": 0.02, "fused": True}, **changes), resume=True)


RULES = {"lam": 0.3, "delta_t": {"coverage": 0.8, "drift": 9}, "start": {"drift": 9, "measurements": 2}}


@pytest.mark.parametrize("momentum", [None, 0.8])
@pytest.mark.parametrize("stop", [3, 5, 8])
def test_train_resume_with_rules_and_momentum_is_exact(faces, tmp_path, monkeypatch, stop, momentum):
    options = {"variational": {**RULES, "momentum": momentum}, "drift_every": 2, "log_every": 3}
    whole = train(settings(faces, tmp_path / "a", **options))
    config = settings(faces, tmp_path / "b", **options)
    before_step(monkeypatch, stop, interrupt_by(signal.SIGTERM))
    with pytest.raises(TrainingInterrupted):
        train(config)
    monkeypatch.undo()
    resumed = train(config, resume=True)
    assert journal(tmp_path / "b" / "run") == journal(tmp_path / "a" / "run")
    assert resumed.head.begun_at == whole.head.begun_at == 6
    modules = [(whole.backbone, resumed.backbone), (whole.head, resumed.head)]
    modules += [(whole.encoder, resumed.encoder)] if momentum else []
    for one, other in modules:
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key


def test_train_resume_accepts_changes_of_evaluation_and_refuses_those_of_training(faces, tmp_path):
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


def test_train_resume_compares_an_edited_config_with_that_of_the_checkpoint(faces, tmp_path, monkeypatch):
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
def test_restore_config_lets_a_run_with_damaged_small_files_resume(faces, tmp_path, monkeypatch, damage):
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


def test_train_resume_compares_with_config_yaml_if_the_checkpoint_has_no_config(faces, tmp_path, monkeypatch):
    config = stopped_run(faces, tmp_path, monkeypatch)
    manifest = checkpoint_manifest.newest_checkpoint(tmp_path / "run/checkpoints")[0] / "manifest.json"
    told = json.loads(manifest.read_text())
    for key in ("config", "data", "sha256"):
        del told[key]
    manifest.write_text(json.dumps(told | {"sha256": checkpoint_manifest.manifest_digest(told)}))
    with pytest.raises(ConfigError, match=r"another optimizer\.lr"):
        train(settings(faces, tmp_path, optimizer={"lr": 0.5}), resume=True)
    assert train(config, resume=True).step == 12
