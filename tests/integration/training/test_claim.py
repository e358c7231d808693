"""The lock of a run folder, and which runs may start or resume in it."""

import filelock
import pytest

from helpers.small_runs import journal, settings
from vplface.errors import ConfigError, DataError
from vplface.training import claim
from vplface.training.train import train


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_locked_run_folder_keeps_a_second_process_out(faces, tmp_path, monkeypatch, options):
    monkeypatch.setattr(claim, "LOCK_PATIENCE", 0.1)
    config = settings(faces, tmp_path, schedule={"length": 2, "warmup": 0})
    train(config)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with filelock.FileLock(tmp_path / "run" / ".lock"), pytest.raises(DataError, match="another process is training"):
        train(config, **options)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    train(config, overwrite=True)


def test_claim_refuses_an_existing_run_without_resume_or_overwrite(faces, tmp_path):
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


def test_occupy_removes_every_file_of_an_earlier_run(faces, tmp_path):
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


def test_claim_sets_checkpoints_of_one_step_aside_under_different_names(faces, tmp_path, capsys):
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


def test_locked_run_folder_removes_temporary_files_of_killed_processes(faces, tmp_path):
    config, folder = settings(faces, tmp_path, loggers=[]), tmp_path / "run"
    train(config)
    left = [".model.safetensors.ab12_xyz.safetensors", ".model.json.tmp-0123456789ab.json"]
    for name in left:
        (folder / name).write_bytes(b"half")
    (folder / ".mine.settings.yaml").write_text("keep me")
    train(config, resume=True)
    assert not any((folder / name).exists() for name in left)
    assert (folder / ".mine.settings.yaml").exists()
