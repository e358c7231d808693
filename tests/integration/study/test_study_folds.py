"""Studies by folds of people: which runs there are, what each is trained and tested on, and what is summarised."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from typer.testing import CliRunner

from helpers import forked
from vplface.cli.app import app
from vplface.config import read_config
from vplface.errors import ConfigError
from vplface.evaluation.metrics import TAR
from vplface.study import conclude, runner
from vplface.study.folds import join_folds
from vplface.study.grid import read_grid
from vplface.study.single import measured

FACES = {"path": "faces", "synthetic": {"identities": 24, "pictures": 3, "seed": 1}}
STUDY = {
    "name": "small",
    "base": {
        "data": {"train": FACES, "workers": 0},
        "backbone": {"name": "tiny", "embedding_dim": 8, "options": {"width": 8}},
        "margin": {"name": "arcface", "scale": 16, "margin": 0.2},
        "variational": {"lam": 0.2, "delta_t": 2, "start": 1},
        "schedule": {"length": 3, "warmup": 1},
        "batch_size": 8,
        "log_every": 1,
        "evaluation": {"sets": [{"name": "all pairs", **FACES}], "fars": [0.1, 0.0001], "bootstrap": 30},
    },
    "folds": {"count": 2},
    "arms": {"plain": {"variational": None}, "vpl": {}},
    "workers": 2,
}


def write(folder, **changes):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False), encoding="utf-8")
    return path


def vplface(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_read_grid_makes_a_run_of_each_fold(tmp_path):
    path = write(tmp_path, seeds=[0, 3], folds={"count": 3, "seed": 4, "exclude": "some.txt"})
    grid = read_grid(path, seeds=[3], arms=["vpl"], folds=[1, 3])
    assert [cell.name for cell in grid.chosen] == ["base/vpl-seed3-fold1", "base/vpl-seed3-fold3"]
    assert len(grid.cells) == 2 * 3 * 2
    assert len({cell.folder for cell in grid.cells}) == 12
    for cell in grid.cells:
        assert cell.config.fold is not None
        assert (cell.fold, cell.config.fold.count, cell.config.fold.seed) == (cell.config.fold.number, 3, 4)
        assert [str(listed.people) for listed in cell.config.fold.exclude] == ["some.txt"]
    assert grid.folds("base") == 3
    assert {cell.fold for cell in read_grid(path, ["folds.count=5"]).cells} == {1, 2, 3, 4, 5}


def test_read_grid_lays_the_folds_of_a_setting_over_those_of_the_file(tmp_path):
    settings = {"same": {}, "more": {"folds": {"count": 4}}, "undivided": {"folds": None}}
    grid = read_grid(write(tmp_path, settings=settings, folds={"count": 2, "seed": 7}))
    assert [grid.folds(setting) for setting in grid.settings] == [2, 4, None]
    assert {cell.config.fold.seed for cell in grid.cells if cell.config.fold} == {7}
    undivided = [cell for cell in grid.cells if cell.setting == "undivided"]
    assert [cell.name for cell in undivided] == ["undivided/plain-seed0", "undivided/vpl-seed0"]
    assert {cell.config.fold for cell in undivided} == {None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": {"cuont": 2}}, "did you mean 'count'"),
        ({"folds": {"count": 1}}, "folds.count"),
        ({"settings": {"a": {"folds": {"count": 0}}}}, "setting 'a': folds: count"),
        ({"settings": {"a": {"folds": 3}}}, "setting 'a': folds"),
        ({"arms": {"a": {"folds": {"count": 3}}}}, "unknown key 'folds'"),
        ({"folds": {"count": 1000}, "seeds": list(range(9))}, "18,000 runs; settings × arms × seeds × folds"),
    ],
)
def test_read_grid_names_the_fault_of_folds(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_grid(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--folds", "3"), "--folds: there is no 3; known: 1, 2"), (("--folds", "x"), "--folds takes different whole")],
)
def test_vplface_study_names_the_fault_of_the_option_folds(tmp_path, words, message):
    refused = vplface("study", write(tmp_path), *words)
    assert refused.exit_code == 2
    assert message in refused.stderr


@pytest.mark.slow
def test_vplface_study_dry_run_says_whom_each_fold_tests(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluation = STUDY["base"]["evaluation"]
    sets = [*evaluation["sets"], {**evaluation["sets"][0], "name": "poor", "degrade": "blur"}]
    write(tmp_path, base=STUDY["base"] | {"evaluation": evaluation | {"sets": sets}})
    told = json.loads(vplface("study", "study.yaml", "--dry-run", "--json").stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]
    assert [run["run"] for run in told["runs"]] == [
        f"base/{arm}-seed0-fold{fold}" for fold in (1, 2) for arm in ("plain", "vpl")
    ]
    assert [run["fold"] for run in told["runs"]] == [1, 1, 2, 2]
    sizes = [run["tested"]["all pairs"] for run in told["runs"]]
    assert sizes[0]["people"] + sizes[2]["people"] == 24
    for run, size in zip(told["runs"], sizes, strict=True):
        people = size["people"]
        assert run["identities"] == 24 - people
        assert (size["pictures"], size["genuine"]) == (3 * people, 3 * people)
        assert size["impostors"] == 9 * people * (people - 1) // 2
        assert size["lowest_far"] == 0.1  # 1e-4 would take 10,000 impostor pairs
    shown = vplface("study", "study.yaml", "--dry-run").stdout
    assert "4 runs, 2 at a time" in shown
    assert "all pairs; poor: by fold" in shown
    assert [size["people"] for size in sizes] == [17, 17, 7, 7]
    assert "≈12" in shown  # the mean number of people trained on
    assert f"1e-1 ({int(0.1 * sizes[0]['impostors'])})" in shown


@pytest.mark.slow
def test_vplface_study_trains_tests_and_joins_the_folds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "subprocess", forked)
    write(tmp_path)
    begun = vplface("study", "study.yaml", "--json", "--folds", "2")
    assert begun.exit_code == 0, begun.output
    told = json.loads(begun.stdout)
    assert told["settings"]["base"]["arms"] == {}
    assert told["incomplete"] == ["base/plain-seed0 (1 of 2 folds)", "base/vpl-seed0 (1 of 2 folds)"]
    assert told["missing"] == ["base/plain-seed0-fold1", "base/vpl-seed0-fold1"]
    assert "not all of their folds are finished: base/plain-seed0 (1 of 2 folds)" in (
        tmp_path / "runs/small/report.html"
    ).read_text("utf-8")
    kept = (tmp_path / "runs/small/base/vpl-seed0-fold2/model.safetensors").stat().st_mtime_ns

    result = vplface("study", "study.yaml", "--json")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs/small/base/vpl-seed0-fold2/model.safetensors").stat().st_mtime_ns == kept
    told = json.loads(result.stdout)
    assert (told["incomplete"], told["missing"]) == ([], [])
    metric, folders = TAR.at(0.1).key, {}
    for arm in ("plain", "vpl"):
        folders[arm] = [tmp_path / f"runs/small/base/{arm}-seed0-fold{fold}" for fold in (1, 2)]
        trained = [set(json.loads((folder / "identities.json").read_text())) for folder in folders[arm]]
        assert trained[0].isdisjoint(trained[1])  # of two folds, each is trained on the people of the other
        assert len(trained[0] | trained[1]) == 24
        of_folds = [measured(folder)["all pairs"] for folder in folders[arm]]
        people = [each.protocol["identities"] for each in of_folds]
        assert people == [len(trained[1]), len(trained[0])]
        figure = told["settings"]["base"]["arms"][arm]["sets"]["all pairs"][metric]
        values = [each.metrics[metric].value for each in of_folds]
        assert figure["per_fold"] == pytest.approx(values)
        assert figure["value"] == pytest.approx((people[0] * values[0] + people[1] * values[1]) / 24)
        strict = told["settings"]["base"]["arms"][arm]["sets"]["all pairs"]["tar@far=1e-4"]
        assert strict["value"] is None
        assert strict["reason"].startswith("fold 1: FAR 0.0001 needs at least 10,000 impostor pairs")
    assert told["settings"]["base"]["folds"] == {"all pairs": people}
    plain, vpl = (join_folds([measured(folder) for folder in folders[arm]])["all pairs"] for arm in ("plain", "vpl"))
    difference = told["settings"]["base"]["differences"]["plain"]["vpl"]["all pairs"][metric]
    assert difference["difference"] == pytest.approx(vpl.metrics[metric].value - plain.metrics[metric].value)
    assert difference["ci95"][0] <= difference["difference"] <= difference["ci95"][1]
    shown = vplface("study", "study.yaml").stdout
    assert f"all pairs: 24 people in 2 folds of {min(people)} to {max(people)}." in shown
    one = read_config(folders["vpl"][0])
    assert one.fold is not None
    assert one.fold.number == 1
    (folders["vpl"][0] / "evaluation.json").unlink()
    left = conclude(read_grid("study.yaml"), {}).summary
    assert list(left["settings"]["base"]["arms"]) == ["plain"]
    assert left["incomplete"] == ["base/vpl-seed0 (1 of 2 folds)"]
