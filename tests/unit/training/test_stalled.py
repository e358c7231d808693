import math

import numpy as np
import pytest
import torch

from helpers.small_runs import before_step, cut_off, journal, settings
from vplface import ArcFace, NormSoftmax
from vplface.training import stalled
from vplface.training.first_loss import expected_first_loss, lowest_loss
from vplface.training.run_state import build_run
from vplface.training.stalled import diagnose, judged_after, sentence
from vplface.training.train import train


def test_judged_after_is_a_tenth_of_the_run_within_bounds():
    assert judged_after(10_050, 50) == 1050
    assert judged_after(200, 50) == 250
    assert judged_after(500_000, 1000) == 3000


def test_lowest_loss_is_that_of_a_regular_simplex():
    # Five classes at the corners of a simplex in four dimensions: all cosines are −1/4.
    corners = torch.eye(5, dtype=torch.float64) - 0.2
    loss = torch.nn.functional.cross_entropy(
        7.0 * torch.nn.functional.cosine_similarity(corners[:, None], corners[None], dim=2), torch.arange(5)
    )
    assert lowest_loss(7.0, 5) == pytest.approx(float(loss))


def flat(level, count=12, slope=0.0):
    return [(step, level + slope * step) for step in range(1, count + 1)]


def run_of(faces, tmp_path, **changes):
    return build_run(settings(faces, tmp_path, variational=None, **changes))


def test_diagnose_is_silent_where_the_loss_falls_or_little_is_known(faces, tmp_path):
    run = run_of(faces, tmp_path)
    assert diagnose(run, flat(10.0, slope=-0.2)) is None
    assert diagnose(run, flat(10.0, count=7)) is None
    assert diagnose(run, flat(10.0)) is not None


def test_diagnose_is_silent_while_a_ramp_changes_the_loss(faces, tmp_path):
    run = run_of(faces, tmp_path, ramps={"margin": {"margin": {"first": 0.0, "over": 6}}})
    run.step = 5
    assert diagnose(run, flat(10.0)) is None


def test_diagnose_is_silent_where_prototypes_start_from_class_means(faces, tmp_path):
    assert diagnose(run_of(faces, tmp_path, prototypes="means"), flat(10.0)) is None


def test_diagnose_says_what_an_untrained_network_loses(faces, tmp_path):
    run = run_of(faces, tmp_path)
    found = diagnose(run, flat(9.0))
    assert found["expected"] == expected_first_loss(ArcFace(16.0, 0.2), run.head.num_classes, 8)
    assert (found["first"], found["now"]) == (9.0, 9.0)
    assert "9.00 at first, 9.00 after 12 steps" in sentence(12, found)


@pytest.mark.parametrize(
    ("changes", "losses", "first"),
    [
        ({}, flat(9.0, slope=0.3), "lower optimizer.lr (0.02)"),
        ({"optimizer": {"lr": 1e-6}}, flat(9.0), "try another optimizer.lr (1e-06)"),
        ({"optimizer": {"name": "adamw", "lr": 1e-7}}, flat(9.0), "try another optimizer.lr (1e-07)"),
        ({"margin": {"name": "normsoftmax", "scale": 1}}, flat(2.5), "raise margin.scale (1)"),
    ],
)
def test_diagnose_names_the_likely_cause_first(faces, tmp_path, changes, losses, first):
    advice = diagnose(run_of(faces, tmp_path, **changes), losses)["advice"]
    assert advice[0].startswith(first)
    assert advice[-1].startswith("look at the labels")


def test_diagnose_compares_the_scale_with_the_number_of_classes(faces, tmp_path):
    run = run_of(faces, tmp_path, margin={"name": "arcface", "scale": 64, "margin": 0.5})
    classes = run.head.num_classes
    expected = expected_first_loss(run.head.margin, classes, 8)
    advice = diagnose(run, flat(expected))["advice"]
    assert f"classes costs {math.log(classes):.1f}, the first loss {expected:.1f}" in advice[1]
    small = run_of(faces, tmp_path, margin={"name": "normsoftmax", "scale": 1})
    lowest = lowest_loss(1.0, classes)
    assert lowest < expected_first_loss(NormSoftmax(1.0), classes, 8)
    assert f"with {classes} classes no loss below {lowest:.2f} is possible" in diagnose(small, flat(2.5))["advice"][0]


@pytest.fixture
def early(monkeypatch):
    """Judge small runs, whose batches of 16 pictures differ."""
    monkeypatch.setattr(stalled, "_PATIENCE", (0.1, 8, 2000))
    monkeypatch.setattr(stalled, "NEAR", 0.9)


def stuck(faces, output):
    return settings(faces, output, optimizer={"lr": 1e-9}, variational=None)


def test_train_warns_once_of_a_loss_that_does_not_fall_and_writes_it_to_the_journal(faces, tmp_path, capsys, early):
    run = train(stuck(faces, tmp_path))
    assert capsys.readouterr().err.count("the loss stays near its first value") == 1
    lines = journal(run.folder.path)
    (line,) = [line for line in lines if "diagnosis" in line]
    assert line["step"] == 10
    losses = [each["loss"] for each in lines if "loss" in each]
    assert line["diagnosis"]["first"] == pytest.approx(np.mean(losses[:3]))
    assert line["diagnosis"]["now"] == pytest.approx(np.mean(losses[5:10]))


@pytest.mark.slow
def test_train_diagnoses_the_same_in_a_resumed_run(faces, tmp_path, monkeypatch, early):
    whole = train(stuck(faces, tmp_path / "whole"))
    config = stuck(faces, tmp_path / "torn")
    with monkeypatch.context() as patch:
        before_step(patch, 8, cut_off)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    lines = journal(train(config, resume=True).folder.path)
    assert lines == journal(whole.folder.path)
    assert sum("diagnosis" in line for line in lines) == 1


def test_train_is_silent_where_the_loss_falls(faces, tmp_path, capsys, early):
    run = train(settings(faces, tmp_path, variational=None, optimizer={"lr": 0.2}))
    losses = [line["loss"] for line in journal(run.folder.path) if "loss" in line]
    assert np.mean(losses[5:10]) < 0.9 * np.mean(losses[:3])
    assert "stays near" not in capsys.readouterr().err
