import pytest
import torch
import yaml

from helpers.small_runs import before_step, cut_off, journal, settings
from vplface import AdaFace
from vplface.config import build_config
from vplface.errors import ConfigError
from vplface.plan import expected_first_loss, plan
from vplface.training.ramps import Ramp, Ramps
from vplface.training.run_state import build_run
from vplface.training.train import train

RAMPS = {
    "margin": {"margin": {"first": 0.0, "over": 6}, "scale": {"first": 8, "over": 4, "after": 2}},
    "variational": {"lam": {"first": 0.0, "over": 4, "after": 5}},
    "sample_rate": {"first": 0.5, "over": 8},
}


def test_Ramp_is_a_straight_line():
    ramp = Ramp(1.0, 3.0, begin=2, length=4)
    assert [ramp.value(step) for step in range(8)] == [1.0, 1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0]
    assert [Ramp(1.0, 3.0, 2, 0).value(step) for step in (0, 1, 2)] == [1.0, 1.0, 3.0]
    assert Ramp(0.1, 0.7, 0, 3).value(3) == 0.7


def test_Ramps_give_a_head_the_values_of_a_step(faces, tmp_path):
    run = build_run(settings(faces, tmp_path, ramps=RAMPS))
    for step, expected in ((0, (0.0, 8.0, 0.0, 0.5)), (3, (0.1, 10.0, 0.0, 0.6875)), (12, (0.2, 16.0, 0.3, 1.0))):
        run.ramps.apply(run.head, step)
        found = (run.head.margin.margin, run.head.margin.scale, run.head.variational.lam, run.head.sample_rate)
        assert found == pytest.approx(expected, abs=1e-12)
    assert run.head.variational.start == 4


def test_Ramps_count_epochs_and_leave_other_runs_alone(faces, tmp_path):
    ramp = {"first": 0, "over": "2 epochs", "after": "1 epoch"}
    config = settings(faces, tmp_path, ramps={"margin": {"margin": ramp}})
    assert Ramps(config, 50).by_key == {"margin.margin": Ramp(0.0, 0.2, 50, 100)}
    run = build_run(settings(faces, tmp_path))
    margin, variational = run.head.margin, run.head.variational
    run.ramps.apply(run.head, 3)
    assert run.head.margin is margin
    assert run.head.variational is variational


@pytest.mark.slow
def test_train_with_ramps_resumes_bit_for_bit_and_logs_the_values(faces, tmp_path, monkeypatch):
    whole = train(settings(faces, tmp_path / "whole", ramps=RAMPS))
    config = settings(faces, tmp_path / "torn", ramps=RAMPS)
    with monkeypatch.context() as patch:
        before_step(patch, 8, cut_off)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    resumed = train(config, resume=True)
    lines = [line for line in journal(whole.folder.path) if "loss" in line]
    assert journal(resumed.folder.path) == journal(whole.folder.path)
    assert torch.equal(resumed.head.weight, whole.head.weight)
    assert [line["ramps/margin.margin"] for line in lines][:7] == pytest.approx([step / 30 for step in range(7)])
    assert [line["ramps/sample_rate"] for line in lines][-1] == 1.0


def test_train_whose_ramps_have_ended_is_the_run_without_them(faces, tmp_path):
    ended = {"margin": {"margin": {"first": 0.1, "over": 0}}, "sample_rate": {"first": 0.5, "over": 0}}
    few = {"schedule": {"length": 3, "warmup": 0}}
    one = train(settings(faces, tmp_path / "a", ramps=ended, **few))
    other = train(settings(faces, tmp_path / "b", **few))
    assert torch.equal(one.head.weight, other.head.weight)


def test_Ramps_keep_the_state_of_a_margin(faces, tmp_path):
    margin = {"name": "adaface", "scale": 16, "margin": 0.3}
    ramps = {"margin": {"margin": {"first": 0.0, "over": 4}}}
    run = train(settings(faces, tmp_path, margin=margin, ramps=ramps, schedule={"length": 6, "warmup": 0}))
    assert run.head.margin == AdaFace(16, 0.3)
    assert float(run.head.margin_norm_mean) != AdaFace().state["norm_mean"]


def test_plan_expects_the_loss_of_the_first_values(faces, tmp_path):
    config = settings(faces, tmp_path, ramps={"margin": {"margin": {"first": 0.0, "over": 6}}})
    found = plan(config)
    first = expected_first_loss(config.ramps.first_margin(config.margin), found.identities, 8)
    assert found.first_loss == first < expected_first_loss(config.margin, found.identities, 8)
    assert found.ramps == {"margin.margin": Ramp(0.0, 0.2, 0, 6)}


def test_RampsConfig_survives_the_file_of_a_run(faces, tmp_path):
    config = settings(faces, tmp_path, ramps=RAMPS)
    assert build_config(yaml.safe_load(config.to_yaml()), "again") == config
    assert "ramps" not in settings(faces, tmp_path).to_yaml()


@pytest.mark.parametrize(
    ("ramps", "message"),
    [
        ({"margn": {}}, "unknown key 'ramps.margn'; did you mean 'margin'"),
        ({"margin": {"margn": {"first": 0, "over": 3}}}, "ramps.margin.margn is not a number of ArcFace .*'margin'"),
        ({"margin": {"margin_gradient": {"first": 0, "over": 3}}}, "ramps.margin.margin_gradient is not a number"),
        ({"margin": {"margin": {"first": -1, "over": 3}}}, r"ramps.margin: margin must lie in \[0, π/2\]"),
        ({"margin": {"margin": {"frist": 1, "over": 3}}}, "'ramps.margin.margin.frist'; did you mean 'first'"),
        ({"margin": {"margin": {"first": 1}}}, "ramps.margin.margin.over: Field required"),
        ({"variational": {"lamb": {"first": 0, "over": 3}}}, "ramps.variational.lamb is not a number .*'lam'"),
        ({"variational": {"lam": {"first": 2, "over": 3}}}, "ramps.variational.lam.first must lie in"),
        ({"sample_rate": {"first": 0, "over": 3}}, "ramps.sample_rate.first must lie in"),
    ],
)
def test_RampsConfig_names_the_key_at_fault(faces, tmp_path, ramps, message):
    with pytest.raises(ConfigError, match=message):
        settings(faces, tmp_path, ramps=ramps)


def test_RampsConfig_refuses_what_the_run_does_not_have(faces, tmp_path):
    lam = {"variational": {"lam": {"first": 0, "over": 3}}}
    with pytest.raises(ConfigError, match="variational that can change, which is switched off"):
        settings(faces, tmp_path, variational=None, ramps=lam)
    drawn = {"sample_rate": {"first": 0.5, "over": 3}}
    with pytest.raises(ConfigError, match="and sample_rate would drop"):
        settings(faces, tmp_path, margin="sphereface2", ramps=drawn)
