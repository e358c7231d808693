"""Studies of tiny runs: which runs there are, how they end, and their summary and report."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from helpers import forked
from vplface.cli.app import app
from vplface.config import read_recipe, shipped_recipes
from vplface.errors import ConfigError, DataError
from vplface.evaluation import Evaluation
from vplface.evaluation.figure import Figure
from vplface.evaluation.metrics import ROC_METRICS
from vplface.evaluation.student import t_interval
from vplface.study import pool, runner
from vplface.study.cost import lasting
from vplface.study.grid import is_study, read_grid
from vplface.study.pool import paired
from vplface.study.single import finish, mark_for_restart, measured

BASE = {
    "data": {"train": {"path": "train", "synthetic": {"identities": 6, "pictures": 3, "seed": 1}}, "workers": 0},
    "backbone": {"name": "tiny", "embedding_dim": 8, "options": {"width": 8}},
    "margin": {"name": "arcface", "scale": 16, "margin": 0.2},
    "variational": {"lam": 0.2, "delta_t": 2, "start": 1},
    "schedule": {"length": 4, "warmup": 1},
    "batch_size": 8,
    "log_every": 1,
    "evaluation": {
        "sets": [
            {
                "name": "test",
                "path": "test",
                "synthetic": {"identities": 6, "pictures": 3, "seed": 1, "first_identity": 50},
                "degrade": {"kind": "blur", "share": 0.5},
            }
        ],
        "fars": [0.01, 0.1],
        "bootstrap": 30,
        "every": 2,
    },
}
STUDY = {
    "name": "small",
    "base": BASE,
    "settings": {"wide": {}, "narrow": {"backbone": {"embedding_dim": 4}}},
    "arms": {"vpl": {}, "plain": {"variational": None}},
    "seeds": [0, 1],
    "baselines": ["plain"],
    "workers": 2,
}


METRICS_IN_ORDER = ["tar@far=1e-1", "tar@far=1e-2", *(kind.name for kind in ROC_METRICS), "rank-1"]


def write(folder, **changes):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False), encoding="utf-8")
    return path


def vplface(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def forked_workers():
    """Workers of studies in this process are forked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "subprocess", forked)
        yield


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory, forked_workers):
    """A whole study, with one arm that fails."""
    place = tmp_path_factory.mktemp("study")
    here = Path.cwd()
    os.chdir(place)
    arms = STUDY["arms"] | {"broken": {"backbone": {"weights": "nowhere.pth"}}}
    write(place, arms=arms)
    yield place, vplface("study", "study.yaml", "--json")
    os.chdir(here)


def test_vplface_study_names_a_failed_arm_and_summarises_the_others(carried_out):
    place, result = carried_out
    assert result.exit_code == 1, result.output
    told = json.loads(result.stdout)
    assert sorted(told["failed"]) == [f"{s}/broken-seed{k}" for s in ("narrow", "wide") for k in (0, 1)]
    assert all("nowhere.pth" in why for why in told["failed"].values())
    assert told["missing"] == []
    for setting in ("wide", "narrow"):
        assert list(told["settings"][setting]["arms"]) == ["vpl", "plain"]
        for arm in ("vpl", "plain"):
            for seed in (0, 1):
                folder = place / "runs/small" / setting / f"{arm}-seed{seed}"
                assert {"config.yaml", "model.safetensors", "evaluation.json", "log.txt"} <= {
                    path.name for path in folder.iterdir()
                }
                assert os.name != "posix" or (folder / "evaluation.json").stat().st_mode & 0o777 == 0o600
    shown = vplface("study", "study.yaml")
    assert shown.exit_code == 1
    assert "wide/broken-seed1 failed:\n" in shown.stderr
    assert "nowhere.pth" in shown.stderr


