"""Runs that are compared with the model that they start from, and that end by validation."""

import json

import pytest
import torch

from helpers.small_runs import before_step, cut_off, journal, settings
from vplface.backbones import build
from vplface.config import read_config
from vplface.errors import ConfigError
from vplface.run_folder import RunFolder
from vplface.stored_model import ModelCard, load_model, save_model
from vplface.study import run
from vplface.training.outputs import RunOutputs
from vplface.training.train import train
from vplface.training.validation import Validation

HELD_OUT = {"every": 4, "bootstrap": 50, "fars": [0.1], "untouched": True}


def finetuned(faces, output, evaluation=HELD_OUT, **changes):
    data = {"train": str(faces), "workers": 0, "holdout": 0.4}
    raw = {"data": data, "evaluation": evaluation, "loggers": [], "ema": None}
    return settings(faces, output, **{**raw, **changes})


def weights(folder):
    return load_model(folder.path)[0].state_dict()


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def validated(folder):
    return [entry["step"] for entry in journal(folder.path) if "validation" in entry]


@pytest.mark.slow
def test_run_that_helps_keeps_the_fine_tuned_model(faces, tmp_path):
    asked = {**HELD_OUT, "every": 20, "sets": [{"name": "people", "path": str(faces)}], "guard": str(faces)}
    config = finetuned(
        faces,
        tmp_path,
        {**asked, "best": "people/tar@far=1e-1"},
        data={"train": str(faces), "workers": 0},
        optimizer={"lr": 0.1},
        schedule={"length": 20, "warmup": 2},
        variational=None,
    )
    done = run(config)
    folder = RunFolder(config.run_folder)
    stored = json.loads(folder.finetuning.read_text())
    assert done.verdict.startswith("Fine-tuning helped: TAR at FAR 10⁻¹ on people +")
    assert "\nThe guard did not measurably fall: " in done.verdict
    assert stored["helped"]
    assert not same(weights(folder.best), weights(folder.untouched))
    assert load_model(folder.best.path)[1].step == stored["step"] > 0
    page = folder.report.read_text(encoding="utf-8")
    assert "Fine-tuned and untouched" in page
    assert "The guard, whose figures must not fall:" in page
    assert done.summary["finetuning"]["helped"]
    assert set(done.summary["differences"]["(fine-tuned)"]) == {"people", "guard"}


@pytest.mark.slow
def test_run_that_changes_nothing_keeps_the_untouched_model(faces, tmp_path):
    config = finetuned(faces, tmp_path, optimizer={"lr": 1e-12}, finetune={"batchnorm": "freeze"})
    done = run(config)
    folder = RunFolder(config.run_folder)
    assert done.verdict.startswith("Fine-tuning did not help: ")
    assert done.verdict.endswith("best/ holds the untouched model.")
    assert same(weights(folder.best), weights(folder.untouched))
    assert load_model(folder.best.path)[1].step == 0


@pytest.mark.slow
def test_train_measures_the_untouched_model_before_reestimation_once(faces, tmp_path, monkeypatch):
    config = finetuned(faces, tmp_path, finetune={"batchnorm": "reestimate"})
    with monkeypatch.context() as patch:
        before_step(patch, 7, cut_off)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    folder = RunFolder(config.run_folder)
    untouched, figures = weights(folder.untouched), folder.untouched.evaluation.read_bytes()
    norm = next(name for name in untouched if name.endswith("running_mean"))
    assert not untouched[norm].any()  # as drawn, not re-estimated
    monkeypatch.setattr(RunOutputs, "measure_untouched", lambda *_, **__: cut_off())
    train(config, resume=True)
    assert validated(folder) == [0, 4, 8, 12]
    assert same(weights(folder.untouched), untouched)
    assert folder.untouched.evaluation.read_bytes() == figures
    whole = finetuned(faces, tmp_path / "whole", finetune={"batchnorm": "reestimate"})
    monkeypatch.undo()
    train(whole)
    assert same(weights(folder), weights(RunFolder(whole.run_folder)))
    assert journal(folder.path) == journal(whole.run_folder)


@pytest.mark.slow
def test_train_measures_the_untouched_model_again_for_another_evaluation(faces, tmp_path):
    train(finetuned(faces, tmp_path))
    other = finetuned(faces, tmp_path, {**HELD_OUT, "bootstrap": 60})
    before = json.loads(RunFolder(other.run_folder).untouched.evaluation.read_text())
    run(other, resume=True)
    after = json.loads(RunFolder(other.run_folder).untouched.evaluation.read_text())
    assert len(before["holdout"]["replicates"]["tar@far=1e-1"]) == 50
    assert len(after["holdout"]["replicates"]["tar@far=1e-1"]) == 60


