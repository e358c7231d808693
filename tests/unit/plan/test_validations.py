"""What a run measures and how often, by hand: twelve people with four pictures each."""

import pytest
from typer.testing import CliRunner

from helpers.small_runs import settings
from vplface.cli.app import app
from vplface.errors import ConfigError, DataError
from vplface.plan import MeasuredSet, plan


def planned(faces, output, evaluation, **changes):
    data = {"train": str(faces), "workers": 0}
    small = {"data": data, "ema": None, "variational": None, "margin": {"name": "arcface", "scale": 16}}
    return plan(settings(faces, output, **{**small, "evaluation": evaluation, **changes}))


def test_plan_counts_sets_that_share_pictures_once(faces, tmp_path):
    (tmp_path / "people.txt").write_text("p0\np1\np2\n")
    some = {"name": "some", "path": str(faces), "people": str(tmp_path / "people.txt")}
    asked = {"sets": [some], "guard": str(faces), "every": 5, "untouched": True, "flip": "none"}
    found = planned(faces, tmp_path, asked)
    measured = found.validations
    assert measured.sets == {"some": MeasuredSet(12, 3, False), "guard": MeasuredSet(48, 12, True)}
    assert (measured.pictures, measured.passes) == (48, 1)
    # of 12 steps 5, 10 and the last; the untouched model, the last and the best one
    assert (measured.every, measured.during, measured.others, measured.may_end) == (5, 3, 3, None)
    assert measured.embedded == 48 * 6
    step = found.operations
    forward = step.measured // measured.embedded
    assert step.head == 6 * 16 * 12 * 8
    stem = 2 * 8 * 3 * 49 * 28 * 28
    assert step.backbone == 16 * (3 * forward - stem)  # pictures need no gradient
    assert step.share == pytest.approx(step.measured / (step.measured + 12 * (step.backbone + step.head)))


def test_plan_counts_an_evaluation_after_training(faces, tmp_path):
    measured = planned(faces, tmp_path, {"sets": [{"name": "all", "path": str(faces)}]}).validations
    assert (measured.every, measured.during, measured.others, measured.passes) == (None, 0, 1, 2)
    assert measured.embedded == 2 * 48
    nothing = planned(faces, tmp_path, {})
    assert nothing.validations is None
    assert (nothing.operations.measured, nothing.operations.share) == (0, 0.0)


@pytest.mark.parametrize(("patience", "may_end"), [(1, 4), (2, 6), (4, 10), (5, None), (9, None)])
def test_plan_says_when_training_may_end(faces, tmp_path, patience, may_end):
    held_out = {"train": str(faces), "workers": 0, "holdout": 0.4}
    measured = planned(faces, tmp_path, {"every": 2, "patience": patience}, data=held_out).validations
    assert measured.may_end == may_end  # the first one, at step 2, is the best so far


def test_plan_counts_no_validation_of_a_network_that_has_not_moved(faces, tmp_path):
    asked = {"every": 4, "sets": [{"name": "all", "path": str(faces)}]}
    found = planned(faces, tmp_path, asked, finetune={"freeze": "backbone", "until": 8})
    assert found.validations.during == 1


def test_plan_opens_evaluation_sets_and_writes_nothing(faces, tmp_path):
    generated = {"name": "made", "path": str(tmp_path / "made"), "synthetic": {"identities": 3, "pictures": 2}}
    measured = planned(faces, tmp_path, {"sets": [generated]}).validations
    assert measured.sets == {"made": MeasuredSet(6, 3, False)}
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="evaluation set 'gone': "):
        planned(faces, tmp_path, {"sets": [{"name": "gone", "path": str(tmp_path / "gone")}]})
    with pytest.raises(ConfigError, match=r"evaluation\.patience: nothing is measured"):
        planned(faces, tmp_path, {"every": 2, "patience": 1})


def test_vplface_plan_shows_validations_and_patience(faces, tmp_path):
    words = ["plan", "folder", f"data.train={faces}", "data.workers=0", "name=x", f"output={tmp_path}", "batch_size=16"]
    words += ["backbone={name: tiny, embedding_dim: 8}", "schedule={length: 12, warmup: 1}", "data.holdout=0.4"]
    asked = f"{{every: 4, patience: 1, untouched: true, guard: [{faces}, {{name: again, path: {faces}}}]}}"
    shown = CliRunner().invoke(app, [*words, f"evaluation={asked}"], env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    lines = [" ".join(line.split()) for line in shown.output.splitlines()]
    assert "measured holdout: 20 pictures of 5 people" in lines
    assert f"{faces.name}: 48 pictures of 12 people, a guard" in lines
    assert "again: 48 pictures of 12 people, a guard" in lines
    assert "validations every 4 steps: 3, and 3 more: untouched, last, best" in lines
    assert "may end early from step 8: 1 in a row that are no better" in lines
    assert any(line.startswith("in each 68 pictures, each also mirrored; ") for line in lines)
    assert any(line.startswith("operations of a step ") and ": backbone " in line for line in lines)
