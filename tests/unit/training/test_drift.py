import logging
import math
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from vplface import NormSoftmax, PrototypeHead, Variational
from vplface.prototypes import DriftStartRule
from vplface.training.drift import DriftMonitor

APART = math.pi / 5  # between the two pictures of a class
SPREAD = 2 - 2 * math.cos(APART)


class Turn(nn.Module):
    """Turns vectors of the plane by an angle, and makes them longer."""

    angle = 0.0

    def forward(self, x):
        c, s = math.cos(self.angle), math.sin(self.angle)
        return 3.0 * x @ torch.tensor([[c, s], [-s, c]])


def probe():
    angles = torch.tensor([0.3, 0.3 + APART, 2.0, 2.0 - APART, 4.0])
    return torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([7, 7, 2, 2, 5])


def head_of(start="auto", delta_t=20, classes=3, group=None):
    variational = Variational(0.3, delta_t, start)
    return PrototypeHead(classes, 2, margin=NormSoftmax(4.0), variational=variational, process_group=group)


def train(head, monitor, network, angles, first=0, group=None):
    """Steps in which the network turns by the given angles; what was measured, by step."""
    generator = torch.Generator().manual_seed(first)
    measured = {}
    for step, angle in enumerate(angles, start=first + 1):
        head(torch.randn(4, 2, generator=generator), torch.tensor([0, 1, 1, 2])).backward()
        network.angle += angle
        found = monitor.step(network)
        if found is not None:
            measured[step] = found
    return measured


def chord(angle):
    return 2 - 2 * math.cos(angle)


def test_DriftMonitor_measures_the_squared_chord_of_a_turning_network_at_every_lag():
    head, network = head_of(10**6), Turn().train()
    monitor = DriftMonitor(head, *probe(), every=5, kept=3)
    measured = train(head, monitor, network, [0.02] * 25)
    assert list(measured) == [5, 10, 15, 20, 25]
    assert measured[5].by_lag == {}
    assert measured[5].spread == pytest.approx(SPREAD, rel=1e-5)
    assert list(measured[10].by_lag) == [5]
    for found in (measured[20], measured[25]):  # no more are kept than asked for
        assert found.by_lag == pytest.approx({lag: chord(0.02 * lag) for lag in (5, 10, 15)}, rel=1e-4)
    assert monitor.state_dict()["features"].shape == (4, 5, 2)


def test_DriftMonitor_measures_in_eval_mode_and_restores_the_mode_of_every_module():
    network = nn.Sequential(nn.BatchNorm1d(2, affine=False), nn.Dropout(0.5)).train()
    network[0].eval()
    head = head_of(10**6)
    monitor = DriftMonitor(head, *probe(), every=1)
    assert train(head, monitor, Wrapped(network), [0.0, 0.0])[2].by_lag == {1: 0.0}
    assert [part.training for part in network.modules()] == [True, False, True]


class Wrapped(nn.Module):
    angle = 0.0

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def falling(step):
    """Angle of a step: drift over 20 steps falls below a quarter of S = .38 when they turn by .309 or less."""
    return 0.05 if step < 30 else 0.01


def test_DriftStartRule_begins_after_three_small_measurements_in_a_row():
    head, network = head_of(delta_t=18), Turn()
    monitor = DriftMonitor(head, *probe(), every=10, start=DriftStartRule(drift=0.25, measurements=3))
    measured = train(head, monitor, network, [falling(step) for step in range(90)])
    # Over the last 20 steps, the lag that covers 18: 1.0 at 30, .6 at 40, .2 from 50 on.
    turned = {30: 1.0, 40: 0.6, 50: 0.2}
    assert {s: measured[s].by_lag[20] for s in turned} == pytest.approx({s: chord(a) for s, a in turned.items()}, 1e-4)
    assert chord(0.2) < 0.25 * SPREAD < chord(0.6)
    assert monitor.begin == (70, 18, True, False)
    assert (head.begun_at, head.delta_t) == (70, 18)


