import numpy as np
import pytest
import yaml

from vplface import ArcFace, CosFace, Variational
from vplface.config import build_config, read_config
from vplface.errors import ConfigError
from vplface.prototypes import DriftStartRule

MINIMAL = {"name": "x", "data": {"train": "faces"}}


def variational(**options):
    return build_config({**MINIMAL, "variational": options}, "test").variational


def test_VariationalConfig_resolve_gives_the_objects_of_the_head():
    config = build_config(
        {
            **MINIMAL,
            "margin": {"name": "cosface", "scale": 30},
            "variational": {"lam": 0.2, "delta_t": "1 epoch", "start": 5},
        },
        "x",
    )
    assert config.margin == CosFace(30, 0.35)
    assert config.variational.resolve(40, np.ones(5, int), 8) == Variational(0.2, 40, 5)
    assert build_config(MINIMAL, "x").margin == ArcFace(32.0, 0.4)
    assert yaml.safe_load(config.to_yaml())["margin"] == {"name": "cosface", "scale": 30.0, "margin": 0.35}


def test_VariationalConfig_takes_rules_in_place_of_durations():
    sizes = np.full(100, 20)
    auto = variational(start="auto", delta_t=30)
    assert auto.start == DriftStartRule()
    assert auto.resolve(50, sizes, 8) == Variational(0.15, 30, "auto")
    covered = variational(delta_t={"coverage": 0.5}, start="2 epochs")
    # 1 − exp(−8·Δt/100) ≥ 1/2 from 100·ln 2/8 = 8.66 on
    assert covered.resolve(50, sizes, 8) == Variational(0.15, 9, 100)
    both = variational(delta_t={"coverage": 0.5, "drift": 0.1}, start=200)
    assert both.resolve(50, sizes, 8) == Variational(0.15, 9, "auto")
    assert (both.start_rule(50), both.lifetime_drift) == (200, 0.1)
    drift = variational(delta_t={"drift": 0.1}, start={"drift": 0.3, "measurements": 5, "by": 0.7})
    assert drift.resolve(50, sizes, 8) == Variational(0.15, None, "auto")
    assert drift.start_rule(50) == DriftStartRule(0.3, 5, 0.7)


@pytest.mark.parametrize(
    "options",
    [
        {"start": "auto"},
        {"start": {"drift": 0.1}, "delta_t": {"coverage": 0.4}},
        {"delta_t": {"drift": 0.2}, "momentum": 0.999},
        {"delta_t": "2 epochs", "start": 7},
    ],
)
def test_VariationalConfig_with_rules_survives_a_round_trip(tmp_path, options):
    config = build_config({**MINIMAL, "variational": options}, "test")
    (tmp_path / "a.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert read_config(tmp_path / "a.yaml") == config
    assert read_config(tmp_path / "a.yaml", ["variational.start=auto"]).variational.start == DriftStartRule()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "soon"}, "variational.start.*is not a duration"),
        ({"start": {"drfit": 0.1}}, "start.drfit is unknown; did you mean 'drift'"),
        ({"start": {"by": 2}}, "by must be a share of the run"),
        ({"start": {"drift": "small"}}, "start.drift: .*a valid number.*got 'small'"),
        ({"start": {"drift": True}}, "start.drift must be a number"),
        ({"start": {"drift": None}}, "start.drift: .*a valid number"),
        ({"start": True}, "start must be a number of steps"),
        ({"delta_t": {"coverage": 1.5}}, r"coverage must lie in \(0, 1\)"),
        ({"delta_t": {}}, "a coverage, a drift, or both"),
        ({"delta_t": {"drift": -1}}, "drift must be positive"),
        ({"delta_t": "auto"}, "is not a duration"),
        ({"momentum": 1.0}, "less than 1"),
    ],
)
def test_VariationalConfig_names_faulty_rules(options, message):
    with pytest.raises(ConfigError, match=message):
        build_config({**MINIMAL, "variational": options}, "test")
