import numpy as np
import pytest
import yaml

from vplface import EPL, UNPG, XBM, AdaFace, LastFeature, SeveralFeatures
from vplface.config import build_config
from vplface.data.samplers import Balanced, Proximity, Sharded, Shuffled
from vplface.errors import ConfigError
from vplface.prototypes import DriftStartRule
from vplface.prototypes.memories import MEMORIES

MINIMAL = {"name": "x", "data": {"train": "faces"}}


def test_SamplerField_takes_a_name_or_a_name_and_options():
    def sampler(value):
        return build_config({"name": "x", "data": {"train": "f", "sampler": value}}, "c").data.sampler

    assert build_config({"name": "x", "data": {"train": "f"}}, "c").data.sampler == Shuffled()
    assert sampler("proximity") == Proximity(100)
    assert sampler({"name": "sharded", "window": 3}) == Sharded(10_000, 3)
    config = build_config({"name": "x", "data": {"train": "f", "sampler": {"name": "balanced", "per_class": 2}}}, "c")
    again = build_config(yaml.safe_load(config.to_yaml()), "c")
    assert again.data.sampler == Balanced(2)
    for value, message in (
        ("proximty", r"c: data\.sampler: sampler\.name 'proximty' is unknown; did you mean 'proximity'\?"),
        ({"name": "proximity", "whitin": 3}, r"sampler\.whitin is not an option of proximity; did you mean 'within'\?"),
        ({"within": 3}, r"sampler\.within is not an option of shuffled, which has none"),
        ({"name": "balanced", "per_class": 0}, r"per_class must be a whole number of at least 1, got 0"),
        (None, r"sampler must be a name, or a name and options; known: shuffled, balanced, proximity, sharded"),
    ):
        with pytest.raises(ConfigError, match=message):
            sampler(value)


@pytest.mark.parametrize("name", list(MEMORIES))
def test_MemoryField_takes_a_name(name):
    config = build_config({**MINIMAL, "variational": {"memory": name}}, "x")
    assert config.variational.resolve(10, np.ones(5, int), 8).memory == MEMORIES[name]()
    assert build_config(yaml.safe_load(config.to_yaml()), "x") == config


def test_MemoryField_takes_options_and_names_their_faults():
    def memory(value):
        return build_config({**MINIMAL, "variational": {"memory": value}}, "x").variational.memory

    assert build_config({**MINIMAL, "variational": {}}, "x").variational.memory == LastFeature()
    assert memory({"name": "several", "count": 2}) == SeveralFeatures(2)
    for value, message in (
        ("severl", "memory.name 'severl' is unknown; did you mean 'several'"),
        ({"name": "several", "cuont": 2}, "memory.cuont is not an option of several; did you mean 'count'"),
        ({"name": "several", "count": 0}, "count must be at least 1, got 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            memory(value)


def test_TermField_takes_starts_in_steps_or_epochs():
    terms = ["unpg", {"name": "xbm", "size": 64, "start": "2 epochs"}, {"name": "epl", "start": 7}]
    config = build_config({**MINIMAL, "terms": terms}, "x")
    assert config.resolved_terms(50) == [UNPG(), XBM(64, start=100), EPL(start=7)]
    again = build_config(yaml.safe_load(config.to_yaml()), "x")
    assert again == config
    assert again.resolved_terms(10) == [UNPG(), XBM(64, start=20), EPL(start=7)]
    assert build_config(MINIMAL, "x").resolved_terms(10) == []


def test_build_config_converts_numbers_that_yaml_reads_as_text():
    config = build_config({**MINIMAL, "margin": {"name": "adaface", "t_alpha": "1e-2"}}, "x")
    assert config.margin == AdaFace(t_alpha=0.01)
    assert build_config({**MINIMAL, "terms": [{"name": "xbm", "weight": "1e-1"}]}, "x").terms == [XBM(weight=0.1)]
    assert build_config(
        {**MINIMAL, "variational": {"start": {"drift": "1e-1"}}}, "x"
    ).variational.start == DriftStartRule(0.1)