def test_vplface_study_summary_agrees_with_its_runs(carried_out):
    place, _ = carried_out
    summary = json.loads((place / "runs/small/summary.json").read_text())
    metric = "tar@far=1e-1"
    for setting in ("wide", "narrow"):
        values = {
            arm: [
                json.loads((place / f"runs/small/{setting}/{arm}-seed{seed}/evaluation.json").read_text())["test"][
                    "metrics"
                ][metric]["value"]
                for seed in (0, 1)
            ]
            for arm in ("vpl", "plain")
        }
        for arm, of_arm in values.items():
            figure = summary["settings"][setting]["arms"][arm]["sets"]["test"][metric]
            assert figure["per_seed"] == of_arm
            assert figure["value"] == pytest.approx(sum(of_arm) / 2)
            entries = [
                [json.loads(line) for line in (place / f"runs/small/{setting}/{arm}-seed{seed}/metrics.jsonl").open()]
                for seed in (0, 1)
            ]
            last = [next(line["loss"] for line in log if line["step"] == 4 and "loss" in line) for log in entries]
            told = summary["settings"][setting]["arms"][arm]["final_loss"]
            assert told["per_seed"] == last
            assert told["value"] == pytest.approx(sum(last) / 2)
            covered = summary["settings"][setting]["arms"][arm]["coverage"]
            reached = [[line["coverage"] for line in log if "coverage" in line][-1] for log in entries]
            expected = reached if arm == "vpl" else []
            assert covered == {"value": sum(reached) / 2 if expected else None, "per_seed": expected}
        difference = summary["settings"][setting]["differences"]["plain"]["vpl"]["test"][metric]
        by_hand = [v - p for v, p in zip(values["vpl"], values["plain"], strict=True)]
        assert difference["per_seed"] == by_hand
        assert difference["difference"] == pytest.approx(sum(by_hand) / 2)
        assert "t_ci95" not in difference  # two seeds
    assert summary["comparisons"] == 2 * len(METRICS_IN_ORDER)  # in two settings


def test_vplface_study_tabulates_the_tail_where_it_is_named(carried_out):
    place, _ = carried_out
    shown = vplface("study", "study.yaml", "metrics=[poor_norm,tail_both_poor@far=1e-1,rank-1]").stdout
    summary = json.loads((place / "runs/small/summary.json").read_text())
    sets = summary["settings"]["wide"]["arms"]["vpl"]["sets"]["test"]
    assert sorted(sets) == ["poor_norm", "rank-1", "tail_both_poor@far=1e-1"]
    of_runs = [json.loads((place / f"runs/small/wide/vpl-seed{k}/evaluation.json").read_text())["test"] for k in (0, 1)]
    assert sets["poor_norm"]["per_seed"] == [run["metrics"]["poor_norm"]["value"] for run in of_runs]
    assert sets["tail_both_poor@far=1e-1"]["per_seed"] == [
        run["strata"]["at"]["far=1e-1"]["strata"]["both poor"]["tail"]["value"] for run in of_runs
    ]
    assert "poor norm" in shown
    assert "tail 10⁻¹" in shown
    vplface("study", "study.yaml")  # the summary that other tests read


def test_vplface_study_report_shows_the_numbers_of_the_summary(carried_out):
    place, _ = carried_out
    summary = json.loads((place / "runs/small/summary.json").read_text())
    page = (place / "runs/small/report.html").read_text(encoding="utf-8")
    tables = re.findall(r'<h3>(\w+) · test</h3>.*?<table class="results">(.*?)</table>', page, flags=re.DOTALL)
    assert [name for name, _ in tables] == ["wide", "narrow"]
    for name, table in tables:
        rows = re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL)[1:]
        cells = [re.findall(r'<td.*?class="value[^"]*">([^<]*)<', row, flags=re.DOTALL) for row in rows]
        told = summary["settings"][name]
        for row, arm in zip(cells[:2], ("vpl", "plain"), strict=True):
            figures = told["arms"][arm]["sets"]["test"]
            for text, metric in zip(row[:-1], METRICS_IN_ORDER, strict=True):
                expected = figures[metric]["value"]
                assert text == "—" if expected is None else float(text) == pytest.approx(100 * expected, abs=0.051)
            assert float(row[-1]) == pytest.approx(told["arms"][arm]["final_loss"]["value"], abs=6e-4)
        differences = told["differences"]["plain"]["vpl"]["test"]
        assert list(differences) == [metric for metric in METRICS_IN_ORDER if metric in differences]
        for text, metric in zip(cells[2], differences, strict=True):
            value = float(text.replace("−", "-"))
            assert value == pytest.approx(100 * differences[metric]["difference"], abs=0.051)
        assert f"2 seeds, coverage {100 * told['arms']['vpl']['coverage']['value']:.0f}\N{NO-BREAK SPACE}%" in table
    for sentence in summary["verdict"].splitlines():
        assert f"<li>{sentence}</li>" in page.replace("&#x27;", "'")
    assert f"{2 * len(METRICS_IN_ORDER)} differences are examined together" in page


