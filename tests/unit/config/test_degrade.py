"""``degrade`` of an evaluation set."""

from __future__ import annotations

import pytest

from vplface.config import Config, build_config
from vplface.config.degrade import read_degradation
from vplface.data.degrade import KINDS, Blur, Degradation, LowResolution
from vplface.errors import ConfigError
from vplface.strict_yaml import parse_yaml


def config(degrade: object) -> Config:
    sets = [{"name": "poor", "path": "faces", "degrade": degrade}, {"name": "clean", "path": "faces"}]
    return build_config({"name": "x", "data": {"train": "faces"}, "evaluation": {"sets": sets}}, "here")


def test_degrade_is_a_kind_or_a_kind_with_options() -> None:
    assert read_degradation("low_resolution") == Degradation(LowResolution((7, 11)))
    asked = {"kind": "low_resolution", "share": "2e-1", "pixels": ["5", 9], "seed": 3, "probes": True}
    assert read_degradation(asked) == Degradation(LowResolution((5, 9)), 0.2, 3, probes=True)
    assert read_degradation({"kind": "blur", "sigma": 4}) == Degradation(Blur((4.0, 4.0)))
    assert read_degradation(None) is None


@pytest.mark.parametrize("kind", KINDS)
def test_degrade_of_every_kind_is_read_back_from_yaml(kind: str) -> None:
    built = config({"kind": kind, "share": 0.25, "seed": 7})
    again = build_config(parse_yaml(built.to_yaml(), "there"), "there")
    assert again == built
    assert again.evaluation.sets[0].degrade == Degradation(KINDS[kind](), 0.25, 7)


def test_degrade_is_left_out_of_the_file_of_a_set_without_it() -> None:
    poor, clean = parse_yaml(config("noise").to_yaml(), "there")["evaluation"]["sets"]
    assert poor["degrade"]["kind"] == "noise"
    assert "degrade" not in clean


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("blurr", "kind 'blurr' is unknown; did you mean 'blur'"),
        ({"share": 0.5}, "needs a kind: low_resolution, blur"),
        ({"kind": 3}, "kind 3 is unknown; known: low_resolution"),
        (3, "must be a kind, or a kind and options"),
        ({"kind": "blur", "pixels": 3}, "pixels is not an option of blur; options: sigma, share, seed, probes"),
        ({"kind": "low_resolution", "pixels": [11, 7]}, r"pixels must be two numbers within 1\.\.112.*got \(11, 7\)"),
        ({"kind": "low_resolution", "pixels": [7]}, "degrade.pixels"),
        ({"kind": "low_resolution", "pixels": [7.5, 9]}, "degrade.pixels.0"),
        ({"kind": "noise", "sigma": "much"}, "degrade.sigma.0"),
        ({"kind": "noise", "share": 1.5}, r"share must lie in 0\.\.1"),
        ({"kind": "noise", "share": "half"}, "degrade.share"),
        ({"kind": "noise", "seed": -1}, "seed must lie in"),
        ({"kind": "noise", "seed": 10**30}, "degrade.seed"),
        ({"kind": "noise", "probes": "some"}, "degrade.probes"),
    ],
)
def test_degrade_names_what_is_wrong(value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"here: evaluation\.sets\.0\.degrade: .*{message}"):
        config(value)
