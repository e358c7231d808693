import pytest

from vplface.config import build_config
from vplface.errors import ConfigError

MINIMAL = {"name": "x", "data": {"train": "faces"}}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({**MINIMAL, "optimiser": {}}, "unknown key 'optimiser'; did you mean 'optimizer'"),
        ({**MINIMAL, "optimizer": {"learning_rate": 1}}, "unknown key 'optimizer.learning_rate'"),
        ({**MINIMAL, "data": {"train": [{"pth": "x"}]}}, "'data.train.0.pth'; did you mean 'path'"),
        (
            {**MINIMAL, "data": {"train": "x", "augmentation": {"flp": 1}}},
            "'data.augmentation.flp'; did you mean 'flip'",
        ),
        ({**MINIMAL, "variational": {"lambda": 0.1}}, "'variational.lambda'; did you mean 'lam'"),
        ({**MINIMAL, "margin": {"name": "arcfce"}}, "did you mean 'arcface'"),
        ({**MINIMAL, "loggers": ["wandbb"]}, "loggers.0: .* got 'wandbb'; did you mean 'wandb'"),
        ({**MINIMAL, "schedule": {"name": "sine", "length": 9}}, "schedule.name: .* got 'sine'; did you mean 'cosine'"),
        ({**MINIMAL, "loggers": ["zzz"]}, "loggers.0: .* got 'zzz'$"),
        ({**MINIMAL, "margin": {"name": "cosface", "m1": 1}}, "margin.m1 is not an option of cosface"),
        ({**MINIMAL, "margin": {"name": "arcface", "scale": -1}}, "scale must be positive"),
        ({**MINIMAL, "margin": {"name": "arcface", "scale": "abc"}}, "margin.scale: .*a valid number.*got 'abc'"),
        ({**MINIMAL, "terms": [{"name": "xbm", "size": 9.5}]}, "terms.size: .*a valid integer"),
        ({**MINIMAL, "evaluation": {"fars": [0]}}, "evaluation.fars.0: .*greater than 0"),
        ({**MINIMAL, "seed": 10**20}, "seed: .*less than"),
        ({**MINIMAL, "margin": "sphereface2", "sample_rate": 0.5}, "and sample_rate would drop a part"),
        ({**MINIMAL, "margin": "sphereface2", "terms": ["unpg"]}, "UNPG adds negatives"),
        ({**MINIMAL, "margin": "adaface", "terms": ["broadface"]}, "whose norm and difficulty AdaFace"),
        ({**MINIMAL, "subcenters": 2, "terms": ["epl"]}, "EPL asks for the prototype of a class"),
        ({**MINIMAL, "subcenters": 0}, "subcenters"),
        ({**MINIMAL, "interclass_threshold": -2}, "interclass_threshold"),
        ({**MINIMAL, "variational": {"lam": 2}}, "variational.lam.*less than or equal to 1"),
        ({**MINIMAL, "schedule": {"length": "5 weeks"}}, "schedule.length.*not a duration"),
        ({**MINIMAL, "batch_size": "many"}, "batch_size.*'many'"),
        ({**MINIMAL, "name": "../up"}, "name"),
        ({"name": "x"}, "data.*required"),
        (
            {**MINIMAL, "evaluation": {"sets": [{"name": "a", "path": "f", "pairs": "p", "people": "q"}]}},
            "give one of pairs",
        ),
    ],
)
def test_build_config_names_the_key_of_a_fault(raw, message):
    with pytest.raises(ConfigError, match=message):
        build_config(raw, "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terms": ["xmb"]}, "did you mean 'xbm'"),
        ({"terms": [{"name": "unpg", "start": "1 epochs"}]}, "terms.start is not an option of unpg"),
        ({"terms": [{"name": "xbm", "start": "soon"}]}, "'soon' is not a duration"),
        ({"terms": [{"name": "xbm", "size": 0}]}, "size must be at least 1"),
        ({"terms": ["unpg", "unpg"]}, "several UNPG"),
        ({"terms": ["broadface"], "accumulate": 2}, "accumulate: 1"),
        ({"terms": ["broadface"], "variational": {}}, "Take one of the two"),
    ],
)
def test_build_config_refuses_terms_that_do_not_fit(changes, message):
    with pytest.raises(ConfigError, match=message):
        build_config({**MINIMAL, **changes}, "x")


def test_build_config_names_keys_that_do_not_fit_together():
    raw = {"name": "a", "data": {"train": "x"}, "optimizer": {"name": "adamw", "fused": True}}
    with pytest.raises(ConfigError) as error:
        build_config(raw, "mine.yaml")
    assert str(error.value).startswith("mine.yaml: optimizer: fused")
    assert str(error.value).endswith("it needs name: sgd")


@pytest.mark.parametrize(
    ("optimizer", "accumulate", "expected"),
    [
        ({"fused": True, "clip": None}, 1, True),
        ({"fused": True, "clip": None}, 2, False),
        ({"fused": True}, 1, False),
        ({"clip": None}, 1, True),
        ({"clip": None, "fused": False}, 1, False),
        ({"clip": None, "name": "adamw"}, 1, False),
        ({"clip": None, "lr": float("inf")}, 1, False),
    ],
)
def test_Config_update_in_backward_where_nothing_needs_the_gradient(optimizer, accumulate, expected):
    raw = {"name": "a", "data": {"train": "x"}, "accumulate": accumulate, "optimizer": optimizer}
    assert build_config(raw, "x").update_in_backward is expected