def test_vplface_study_keeps_finished_runs_and_refuses_changed_ones_by_name(carried_out):
    place, _ = carried_out
    kept = place / "runs/small/wide/vpl-seed0/model.safetensors"
    before = kept.stat().st_mtime_ns
    again = vplface("study", "study.yaml", "--arms", "vpl,plain", "--json")
    assert again.exit_code == 0, again.output
    assert kept.stat().st_mtime_ns == before
    assert json.loads(again.stdout)["missing"] == [f"{s}/broken-seed{k}" for s in ("wide", "narrow") for k in (0, 1)]
    refused = vplface("study", "study.yaml", "--arms", "plain", "--settings", "wide", "optimizer.lr=0.01")
    assert refused.exit_code == 1
    assert "wide/plain-seed0 (optimizer.lr)" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert "narrow" not in refused.stderr


def test_vplface_study_dry_run_takes_the_speed_of_finished_runs(carried_out):
    told = json.loads(vplface("study", "study.yaml", "--dry-run", "--json", "--arms", "vpl").stdout)
    assert {run["state"] for run in told["runs"]} == {"finished"}
    assert {run["measured_on"] for run in told["runs"]} == {"runs"}
    assert told["minutes_left"] == 0
    more = json.loads(vplface("study", "study.yaml", "--dry-run", "--json", "--seeds", "7").stdout)
    assert {run["state"] for run in more["runs"]} == {"new"}
    assert more["minutes_left"] > 0


def test_vplface_study_dry_run_estimates_every_run_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    result = vplface("study", "study.yaml", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]
    told = json.loads(result.stdout)
    assert len(told["runs"]) == 8
    first = told["runs"][0]
    assert (first["identities"], first["pictures"], first["steps"]) == (6, 18, 4)
    assert first["measured_on"] == "random"
    assert first["minutes_left"] == pytest.approx(4 * 8 / first["pictures_per_second"] / 60)
    shown = vplface("study", "study.yaml", "--dry-run").stdout
    assert "8 runs, 2 at a time" in shown
    assert "2 new" in shown
    assert shown.count("0–1") == 4  # the seeds of each setting and arm
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


