"""The comparison of a fine-tuned model with the one that it started from, on embeddings of chosen noise."""

import json

import numpy as np
import pytest

from helpers.small_runs import settings
from vplface.backbones import build
from vplface.data.formats.image_folder import ImageFolder
from vplface.evaluation import evaluate_all_pairs_embedded
from vplface.run_folder import RunFolder
from vplface.stored_model import ModelCard, load_model, save_model
from vplface.study.finetuned import judge
from vplface.training.validation import Validation


def evaluations(faces, **noise):
    """An evaluation of each set, on people's directions with noise."""
    found = {}
    for name, strength in noise.items():
        rng = np.random.default_rng(1)
        pictures = ImageFolder(faces)
        rows = rng.normal(size=(12, 8))[pictures.labels] + strength * rng.normal(size=(48, 8))
        found[name] = evaluate_all_pairs_embedded(
            rows.astype(np.float32), pictures, name=name, flip=None, fars=[0.01], bootstrap=100
        )
    return found


@pytest.fixture
def guard():
    """The guards of a run."""
    return ["other"]


@pytest.fixture
def case(faces, tmp_path, monkeypatch, guard):
    """A run folder with the models of steps 0, 2 (best) and 4 (last), and a function that judges them."""
    guards = [{"name": name, "path": str(faces)} for name in guard]
    sets = {"sets": [{"name": "all", "path": str(faces)}], "guard": guards}
    asked = {**sets, "bootstrap": 100, "fars": [0.01], "every": 2, "untouched": True}
    config = settings(faces, tmp_path, evaluation=asked)
    folder = RunFolder(config.run_folder)
    for path, step in ((folder.untouched.path, 0), (folder.best.path, 2), (folder.path, 4)):
        path.mkdir(parents=True, exist_ok=True)
        save_model(path, build("tiny", 8, width=8), ModelCard("tiny", 8, {"width": 8}, step=step))
    validation = Validation(config.evaluation, None)

    def judged(untouched, tuned, last=None):
        monkeypatch.setattr(Validation, "run", lambda *_: evaluations(faces, **tuned))
        judge(config, validation, evaluations(faces, **untouched), evaluations(faces, **(last or tuned)))
        stored = json.loads(folder.finetuning.read_text(encoding="utf-8"))
        return stored, load_model(folder.best.path)[1].step

    return judged


def test_judge_keeps_the_fine_tuned_model_where_the_interval_lies_above_0(case):
    stored, step = case({"all": 1.5, "other": 0.8}, {"all": 0.3, "other": 0.8})
    assert (stored["helped"], stored["guard_fell"], stored["step"], step) == (True, False, 2, 2)
    assert stored["deciding"] == {"set": "all", "metric": "tar@far=1e-2"}
    assert stored["guard"] == {"set": "other", "metric": "tar@far=1e-2"}
    entry = stored["differences"]["all"]["tar@far=1e-2"]
    values = [stored[key]["all"]["metrics"]["tar@far=1e-2"]["value"] for key in ("untouched", "finetuned")]
    assert entry["difference"] == pytest.approx(values[1] - values[0])
    assert 0 < entry["ci95"][0] < entry["difference"] < entry["ci95"][1]


@pytest.mark.parametrize("tuned", [0.8, 1.5])
def test_judge_keeps_the_untouched_model_where_the_interval_does_not_lie_above_0(case, tuned):
    stored, step = case({"all": 0.8, "other": 0.8}, {"all": tuned, "other": 0.8})
    assert (stored["helped"], stored["step"], step) == (False, 2, 0)


def test_judge_says_that_the_guard_fell_and_keeps_the_model_that_helped(case):
    stored, step = case({"all": 1.5, "other": 0.3}, {"all": 0.3, "other": 1.5})
    assert (stored["helped"], stored["guard_fell"], step) == (True, True, 2)


@pytest.mark.parametrize("guard", [["lfw", "cfp"]])
@pytest.mark.parametrize(("lfw", "fell"), [(1.5, True), (0.3, False)])
def test_judge_says_of_each_guard_whether_it_fell(case, guard, lfw, fell):
    stored, step = case({"all": 1.5, "lfw": 0.3, "cfp": 0.8}, {"all": 0.3, "lfw": lfw, "cfp": 0.8})
    metric = "tar@far=1e-2"
    assert stored["guards"] == [
        {"set": "lfw", "metric": metric, "fell": fell},
        {"set": "cfp", "metric": metric, "fell": False},
    ]
    assert (stored["helped"], stored["guard_fell"], step) == (True, fell, 2)


def test_judge_compares_the_last_model_where_best_holds_the_untouched(case):
    case({"all": 0.8, "other": 0.8}, {"all": 0.8, "other": 0.8})
    bad = {"all": 1.5, "other": 0.8}
    stored, step = case({"all": 0.8, "other": 0.8}, {"all": 0.3, "other": 0.3}, bad)
    assert (stored["helped"], stored["step"], step) == (False, 4, 0)
    assert stored["differences"]["all"]["tar@far=1e-2"]["difference"] < 0
