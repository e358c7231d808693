"""Loggers of a run, with stand-ins for the packages, and with the packages where they are installed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vplface.config import Config, build_config
from vplface.errors import ConfigError, MissingExtraError
from vplface.study.single import finish, measure
from vplface.training.loggers import KINDS, Loggers
from vplface.training.train import train


def settings(faces: Path, output: Path, **changes: Any) -> Config:
    raw = {
        "name": "run",
        "output": str(output),
        "data": {"train": str(faces), "workers": 0, "holdout": 0.4},
        "backbone": {"name": "tiny", "embedding_dim": 8, "options": {"width": 8}},
        "schedule": {"length": 6, "warmup": 1},
        "batch_size": 16,
        "evaluation": {"bootstrap": 0, "fars": [0.1], "every": 3},
        "log_every": 2,
        "checkpoint_every": 3,
    }
    return build_config({**raw, **changes}, "test")


class Recorded:
    """A logger that records what it receives, and fails from a given step on."""

    made: list[Recorded]
    identity = None
    fails_from = 10**9

    def __init__(self, config: Config, first_step: int, known: str | None) -> None:
        self.first_step, self.told, self.closed = first_step, {}, None
        Recorded.made.append(self)

    def log(self, numbers: Any, step: int) -> None:
        if step >= self.fails_from:
            raise OSError("the network is gone\nand more")
        self.told.setdefault(step, {}).update(numbers)

    def close(self, failed: bool) -> None:
        self.closed = failed


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    monkeypatch.setattr(Recorded, "made", [], raising=False)
    monkeypatch.setitem(KINDS, "wandb", Recorded)
    return Recorded


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_Loggers_receive_every_number_of_the_journal_and_the_final_evaluation(faces, tmp_path, recorded) -> None:
    config = settings(faces, tmp_path, loggers=["wandb"])
    finish(config)
    training, final = recorded.made
    lines = journal(tmp_path / "run")
    assert [line["loss"] for line in lines if "loss" in line] == [training.told[step]["loss"] for step in (2, 4, 6)]
    validation = next(line["validation"] for line in lines if "validation" in line)
    assert training.told[3]["validation/holdout/rank-1"] == validation["holdout"]["rank-1"]
    assert "step" not in training.told[2]
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert final.first_step == 6
    assert final.told[6]["evaluation/holdout/rank-1"] == evaluation["holdout"]["metrics"]["rank-1"]["value"]
    assert (training.closed, final.closed) == (False, False)
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_Loggers_drop_a_failing_logger_with_a_warning_and_training_continues(
    faces, tmp_path, recorded, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(recorded, "fails_from", 3)
    finish(settings(faces, tmp_path, loggers=["tensorboard", "wandb"]))
    said = capsys.readouterr().err
    assert said.count("loggers: wandb is disabled from now on: the network is gone; metrics.jsonl") == 2
    assert "and more" not in said
    assert list(recorded.made[0].told) == [2]
    assert len([line for line in journal(tmp_path / "run") if "loss" in line]) == 3
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_Loggers_refuse_an_unusable_logger_only_before_the_first_step(
    faces, tmp_path, recorded, monkeypatch, capsys
) -> None:
    def refuse(config: Config, first_step: int, known: str | None) -> None:
        raise OSError("no such host")

    config = settings(faces, tmp_path, loggers=["wandb", "mlflow"])
    monkeypatch.setitem(KINDS, "mlflow", refuse)
    with pytest.raises(ConfigError, match=r"loggers: mlflow cannot be used: no such host; fix that, or remove it"):
        train(config)
    assert recorded.made[0].closed is True
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    with Loggers(config, 3) as loggers:
        loggers.log({"loss": 1.0}, 4)
    assert recorded.made[1].told == {4: {"loss": 1.0}}
    assert "mlflow is disabled from now on: no such host" in capsys.readouterr().err


def test_Loggers_close_as_failed_after_an_exception(faces, tmp_path, recorded) -> None:
    with pytest.raises(ZeroDivisionError), Loggers(settings(faces, tmp_path, loggers=["wandb"]), 0):
        raise ZeroDivisionError
    assert recorded.made[0].closed is True


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_Loggers_name_the_missing_extra(faces, tmp_path, monkeypatch, name) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'vplface\[{name}\]'"):
        Loggers(settings(faces, tmp_path, loggers=[name]), 0)


def stand_in_for_wandb(mode: str, key: bool) -> tuple[Any, dict[str, Any]]:
    seen: dict[str, Any] = {"inits": [], "logged": []}
    run = SimpleNamespace(
        url=None,
        dir="there",
        define_metric=lambda *given, **named: None,
        log=seen["logged"].append,
        finish=lambda exit_code: seen.update(exit_code=exit_code),
    )

    def login(prompt: bool = True, verify: bool = True) -> bool:
        assert not prompt
        assert not verify
        return key

    def init(**given: Any) -> Any:
        seen["inits"].append(given)
        return run

    setup = SimpleNamespace(settings=SimpleNamespace(mode=mode))
    return SimpleNamespace(setup=lambda: setup, login=login, init=init, Settings=lambda **given: given), seen


def test_train_refuses_wandb_without_an_api_key(faces, tmp_path, monkeypatch) -> None:
    module, seen = stand_in_for_wandb("online", key=False)
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(ConfigError, match=r"run `wandb login` once, or set WANDB_MODE=offline"):
        train(settings(faces, tmp_path, loggers=["wandb"]))
    assert seen["inits"] == []


@pytest.mark.parametrize(("mode", "key"), [("offline", False), ("online", True)])
def test_Loggers_resume_the_same_run_in_wandb(faces, tmp_path, monkeypatch, mode, key) -> None:
    module, seen = stand_in_for_wandb(mode, key)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_PROJECT", "faces")
    config = settings(faces, tmp_path, loggers=["wandb"])
    config.run_folder.mkdir()
    for first_step in (0, 3):
        with Loggers(config, first_step) as loggers:
            loggers.log({"loss": 2.0, "begin": {"settled": True}, "drift": None}, first_step + 1)
    first, second = seen["inits"]
    assert first["id"] == second["id"] == json.loads((config.run_folder / "loggers.json").read_text())["wandb"]
    assert (first["resume"], first["project"], first["name"]) == ("allow", "faces", "run")
    assert first["config"]["schedule"]["length"] == "6 steps"
    assert seen["logged"][1] == {"loss": 2.0, "begin/settled": 1.0, "step": 4}
    assert seen["exit_code"] == 0


@pytest.fixture
def wandb() -> Iterator[Any]:
    """W&B itself, which reads the environment once a process unless it is torn down."""
    module = pytest.importorskip("wandb", reason="needs vplface[wandb]")
    module.teardown()
    yield module
    module.teardown()


def test_Loggers_write_offline_runs_with_the_wandb_package(faces, tmp_path, monkeypatch, wandb) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = settings(faces, tmp_path, loggers=["wandb"])
    finish(config)
    (name,) = json.loads((config.run_folder / "loggers.json").read_text()).values()
    parts = list((config.run_folder / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert len(parts) == 2
    assert all(part.stat().st_size > 0 for part in parts)


def test_train_refuses_the_wandb_package_without_an_api_key(faces, tmp_path, monkeypatch, wandb) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"run `wandb login` once, or set WANDB_MODE=offline"):
        train(settings(faces, tmp_path, loggers=["wandb"]))


def test_Loggers_write_a_run_to_a_folder_with_the_mlflow_package(faces, tmp_path, monkeypatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs vplface[mlflow]")
    for variable in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(variable)
    config = settings(faces, tmp_path / "runs", loggers=["mlflow"])
    finish(config)
    (name,) = json.loads((config.run_folder / "loggers.json").read_text()).values()
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "runs" / "mlruns").as_uri())
    run = client.get_run(name)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params["backbone.options.width"] == "8"
    losses = [line["loss"] for line in journal(config.run_folder) if "loss" in line]
    assert [each.value for each in client.get_metric_history(name, "loss")] == losses
    value = json.loads((config.run_folder / "evaluation.json").read_text())["holdout"]["metrics"]["tar@far=1e-1"]
    assert run.data.metrics["evaluation/holdout/tar_far_1e-1"] == value["value"]
    measure(config)
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_train_refuses_an_mlflow_server_that_does_not_answer(faces, tmp_path, monkeypatch) -> None:
    pytest.importorskip("mlflow", reason="needs vplface[mlflow]")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ConfigError, match=r"loggers: mlflow cannot be used: .*127\.0\.0\.1"):
        train(settings(faces, tmp_path, loggers=["mlflow"]))