@pytest.mark.skipif(sys.platform != "linux", reason="what still runs is read from /proc")
@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGKILL", -9)])
def test_vplface_study_resumes_a_stopped_run(tmp_path, number, status, monkeypatch, forked_workers):
    long = BASE | {"schedule": {"length": 40, "warmup": 1}, "checkpoint_every": 2}
    write(tmp_path, base=long, settings={"wide": {}}, arms={"vpl": {}}, seeds=[0], baselines=[])
    command = [sys.executable, "-m", "vplface", "study", "study.yaml"]
    listening = "import signal, os; signal.signal(signal.SIGINT, signal.default_int_handler); "
    script = f"{listening}os.execvp({command[0]!r}, {command!r})"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "runs/small/wide/vpl-seed0/metrics.jsonl"
    deadline = time.monotonic() + 100
    while not (journal.exists() and journal.read_text().count("\n") > 4):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(getattr(signal, number))
    _, said = process.communicate(timeout=100)
    assert process.returncode == status, said
    if number != "SIGKILL":
        assert "1 of 1 runs unfinished; everything is saved. Continue with: vplface study study.yaml" in said
    grid = read_grid(tmp_path / "study.yaml", [f"output={tmp_path / 'runs'}"])
    while not list((grid.folder / "wide/vpl-seed0/checkpoints").glob("step-*")) or _worker_lives(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    monkeypatch.chdir(tmp_path)
    done = vplface("study", "study.yaml", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["missing"] == []
    steps = [json.loads(line)["step"] for line in journal.open() if '"loss"' in line]
    assert steps == list(range(1, 41))


def test_vplface_study_continues_an_interrupted_overwrite(tmp_path, monkeypatch, forked_workers):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, settings={"wide": {}}, arms={"vpl": {}}, baselines=[], workers=1)
    assert vplface("study", "study.yaml").exit_code == 0
    models = [tmp_path / f"runs/small/wide/vpl-seed{seed}/model.safetensors" for seed in (0, 1)]
    before = [path.read_bytes() for path in models]
    grid = read_grid("study.yaml", ["optimizer.lr=0.05"])
    mark_for_restart(cell.config for cell in grid.chosen)
    finish(grid.chosen[0].config)  # and is stopped after the first run
    assert [path.read_bytes() == old for path, old in zip(models, before, strict=True)] == [False, True]
    told = json.loads(vplface("study", "study.yaml", "--dry-run", "--json", "optimizer.lr=0.05").stdout)
    assert [run["state"] for run in told["runs"]] == ["finished", "restart"]
    assert told["runs"][1]["taken"] == 0
    assert "an interrupted --overwrite" in vplface("study", "study.yaml", "--dry-run", "optimizer.lr=0.05").stdout
    gone_on = vplface("study", "study.yaml", "optimizer.lr=0.05")
    assert gone_on.exit_code == 0, gone_on.output
    assert [path.read_bytes() == old for path, old in zip(models, before, strict=True)] == [False, False]
    kept = [path.read_bytes() for path in models]
    assert vplface("study", "study.yaml", "optimizer.lr=0.05").exit_code == 0
    assert [path.read_bytes() for path in models] == kept
    assert vplface("study", "study.yaml", "--overwrite", "--seeds", "1").exit_code == 0
    assert [path.read_bytes() == old for path, old in zip(models, kept, strict=True)] == [True, False]
    assert models[1].read_bytes() == before[1]


def test_vplface_study_names_an_unwritable_run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, settings={"wide": {}}, arms={"vpl": {}}, baselines=[], seeds=[0])
    (tmp_path / "afile").touch()
    refused = vplface("study", "study.yaml", "output=afile")
    assert refused.exit_code == 1
    assert "cannot write the run folder afile/small/wide/vpl-seed0" in refused.stderr


