"""examples/argument: formulas by hand and against PrototypeHead; every script runs, prints and draws."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch.nn.functional import normalize

from helpers.paths import ROOT
from vplface import ArcFace, CosFace, NormSoftmax, PrototypeHead, Variational
from vplface.margins import Margin

pytest.importorskip("matplotlib", reason="the figures need vplface[plot]")
FOLDER = ROOT / "examples" / "argument"
DOCS = ROOT / "docs"
SCRIPTS = ("feature_drift", "two_samples", "prototype_gradient", "point_and_distribution")
SMALL = {
    "feature_drift": {"PEOPLE": 12, "EACH": 3},
    "two_samples": {"PEOPLE": 24, "STRANGERS": 12, "POINTS": 4},
    "prototype_gradient": {"DEEP": 4, "DEEP_EACH": 6, "SHALLOW": 12},
    "point_and_distribution": {"EACH": 6},
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module


def unit(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("lam", [0.0, 0.15, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_cosine_of_prototype_is_that_of_a_prototype_midway_between_the_pair(
    script: Callable[[str], ModuleType], lam: float, seed: int
) -> None:
    first, second = unit(2, 5, seed=seed)
    middle = normalize(first + second, dim=0)
    drawn = normalize((1 - lam) * middle + lam * second, dim=0)
    expected = script("two_samples").cosine_of_prototype(first @ second, lam)
    torch.testing.assert_close(first @ drawn, expected)


def test_cosine_of_prototype_and_loss_of_pair_at_a_right_angle_by_hand(
    script: Callable[[str], ModuleType],
) -> None:
    two_samples = script("two_samples")
    right_angle = torch.zeros((), dtype=torch.float64)
    assert math.isclose(float(two_samples.cosine_of_prototype(right_angle)), math.cos(math.pi / 4))
    loss = float(two_samples.loss_of_pair(right_angle, ArcFace(64.0, 0.5), 100_000))
    assert math.isclose(loss, math.log1p(99_999 * math.exp(-64 * math.cos(math.pi / 4 + 0.5))), rel_tol=1e-12)
    random = float(two_samples.loss_of_pair(right_angle, ArcFace(64.0, 0.5), 100_000, dim=512))
    by_hand = math.log1p(99_999 * math.exp(64**2 / (2 * 512) - 64 * math.cos(math.pi / 4 + 0.5)))
    assert math.isclose(random, by_hand, rel_tol=1e-12)


@pytest.mark.parametrize("margin", [NormSoftmax(16.0), ArcFace(16.0, 0.3), CosFace(16.0, 0.2)])
@pytest.mark.parametrize("pair", [-0.4, 0.0, 0.6])
@pytest.mark.parametrize("lam", [0.0, 0.15])
def test_loss_of_pair_equals_the_loss_of_PrototypeHead(
    script: Callable[[str], ModuleType], margin: Margin, pair: float, lam: float
) -> None:
    """The memory holds the first picture when the second is given; all other classes are at right angles."""
    classes, axes = 5, torch.eye(6, dtype=torch.float64)
    first, second = axes[0], pair * axes[0] + math.sqrt(1 - pair**2) * axes[1]
    head = PrototypeHead(
        classes, 6, margin=margin, variational=Variational(lam, 10, 0), backend="reference", dtype=torch.float64
    )
    label = torch.tensor([0])
    with torch.no_grad():
        head.weight.copy_(torch.stack([first + second, *axes[2:]]))
    head(first[None], label).backward()
    expected = script("two_samples").loss_of_pair(torch.tensor(pair, dtype=torch.float64), margin, classes, lam)
    torch.testing.assert_close(head(second[None], label).detach(), expected)


@pytest.mark.parametrize("margin", [NormSoftmax(8.0), ArcFace(32.0, 0.4), CosFace(16.0, 0.35)])
@pytest.mark.parametrize("variational", [None, Variational(0.3, 2, 0)])
def test_gradient_of_weight_equals_the_gradient_of_PrototypeHead(
    script: Callable[[str], ModuleType], margin: Margin, variational: Variational | None
) -> None:
    prototype_gradient = script("prototype_gradient")
    head = PrototypeHead(7, 5, margin=margin, variational=variational, backend="reference", dtype=torch.float64)
    labels = torch.tensor([0, 3, 3, 6])
    for seed in range(3):  # classes 0, 3 and 6 have a memory, the others never
        features = unit(4, 5, seed=seed)
        expected = prototype_gradient.gradient_of_weight(features, labels, head)
        head.weight.grad = None
        head(features, labels).backward()
        torch.testing.assert_close(head.weight.grad, expected)
    assert head.coverage() == (0.0 if variational is None else 3 / 7)


def test_weights_by_hand(script: Callable[[str], ModuleType]) -> None:
    axes = torch.eye(2, dtype=torch.float64)
    absorb, eliminate = script("prototype_gradient").weights(axes[:1], torch.tensor([0]), axes, CosFace(2.0, 0.5))
    share = 1 / (1 + math.exp(2 * (1 - 0.5)))
    assert absorb.tolist() == pytest.approx([share])
    assert eliminate.tolist() == [pytest.approx([0.0, share])]


def test_drift_is_the_mean_squared_distance(script: Callable[[str], ModuleType]) -> None:
    feature_drift = script("feature_drift")
    axes = torch.eye(2)
    assert feature_drift.drift(axes, axes) == 0
    assert feature_drift.drift(axes, axes.flip(0)) == 2
    assert feature_drift.drift(axes, -axes) == 4


def test_trustworthy_from_is_the_step_from_which_drift_stays_below_the_person_distance(
    script: Callable[[str], ModuleType],
) -> None:
    curves = {"step": [10, 20, 30, 40], "person": [1.0] * 4, "10": [None, 0.5, 1.0, 0.9], "20": [None, None, 2.0, 1.5]}
    trustworthy_from = script("feature_drift").trustworthy_from
    assert trustworthy_from(curves, 10) == 40
    assert trustworthy_from(curves, 20) is None


def shrunk_run(
    name: str, script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    module = script(name)
    for constant, value in SMALL[name].items():
        monkeypatch.setattr(module, constant, value)
    module.main(["--steps", "24", *arguments])


@pytest.mark.parametrize("name", SCRIPTS)
def test_main_of_each_script_prints_numbers_and_draws_its_figure(
    name: str,
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    picture = tmp_path / "figure.svg"
    shrunk_run(name, script, monkeypatch, ["--json", "--out", str(picture)])
    numbers = json.loads(capsys.readouterr().out)
    CHECKS[name](numbers)
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    assert "prefers-color-scheme: dark" in picture.read_text(encoding="utf-8")
    shrunk_run(name, script, monkeypatch, ["--unaugmented"] if name == "feature_drift" else [])
    assert "{" not in capsys.readouterr().out


def check_drift(numbers: dict[str, Any]) -> None:
    curves = numbers["curves"]
    assert curves["step"] == [10, 20]
    assert curves["10"][0] is None
    assert 0 < curves["10"][1] <= 4
    assert curves["20"] == [None, None]


def check_two_samples(numbers: dict[str, Any]) -> None:
    """In the mean over both pictures cos θ = √((1+c)/2)·v·middle, so neither factor is less than the product."""
    arms = numbers["arms"]
    for arm in arms.values():
        curves = arm["curves"]
        assert curves["step"][-1] == 24
        for cosine, middle in zip(curves["sample_prototype"], curves["prototype_middle"], strict=True):
            assert cosine <= max(middle, 0) + 1e-6
    start = sum(step <= 24 // 3 + 1 for step in arms["plain"]["curves"]["step"])
    for arm in arms.values():  # before injection begins all arms are equal
        assert arm["curves"]["loss"][:start] == arms["plain"]["curves"]["loss"][:start]
    assert arms["plain"]["held_out_minus_plain"] == [0, 0, 0]


def check_gradient(numbers: dict[str, Any]) -> None:
    for arm in numbers["arms"].values():
        assert arm["disagreement"] < 1e-3
        for curve in arm["curves"].values():
            assert all(0 <= low <= median <= high for low, median, high in curve)


def check_sphere(numbers: dict[str, Any]) -> None:
    """Every u lies on the arc from v to M, λ of the chord along, then brought back to unit length."""
    prototypes, memories, drawn = (
        torch.tensor(numbers[key], dtype=torch.float64) for key in ("prototypes", "memories", "drawn")
    )
    lam = 0.3
    expected = normalize((1 - lam) * prototypes + lam * memories[-1], dim=1)
    alive = torch.tensor(numbers["timer"]) > 0
    assert alive.any()
    torch.testing.assert_close(drawn[-1][alive], expected[alive], atol=1e-5, rtol=0)


CHECKS = {
    "feature_drift": check_drift,
    "two_samples": check_two_samples,
    "prototype_gradient": check_gradient,
    "point_and_distribution": check_sphere,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_method_page_shows_each_figure_with_its_command(name: str) -> None:
    page = (DOCS / "method.md").read_text(encoding="utf-8")
    picture = f"images/argument-{name.replace('_', '-')}.svg"
    assert (DOCS / picture).exists()
    assert f"({picture})" in page
    assert f"    python examples/argument/{name}.py --out docs/{picture}\n" in page


def test_feature_drift_help_states_the_formula_and_too_few_steps_are_refused(
    script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    main = script("feature_drift").main
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    assert "d(lag) = mean" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--steps", "3"])
    assert "--steps must be at least 24, got 3" in capsys.readouterr().err