def test_DriftMonitor_begin_makes_the_next_step_the_first_that_is_remembered():
    head, network = head_of(delta_t=1), Turn()
    monitor = DriftMonitor(head, *probe(), every=2, start=DriftStartRule(measurements=1))
    train(head, monitor, network, [0.0] * 4)
    assert monitor.begin.step == 4
    assert head.memory is None
    head(torch.eye(2), torch.tensor([0, 1])).backward()
    assert head.timer.tolist() == [1, 1, 0]
    torch.testing.assert_close(head.memory[:2], torch.eye(2))


def test_DriftStartRule_restarts_its_count_after_a_measurement_above_the_bound():
    head, network = head_of(delta_t=5), Turn()
    monitor = DriftMonitor(head, *probe(), every=5, start=DriftStartRule(measurements=3))
    jump = {16}
    train(head, monitor, network, [1.0 if step in jump else 0.0 for step in range(60)])
    # still at 10 and 15, moved at 20, still at 25, 30 and 35
    assert monitor.begin.step == 35


def test_DriftMonitor_begins_with_a_warning_if_features_never_settle(caplog):
    head, network = head_of(delta_t=10), Turn()
    monitor = DriftMonitor(head, *probe(), every=10, start=DriftStartRule(by=0.4), steps=61)
    with caplog.at_level(logging.INFO):
        train(head, monitor, network, [0.1] * 61)
    assert monitor.begin == (25, 10, False, False)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    share = chord(1.0) / SPREAD
    assert f"over 10 steps drift is {share:.2f} of the distance" in record.message
    assert "although features have not settled" in record.message


def test_DriftMonitor_without_steps_never_begins_while_features_move(caplog):
    head, network = head_of(delta_t=10), Turn()
    monitor = DriftMonitor(head, *probe(), every=10)
    train(head, monitor, network, [0.1] * 61)
    assert monitor.begin is None
    assert head.begun_at is None
    assert head.memory is None


@pytest.mark.parametrize(("longest", "expected"), [(None, (40, True)), (35, (35, False)), (100, (40, True))])
def test_DriftMonitor_delta_t_is_the_largest_lag_within_lifetime_drift(longest, expected):
    # 2 − 2cos(.01·lag) ≤ bound·S up to lag 45
    bound = chord(0.455) / SPREAD
    head, network = head_of(delta_t=longest), Turn()
    monitor = DriftMonitor(head, *probe(), every=10, lifetime_drift=bound, start=83)
    train(head, monitor, network, [0.01] * 90)
    assert [lag for lag in range(1, 100) if chord(0.01 * lag) <= bound * SPREAD][-1] == 45
    delta_t, by_drift = expected
    assert monitor.begin == (83, delta_t, True, by_drift)


def test_DriftMonitor_ignores_lags_beyond_one_with_too_much_drift():
    head, network = head_of(delta_t=None), Turn()
    monitor = DriftMonitor(head, *probe(), every=10, lifetime_drift=0.25, start=60)
    train(head, monitor, network, [2 * math.pi / 40] * 60)  # all is as before after 40 steps
    assert monitor.begin == (60, 10, True, True)


def test_DriftMonitor_without_delta_t_requires_low_drift_over_one_interval():
    head, network = head_of(delta_t=None), Turn()
    monitor = DriftMonitor(head, *probe(), every=10, lifetime_drift=0.25, start=DriftStartRule(measurements=2))
    train(head, monitor, network, [0.1] * 35 + [0.01] * 65)
    # over 10 steps: 1.0 until 30, .55 at 40, .1 from 50 on; at 60 over 20 steps .2, over 30 .55 + .2
    assert monitor.begin == (60, 20, True, True)


