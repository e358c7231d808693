from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.backbones import build
from vplface.errors import DataError
from vplface.report import record
from vplface.report.record import _metrics, read_comparison, read_run
from vplface.stored_model import ModelCard, save_model


def write_metrics(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_read_run_reads_every_file_of_a_run(vpl_run: Path) -> None:
    run = read_run(vpl_run)
    assert run.name == "vpl-arcface"
    assert run.config["variational"]["lam"] == 0.15
    assert [line["step"] for line in run.training] == list(range(10, 3001, 10))
    assert len(run.validation) == 6
    assert not run.truncated
    assert set(run.evaluations) == {"synthetic held-out people", "LFW View 1"}
    assert run.files["config.yaml"] == hashlib.sha256((vpl_run / "config.yaml").read_bytes()).hexdigest()
    assert run.sphere is not None
    np.testing.assert_allclose(np.linalg.norm(run.sphere.embeddings, axis=1), 1.0)


def test_RunRecord_series_skips_missing_values_and_keeps_nan(tmp_path: Path) -> None:
    lines = '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": null}\n{"step": 3, "loss": NaN}\n{"step": 4}\n'
    run = read_run(write_metrics(tmp_path / "run", lines))
    steps, values = run.series("loss")
    np.testing.assert_array_equal(steps, [1, 3])
    np.testing.assert_array_equal(values, [2.0, np.nan])
    assert run.last("loss") == 2.0
    assert run.last("coverage") is None


def test_read_run_marks_a_log_with_a_cut_last_line_as_truncated(tmp_path: Path) -> None:
    run = read_run(write_metrics(tmp_path / "run", '{"step": 1, "loss": 2.0}\n{"step": 2, "lo'))
    assert run.truncated
    assert [line["step"] for line in run.training] == [1]


@pytest.mark.parametrize("bad", ['{"step": 2, "lo', "[1, 2]", '{"loss": 3}', '{"step": true}', "\x00"])
def test_read_run_names_the_line_of_any_other_damage_in_the_log(tmp_path: Path, bad: str) -> None:
    folder = write_metrics(tmp_path / "run", f'{{"step": 1}}\n{bad}\n{{"step": 3}}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2"):
        read_run(folder)


def test_read_run_replaces_steps_repeated_after_a_resume(tmp_path: Path) -> None:
    logged = [(10, 5.0), (20, 4.0), (30, 3.0), (20, 4.5), (30, 3.5)]
    text = "".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in logged)
    steps, values = read_run(write_metrics(tmp_path / "run", text)).series("loss")
    np.testing.assert_array_equal(steps, [10, 20, 30])
    np.testing.assert_array_equal(values, [5.0, 4.5, 3.5])


@given(steps=st.lists(st.integers(0, 10**6), min_size=1, max_size=20, unique=True), cut=st.integers(1, 400))
def test__metrics_reads_the_complete_lines_of_a_log_cut_anywhere(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], cut: int
) -> None:
    steps = sorted(steps)
    whole = "".join(json.dumps({"step": step, "loss": step / 7}) + "\n" for step in steps)
    cut = min(cut, len(whole))
    path = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    path.write_text(whole[:cut])
    training, _, truncated = _metrics(path, path.read_bytes())
    complete = whole[:cut].count("\n")
    rest = whole[:cut].rpartition("\n")[2]
    whole_rest = rest.endswith("}")
    assert [line["step"] for line in training] == steps[: complete + whole_rest]
    assert truncated == bool(rest and not whole_rest)


@pytest.mark.parametrize("name", ["evaluation.json", "environment.json", "config.yaml", "model.json"])
@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe"])
def test_read_run_names_a_damaged_file(vpl_run: Path, name: str, content: bytes) -> None:
    (vpl_run / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_run(vpl_run)


def test_read_run_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such run folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"not a run folder.*give the folder that `vplface train` wrote"):
        read_run(tmp_path)
    (tmp_path / "arm").mkdir()
    (tmp_path / "arm" / "config.yaml").write_text("{}")
    with pytest.raises(DataError, match=f"give {re.escape(str(tmp_path / 'arm'))}$"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "lacks the array 'labels'"),
        ({"memory": np.zeros((4, 3))}, "'memory' has shape"),
        ({"labels": np.full(440, 99)}, "'labels' must lie in 0 … 10"),
    ],
)
def test_read_run_refuses_sphere_arrays_that_do_not_fit_together(
    vpl_run: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    path = vpl_run / "sphere.npz"
    with np.load(path) as stored:
        arrays = dict(stored) | change
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(DataError, match=message):
        read_run(vpl_run)


def test_read_run_refuses_a_truncated_sphere_file(vpl_run: Path) -> None:
    path = vpl_run / "sphere.npz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"sphere\.npz: not an npy or npz file, or damaged"):
        read_run(vpl_run)


def test_read_comparison_reads_the_folder_that_holds_all_arms(study: list[Path], tmp_path: Path) -> None:
    runs = [read_run(folder) for folder in study]
    assert set(read_comparison(runs)) == {"synthetic held-out people", "LFW View 1"}
    assert read_comparison(runs[:1]) == {}
    elsewhere = read_run(write_metrics(tmp_path / "deeper", '{"step": 1}\n'))
    nested = write_metrics(tmp_path / "deeper" / "run", '{"step": 1}\n')
    assert read_comparison([elsewhere, read_run(nested)]) == {}


def test_read_run_hashes_the_bytes_it_read_while_training_goes_on(vpl_run: Path, tmp_path: Path, monkeypatch) -> None:
    run = tmp_path / "run"
    shutil.copytree(vpl_run, run)
    log = run / "metrics.jsonl"  # a model is saved with every line that is read
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:5]))
    save_model(run, build("tiny", 16, width=8), ModelCard("tiny", 16, {"width": 8}, step=1))
    before = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in ("model.json", "metrics.jsonl")}
    weights = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    parse = record.parse_json

    def saved_meanwhile(text, where):
        save_model(run, build("tiny", 16, width=8), ModelCard("tiny", 16, {"width": 8}, step=2))
        (run / "metrics.jsonl").write_text("")
        return parse(text, where)

    monkeypatch.setattr(record, "parse_json", saved_meanwhile)
    found = read_run(run)
    assert found.card["step"] == 1
    assert {name: found.files[name] for name in (*before, "model.safetensors")} == before | {
        "model.safetensors": weights
    }
