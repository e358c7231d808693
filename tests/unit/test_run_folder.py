"""The layout of a run folder: what a restart removes, and what is read from files with unexpected content."""

import os

import pytest

from vplface.run_folder import REPORTED, ModelFolder, RunFolder


def test_RunFolder_remove_run_keeps_what_a_restart_replaces_or_appends_to(tmp_path):
    kept = ["config.yaml", "damaged-config.yaml", "loggers.json", "log.txt", ".lock", "notes.md"]
    removed = [
        "anew",
        "environment.json",
        "evaluation.json",
        "finetuning.json",
        "identities.json",
        "metrics.jsonl",
        "model.json",
    ]
    removed += ["model.safetensors", "operating_point.json", "report.html", "sphere.npz"]
    for name in kept + removed:
        (tmp_path / name).touch()
    for name in ("best", "checkpoints", "tensorboard", "untouched"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    RunFolder(tmp_path).remove_run()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "tensorboard"])


def test_RunFolder_remove_run_removes_the_restart_marker_last(tmp_path):
    folder = RunFolder(tmp_path)
    folder.restart_marker.touch()
    (folder.report / "file").mkdir(parents=True)  # a folder goes, too
    folder.remove_run()
    assert not list(tmp_path.iterdir())
    folder.restart_marker.touch()
    folder.best.path.symlink_to(tmp_path.parent, target_is_directory=True)
    with pytest.raises(OSError, match="symbolic link"):
        folder.remove_run()
    assert folder.restart_marker.exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "model.safetensors", "checkpoints"])
def test_RunFolder_holds_run_once_training_has_left_something(tmp_path, name):
    (tmp_path / "config.yaml").touch()
    assert not RunFolder(tmp_path).holds_run()
    (tmp_path / name).touch()
    assert RunFolder(tmp_path).holds_run()


def test_ModelFolder_run_is_the_parent_of_best(tmp_path):
    run = RunFolder(tmp_path)
    assert run.best.card == tmp_path / "best" / "model.json"
    assert run.best.run == run
    assert ModelFolder(tmp_path).run == run


def test_REPORTED_names_files_of_the_run_and_of_its_best_model():
    assert REPORTED[:4] == ("config.yaml", "environment.json", "metrics.jsonl", "evaluation.json")
    assert REPORTED[4:] == (
        "finetuning.json",
        "model.json",
        "model.safetensors",
        "best/model.json",
        "best/model.safetensors",
        "sphere.npz",
    )


def test_RunFolder_last_metrics_are_the_numbers_of_the_last_whole_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "loss": 0.5, "drift": {"1": 0}}\n{"step": 3')
    assert RunFolder(tmp_path).last_metrics() == {"step": 2, "loss": 0.5}


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"step": "many"}', '{"step": null, "loss": []}', "3", '{"step": 1e999}']
)
def test_RunFolder_reads_no_numbers_where_files_hold_something_else(tmp_path, line):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(f"{line}\n")
    assert not {"step", "loss"} & folder.last_metrics().keys()
    folder.environment.write_text(line)
    assert folder.total_steps() is None


def test_RunFolder_last_metrics_does_not_wait_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert RunFolder(tmp_path).last_metrics() == {}