def _worker_lives(place):
    """Whether a process still runs in this folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cwd").resolve() == place.resolve():
                return True
        except OSError:
            continue
    return False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"setings": {}}, "did you mean 'settings'"),
        ({"base": BASE | {"optimzer": {}}}, "base: unknown key 'optimzer'; did you mean 'optimizer'"),
        (
            {"arms": {"vpl": {"variational": {"lambda": 1}}}},
            "setting 'wide', arm 'vpl': unknown key 'variational.lambda'",
        ),
        ({"settings": {"a": {}, "b": {"batch_size": 0}}}, "setting 'b', arm 'vpl': batch_size"),
        ({"baselines": ["plane"]}, "baselines: there is no 'plane'; did you mean 'plain'"),
        ({"metrics": ["tar@far=1e-3"]}, "metrics: there is no 'tar@far=1e-3'; did you mean 'tar@far=1e-"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"base": {}}, "give a recipe"),
        ({"recipe": "quikstart"}, "did you mean 'quickstart'"),
        ({"settings": {"../up": {}}}, "settings"),
    ],
)
def test_read_grid_names_the_fault_of_a_study_file(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_grid(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--arms", "vlp"), "--arms: there is no 'vlp'; did you mean 'vpl'"),
        (("--settings", "x"), "--settings: there is no 'x'; known: wide, narrow"),
        (("seed=3",), "--seeds"),
    ],
)
def test_vplface_study_names_the_fault_of_an_option(tmp_path, words, message):
    result = vplface("study", write(tmp_path), *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_read_grid_selects_cells_and_applies_overrides_before_the_arms(tmp_path):
    path = write(tmp_path)
    grid = read_grid(
        path,
        ["workers=5", "optimizer.lr=0.3", "variational.lam=0.4", "name=other"],
        seeds=[2],
        arms=["vpl"],
        settings=["narrow"],
    )
    assert [cell.name for cell in grid.chosen] == ["narrow/vpl-seed2"]
    assert len(grid.cells) == 2 * 2 * 3
    assert (grid.workers, grid.folder, grid.arms) == (5, Path("runs/other"), ["vpl", "plain"])
    assert {cell.config.optimizer.lr for cell in grid.cells} == {0.3}
    assert {cell.config.threads for cell in grid.cells} == {1}
    assert grid.chosen[0].config.backbone.embedding_dim == 4
    plain = next(cell for cell in grid.cells if cell.arm == "plain")
    assert plain.config.variational is None  # arms apply after overrides
    assert grid.chosen[0].config.variational.lam == 0.4
    assert plain.folder == Path("runs/other/wide/plain-seed0")


def test_read_grid_takes_base_and_arms_from_a_recipe_beside_the_study(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"name": "x", **BASE, "arms": {"b": {}, "a": {}}}, sort_keys=False)
    )
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"name": "s", "recipe": "mine.yaml", "base": {"batch_size": 4}}))
    grid = read_grid(tmp_path / "s.yaml")
    assert (grid.settings, grid.arms, grid.baselines) == (["mine"], ["b", "a"], ["b"])
    assert {cell.config.batch_size for cell in grid.cells} == {4}


def test_is_study_is_false_for_every_shipped_recipe():
    assert not any(is_study(read_recipe(name)) for name in shipped_recipes())


def evaluation(value, replicates):
    return Evaluation(
        "test", {"identities": 9}, {"auc": Figure(value)}, fingerprint="f", replicates={"auc": np.array(replicates)}
    )


def test_paired_difference_by_hand():
    first = {seed: {"test": evaluation(0.5, [0.5] * 4)} for seed in (0, 1, 2)}
    second = {
        seed: {"test": evaluation(0.5 + gain, [0.5 + gain] * 4)}
        for seed, gain in ((0, 0.1), (1, 0.2), (2, 0.3), (3, 0.9))
    }
    entry = paired(first, second)["test"]["auc"]
    assert entry["difference"] == pytest.approx(0.2)  # seed 3 has no partner
    assert entry["per_seed"] == pytest.approx([0.1, 0.2, 0.3])
    assert (entry["seeds"], entry["same_sign"]) == (3, 3)
    assert entry["t_ci95"] == pytest.approx(t_interval([0.1, 0.2, 0.3]))
    assert entry["t_ci95"][0] < 0 < entry["ci95"][0]
    assert not entry["distinguishable"]  # by the bootstrap alone it would be; three seeds are too few
    pooled = pool([second[0], second[1]])["test"]
    assert pooled.metrics["auc"]["value"] == pytest.approx(0.65)
    assert paired({0: first[0]}, {1: second[1]}) == {}


def test_pool_of_perfect_values_has_an_exact_binomial_interval():
    pooled = pool([{"test": evaluation(1.0, [1.0] * 4)} for _ in range(3)])["test"]
    assert pooled.metrics["auc"]["ci95"] == pytest.approx([0.025 ** (1 / 9), 1.0])


def test_paired_refuses_evaluations_of_different_pairs():
    other = Evaluation("test", {"identities": 9}, {"auc": Figure(1.0)}, fingerprint="g")
    with pytest.raises(ConfigError, match="test: the arms were not evaluated on the same pairs"):
        paired({0: {"test": evaluation(0.5, [0.5])}}, {0: {"test": other}})


def test_lasting_gives_each_run_to_the_first_free_worker():
    assert lasting([3, 3, 2, 2, 2], 2) == 7  # 3 + 2 + 2 beside 3 + 2
    assert lasting([], 4) == 0


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"lfw": 3}', '{"lfw": {}}'])
def test_measured_names_a_damaged_evaluation_file(tmp_path, text):
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(DataError, match=r"evaluation\.json"):
        measured(tmp_path)