@pytest.mark.parametrize("stop", [30, 55, 65, 75])
def test_DriftMonitor_resumes_from_its_state_as_if_never_stopped(stop):
    angles = [falling(step) for step in range(90)]
    made = lambda: head_of(delta_t=18)  # noqa: E731
    rule = {"every": 10, "start": DriftStartRule(measurements=3)}
    head, network = made(), Turn()
    monitor = DriftMonitor(head, *probe(), **rule)
    train(head, monitor, network, angles[:stop])
    saved, state = head.state_dict(), monitor.state_dict()
    assert int(saved["begun_at"]) == (70 if stop >= 70 else -1)
    whole = train(head, monitor, network, angles[stop:], stop)
    again, network_again = made(), Turn()
    again.load_state_dict(saved)
    assert again.begun_at == (70 if stop >= 70 else None)
    network_again.angle = sum(angles[:stop])
    resumed = DriftMonitor(again, *probe(), **rule)
    resumed.load_state_dict(state)
    assert train(again, resumed, network_again, angles[stop:], stop) == whole
    assert (again.begun_at, again.delta_t) == (70, 18)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in head.state_dict().items())


def test_DriftMonitor_load_state_dict_drops_measurements_of_another_interval_or_probe():
    head = head_of()
    monitor = DriftMonitor(head, *probe(), every=5)
    train(head, monitor, Turn(), [0.0] * 5)
    state = monitor.state_dict()
    pictures, labels = probe()
    for taken_up, measured in (
        (DriftMonitor(head_of(), pictures, labels, every=5), True),
        (DriftMonitor(head_of(), pictures, labels, every=7), False),
        (DriftMonitor(head_of(), pictures.flip(0), labels, every=5), False),
    ):
        taken_up.load_state_dict(state)
        assert bool(taken_up.state_dict()) == measured


@pytest.mark.parametrize(
    ("head", "labels", "options", "message"),
    [
        (head_of(), torch.arange(5), {}, "no two pictures of the probe"),
        (head_of(), None, {}, "no two pictures of the probe"),
        (head_of(delta_t=400), probe()[1], {"every": 10}, "measure every 25 steps"),
        (head_of(delta_t=None), probe()[1], {}, "Δt is not given"),
        (head_of(), probe()[1], {"start": 150, "lifetime_drift": 0.1}, "the first drift is known at step 200"),
        (head_of(), probe()[1], {"every": 0}, "every and kept"),
    ],
)
def test_DriftMonitor_refuses_a_rule_that_cannot_be_followed(head, labels, options, message):
    with pytest.raises(ValueError, match=message):
        DriftMonitor(head, probe()[0], labels, **options)


@pytest.mark.parametrize("options", [{"drift": 0.0}, {"measurements": 0}, {"by": 0.0}, {"by": 1.1}])
def test_DriftStartRule_refuses_values_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DriftStartRule(**options)


def begin_in_group(group, first_angle):
    """Only the first rank sees features settle; the angle of the others says what they would have decided."""
    head, network = head_of(delta_t=18, classes=5, group=group), Turn()
    monitor = DriftMonitor(head, *probe(), every=10, lifetime_drift=0.3)
    train(head, monitor, network, [falling(step) if group.rank() == 0 else first_angle for step in range(90)])
    return tuple(monitor.begin), head.begun_at, head.delta_t, int((head.timer > 0).sum())


@pytest.mark.slow
def test_DriftMonitor_in_two_processes_begins_when_the_first_decides(processes):
    one, two = processes.run(begin_in_group, 2, 0.3)
    assert one[:3] == two[:3] == ((70, 18, True, False), 70, 18)
    assert one[3] + two[3] == 3


@pytest.mark.slow
def test_DriftMonitor_imports_without_the_extra_for_training():
    script = textwrap.dedent("""
        import sys
        for name in ("cv2", "pydantic", "yaml", "typer", "rich", "tensorboard", "numba", "scipy"):
            sys.modules[name] = None
        import vplface.training.drift, vplface.training.instruments
    """)
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ)
