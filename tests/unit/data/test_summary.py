from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from vplface.cli.app import app
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.summary import Summary, summarise


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """1, 1, 2, 3, 4, 5 and 9 pictures: jpg of 112 x 112, but one png of 50 x 40 and one file that is not a picture."""
    root = tmp_path_factory.mktemp("uneven")
    jpg = cv2.imencode(".jpg", np.full((112, 112, 3), 90, np.uint8))[1].tobytes()
    for person, count in enumerate((1, 1, 2, 3, 4, 5, 9)):
        (root / f"p{person}").mkdir()
        for number in range(count):
            (root / f"p{person}" / f"{number}.jpg").write_bytes(jpg)
    (root / "p6" / "3.jpg").write_bytes(cv2.imencode(".png", np.zeros((40, 50, 3), np.uint8))[1].tobytes())
    (root / "p6" / "4.jpg").write_bytes(b"text")
    return root


def test_summarise_counts_pictures_identities_formats_and_sizes(uneven):
    told = summarise(ImageFolder(uneven))
    assert (told.pictures, told.identities, told.empty, told.sampled, told.unreadable) == (25, 7, 0, 25, 1)
    assert told.class_sizes.tolist() == [1, 1, 2, 3, 4, 5, 9]
    assert told.single == pytest.approx(2 / 7)
    assert told.histogram() == {(1, 1): 2, (2, 2): 1, (3, 4): 2, (5, 8): 1, (9, 16): 1}
    assert list(told.formats.items()) == [("jpg", 23), ("png", 1)]
    assert list(told.sizes.items()) == [("112x112", 23), ("50x40", 1)]
    assert told.bytes == sum(path.stat().st_size for path in uneven.rglob("*.jpg"))


def test_summarise_inspects_only_the_sample(uneven):
    told = summarise(ImageFolder(uneven), sample=10)
    assert told.sampled == 10
    assert sum(told.sizes.values()) + told.unreadable == 10
    assert told.pictures == 25
    with pytest.raises(ValueError, match="at least 1"):
        summarise(ImageFolder(uneven), sample=0)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 9, 2**20, 2**20 + 1])
def test_Summary_histogram_counts_every_class_size_in_exactly_one_bin(size):
    histogram = Summary(np.array([size]), 0, 0, {}, {}, 0, 0).histogram()
    assert [low <= size <= high for (low, high), count in histogram.items() if count] == [True]
    edges = list(histogram)
    assert all(low == edges[k][1] + 1 for k, (low, _) in enumerate(edges[1:]))


def run(*arguments: object):
    return CliRunner().invoke(app, ["data", "info", *map(str, arguments)])


def test_vplface_data_info_prints_a_summary_and_json_and_writes_a_plot(uneven, tmp_path):
    result = run(uneven, "--plot", tmp_path / "classes.png")
    assert result.exit_code == 0
    assert "7; 29 % have one picture" in result.stdout
    assert "3–4  ████████████████████████████████████████ 2" in result.stdout
    assert cv2.imread(str(tmp_path / "classes.png")) is not None

    told = json.loads(run(uneven, "--json").stdout)
    assert (told["pictures"], told["identities"]) == (25, 7)
    assert told["histogram"][2] == {"from": 3, "to": 4, "identities": 2}
    assert told["pictures_per_identity"] == {"mean": 25 / 7, "median": 3, "largest": 9}
    (entry,) = [entry for entry in told["expected_coverage"] if (entry["batch_size"], entry["delta_t"]) == (128, 50)]
    assert entry["coverage"] == pytest.approx(sum(1 - math.exp(-n / 25 * 128 * 50) for n in (1, 1, 2, 3, 4, 5, 9)) / 7)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [(["nowhere"], 1, "nowhere: does not exist"), ([".", "--plot", "x.gif"], 2, "must end in .png, .svg or .pdf")],
)
def test_vplface_data_info_reports_wrong_arguments(tmp_path, monkeypatch, arguments, status, says):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == status
    assert says in result.stderr
