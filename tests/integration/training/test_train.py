"""Runs of ``train``: files, options and refusals."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch

from helpers.small_runs import journal, settings
from vplface.config import build_config
from vplface.errors import ConfigError, DataError, VplfaceError
from vplface.plan import plan
from vplface.stored_model import load_model
from vplface.training.distributed import DistributedContext
from vplface.training.run_state import build_run
from vplface.training.sources import open_sources
from vplface.training.train import train


def test_train_leaves_journal_models_and_environment(faces, tmp_path):
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
def test_train_completes_with_each_option_and_finite_losses(faces, tmp_path, changes):
    run = train(settings(faces, tmp_path, **{"schedule": {"length": 6, "warmup": 1}, **changes}))
    assert run.step == 6
    assert all(np.isfinite(entry["loss"]) for entry in journal(tmp_path / "run"))


def test_train_does_not_depend_on_the_number_of_workers(faces, tmp_path):
    config = settings(faces, tmp_path / "a", schedule={"length": 4, "warmup": 1})
    train(config)
    data = config.model_dump(mode="json")["data"] | {"workers": 2}
    train(settings(faces, tmp_path / "b", schedule={"length": 4, "warmup": 1}, data=data))
    assert journal(tmp_path / "a" / "run") == journal(tmp_path / "b" / "run")


def test_train_keeps_the_best_model_beside_the_last(faces, tmp_path):
    data = {"train": str(faces), "workers": 0, "holdout": 0.5}
    train(settings(faces, tmp_path, data=data, evaluation={"every": 4, "fars": [0.1], "best": "holdout/tar@far=1e-1"}))
    values = [
        entry["validation"]["holdout"]["tar@far=1e-1"] for entry in journal(tmp_path / "run") if "validation" in entry
    ]
    assert len(values) == 3
    _, card = load_model(tmp_path / "run" / "best")
    assert card.step == 4 * (1 + int(np.argmax(values)))
    assert card.identities == 6


def test_train_that_cannot_start_leaves_the_earlier_run_unchanged(faces, tmp_path, monkeypatch):
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


def test_train_may_start_from_the_run_that_it_replaces(faces, tmp_path):
    first = train(settings(faces, tmp_path, schedule={"length": 2, "warmup": 0}))
    again = {"schedule": {"length": 1, "warmup": 0}, "optimizer": {"lr": 1e-9}, "init_from": tmp_path / "run"}
    second = train(settings(faces, tmp_path, **again), overwrite=True)
    torch.testing.assert_close(second.head.weight, first.head.weight, atol=1e-6, rtol=0)


def test_train_that_failed_to_start_does_not_block_its_name(faces, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.holdout keeps one person aside"):
        train(settings(faces, tmp_path, data={"train": str(faces), "workers": 0, "holdout": 0.1}))
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    config = settings(faces, tmp_path, schedule={"length": 2, "warmup": 1})
    train(config)
    with pytest.raises(ConfigError, match="already holds a run"):
        train(config)


def test_train_counts_and_skips_unreadable_pictures(faces, tmp_path):

    broken = tmp_path / "broken"
    shutil.copytree(faces, broken)
    (broken / "p0" / "3.png").write_bytes(b"no picture")
    train(settings(broken, tmp_path, schedule={"length": "2 epochs", "warmup": 0}))
    assert journal(tmp_path / "run")[-1]["unreadable"] == 1


def test_train_refuses_a_set_of_broken_pictures(tmp_path):
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
def test_build_run_names_the_invalid_setting(faces, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        build_run(settings(faces, tmp_path, **changes))


def test_build_run_refuses_a_set_of_one_identity(faces, tmp_path):
    people = tmp_path / "people.txt"
    people.write_text("p1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="at least two"):
        build_run(settings(faces, tmp_path, data={"train": {"path": str(faces), "people": str(people)}}))


def test_build_config_refuses_an_optimizer_that_fused_prototypes_do_not_support(faces, tmp_path):
    with pytest.raises(ConfigError, match="name: sgd"):
        settings(faces, tmp_path, optimizer={"fused": True, "name": "adamw"})


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 4, "accumulate": 4}, {"accumulate": 9}])
def test_build_run_and_plan_refuse_parts_of_one_picture_with_BatchNorm(faces, tmp_path, changes):
    for asked in (build_run, plan):
        with pytest.raises(ConfigError, match=r"one picture.*the BatchNorm of backbone tiny.*raise batch_size"):
            asked(settings(faces, tmp_path, **changes))
    plain = {"name": "tiny", "embedding_dim": 8, "options": {"width": 8, "norm": "none"}}
    assert build_run(settings(faces, tmp_path, backbone=plain, **changes)).rate.steps == 12


def test_build_run_and_plan_refuse_a_share_of_one_picture_per_process(faces, tmp_path):
    for asked in (lambda config: build_run(config, DistributedContext(size=8)), lambda config: plan(config, 8)):
        with pytest.raises(ConfigError, match=r"batches of 16 over 8 processes.*raise batch_size or lower accumulate"):
            asked(settings(faces, tmp_path, accumulate=2))


def test_open_sources_omits_pictures_on_a_drop_list(faces, tmp_path):
    (tmp_path / "drop.txt").write_text("p1/0.png\tblurred\np3/3.png\n", encoding="utf-8")
    source = {"path": str(faces), "drop": str(tmp_path / "drop.txt"), "max_pictures": 3}
    config = build_config({"name": "x", "data": {"train": source}}, "test")
    pictures = open_sources(config.data.train)
    assert len(pictures.identities) == 12
    of_p1 = [pictures.name(index) for index in np.flatnonzero(pictures.labels == 1)]
    assert of_p1 == ["p1/1.png", "p1/2.png", "p1/3.png"]
    (tmp_path / "drop.txt").write_text("p1/9.png\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.train\.0: .*such as 'p1/9\.png'"):
        open_sources(config.data.train)


def test_open_sources_chooses_identities_by_people_and_exclude(faces, tmp_path, capsys):
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