def test_train_refuses_to_compare_a_run_that_began_without_the_untouched_model(faces, tmp_path):
    train(finetuned(faces, tmp_path, {**HELD_OUT, "untouched": False}))
    with pytest.raises(ConfigError, match="began without it"):
        train(finetuned(faces, tmp_path), resume=True)


def of_figures(monkeypatch, figures):
    """Let validations find these figures, one after the other."""
    remaining = iter(figures)
    monkeypatch.setattr(Validation, "criterion", lambda *_: next(remaining))


def test_train_ends_after_as_many_validations_as_patience_says(faces, tmp_path, monkeypatch):
    of_figures(monkeypatch, [0.5, 0.6, 0.6, 0.4])
    config = finetuned(
        faces, tmp_path, {"every": 2, "patience": 2, "fars": [0.1]}, schedule={"length": 30, "warmup": 2}
    )
    ended = train(config)
    folder = RunFolder(config.run_folder)
    assert ended.step == 8
    assert validated(folder) == [2, 4, 6, 8]
    assert load_model(folder.best.path)[1].step == 4
    assert load_model(folder.path)[1].step == 8
    assert journal(folder.path)[-1]["ended"] == "2 validations in a row were no better"
    assert train(config, resume=True).step == 8
    more = finetuned(faces, tmp_path, {"every": 2, "patience": 3, "fars": [0.1]}, schedule={"length": 30, "warmup": 2})
    of_figures(monkeypatch, [0.3])
    assert train(more, resume=True).step == 10


def test_train_keeps_count_of_patience_when_it_resumes(faces, tmp_path, monkeypatch):
    of_figures(monkeypatch, [0.5, 0.4, 0.4, 0.4])
    config = finetuned(faces, tmp_path, {"every": 2, "patience": 3, "fars": [0.1]}, checkpoint_every=4)
    with monkeypatch.context() as patch:
        before_step(patch, 5, cut_off)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert train(config, resume=True).step == 8


def test_train_validates_nothing_while_the_network_stands_still(faces, tmp_path):
    still = {"freeze": "backbone", "until": 8}
    config = finetuned(faces, tmp_path, finetune=still)
    train(config)
    assert validated(RunFolder(config.run_folder)) == [0, 12]


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"untouched": True}, "untouched needs every"),
        ({"patience": 3}, "patience needs every"),
        ({"untouched": True, "every": 2, "bootstrap": 0}, "needs bootstrap above 0"),
        ({"guard": "faces", "every": 2}, "guard .* needs untouched"),
    ],
)
def test_settings_of_the_comparison_need_each_other(faces, tmp_path, evaluation, message):
    with pytest.raises(ConfigError, match=message):
        finetuned(faces, tmp_path, evaluation)


@pytest.mark.parametrize("evaluation", [{"every": 2, "untouched": True, "guard": "FACES"}, {"every": 2, "patience": 1}])
def test_train_refuses_to_compare_on_nothing(faces, tmp_path, evaluation):
    found = {key: str(faces) if value == "FACES" else value for key, value in evaluation.items()}
    config = finetuned(faces, tmp_path, found, data={"train": str(faces), "workers": 0})
    with pytest.raises(ConfigError, match="nothing is measured; set data"):
        train(config)


def test_recipe_finetune_shallow_trains_from_a_run_with_memory_from_the_first_step(faces, tmp_path):
    torch.manual_seed(0)
    backbone = build("tiny", 8, width=8)
    save_model(tmp_path, backbone, ModelCard("tiny", 8, {"width": 8}))
    overrides = [
        f"backbone.weights={tmp_path}",
        f"data.train={faces}",
        f"output={tmp_path}",
        "data.workers=0",
        "data.holdout=0.4",
        "batch_size=8",
        "schedule.length=4",
        "schedule.warmup=1",
        "finetune.until=2",
        "evaluation.every=4",
        "evaluation.fars=[0.1]",
        "evaluation.bootstrap=20",
        "log_every=1",
        "loggers=[]",
    ]
    run = train(read_config("finetune-shallow", overrides))
    started = weights(run.folder.untouched)
    assert same(started, backbone.state_dict())
    steps = [entry for entry in journal(run.folder.path) if "loss" in entry]
    assert all(entry["coverage"] > 0 for entry in steps)
    assert not same(weights(run.folder), started)
    assert validated(run.folder) == [0, 4]
