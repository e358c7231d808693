"""benchmarks/loading.py: all arms load the same pictures, and figures are consistent."""

from __future__ import annotations

import json

import loading
import numpy as np
import pytest
import torch
from loading_plot import draw_loading
from typer.testing import CliRunner

from vplface.bench.usual_loader import UsualFolder
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.formats.recordio import RecordIO
from vplface.data.pictures import Preprocessing
from vplface.errors import VplfaceError

SIZE = ["--pictures", "20", "--batch", "6", "--repeats", "1"]


def test_rounds_figures_are_consistent():
    seconds = {"imdecode": 2.0, "RecordIO, bytes": 2.5, "RecordIO": 4.0, "PIL + DataLoader": 8.0}
    arms = {name: lambda steps, workers, value=value: value for name, value in seconds.items()}
    measured = loading._rounds(arms, steps=3, batch=8, repeats=2, workers=0)
    assert measured["RecordIO"] == {
        "pictures_per_second": 6.0, "spread": [6.0, 6.0], "over_usual": 2.0, "of_decoding": 0.5
    }  # fmt: skip
    assert measured["RecordIO, bytes"]["of_decoding"] == 0.8


def test_write_all_stores_the_same_pictures_in_each_format(faces, tmp_path):
    source = ImageFolder(faces)
    missing = loading._write_all(source, 7, tmp_path)
    folder, records = ImageFolder(tmp_path / "folder"), RecordIO(tmp_path / "train.rec")
    assert set(missing) <= {"tar"}
    assert {folder.encoded(k) for k in range(7)} == {records.encoded(k) for k in range(7)}
    assert {records.encoded(k) for k in range(7)} <= {source.encoded(k) for k in range(48)}


def test_UsualFolder_preprocesses_as_training_does(faces):
    folder = ImageFolder(faces)
    usual = UsualFolder(folder)
    expected = Preprocessing()(torch.from_numpy(folder.picture(5)[None]))[0]
    floats, label = usual[5]
    assert label == folder.labels[5]
    assert min(abs(floats - way).max() for way in (expected, expected.flip(-1))) < 1e-6


def test_write_tiny_writes_a_valid_RecordIO_of_50_pictures_per_identity(tmp_path):
    assert loading._write_tiny(tmp_path / "train.rec", 120) == 3
    pictures = RecordIO(tmp_path)
    assert len(pictures) == 120
    assert np.bincount(pictures.labels).tolist() == [50, 50, 20]
    assert pictures.encoded(119) == bytes(4)


def test_loading_main_prints_json_and_plots(faces, tmp_path):
    plot = tmp_path / "loading.svg"
    words = ["--data", str(faces), *SIZE, "--workers", "1", "--plot", str(plot), "--json"]
    told = CliRunner().invoke(loading.app, words)
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    assert (report["schema"], report["pictures"], report["batch"]) == (1, 20, 6)
    assert {"imdecode", "RecordIO", "RecordIO, bytes", "folder", "tar"} <= set(report["one_process"]["arms"])
    assert set(report["workers"]["arms"]) == set(report["one_process"]["arms"]) - {"imdecode"}
    assert "<svg" in plot.read_text(encoding="utf-8")
    draw_loading(tmp_path / "one.png", report["machine"], {k: v for k, v in report.items() if k != "workers"})


def test_loading_main_without_data_generates_faces_and_prints_a_table():
    shown = CliRunner().invoke(loading.app, [*SIZE])
    assert shown.exit_code == 0, shown.output
    assert "one core: 20 pictures of" in shown.stdout
    assert "PIL + DataLoader" in shown.stdout


def test_loading_main_startup_times_the_opening_of_a_set():
    told = CliRunner().invoke(loading.app, ["--startup", "1000", "--repeats", "2", "--json"])
    result = json.loads(told.stdout)["startup"]
    assert (result["records"], result["identities"]) == (1000, 20)
    for opened in result["opening"].values():
        assert 0 < opened["spread"][0] <= opened["seconds"] <= opened["spread"][1]
    assert "1,000 records" in CliRunner().invoke(loading.app, ["--startup", "1000", "--repeats", "1"]).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--startup", "9", "--workers", "2"], "--startup measures one thing only"),
        (["--pictures", "9"], "--pictures 9 is less than a batch"),
        (["--data", "nowhere"], "nowhere: does not exist"),
    ],
)
def test_loading_main_names_the_invalid_option(words, message):
    result = CliRunner().invoke(loading.app, words)
    assert isinstance(result.exception, VplfaceError)
    assert message in str(result.exception)


def test_loading_main_refuses_a_set_smaller_than_a_batch(faces):
    result = CliRunner().invoke(loading.app, ["--data", str(faces), "--pictures", "100", "--batch", "50"])
    assert "48 pictures are fewer than a batch of 50" in str(result.exception)
