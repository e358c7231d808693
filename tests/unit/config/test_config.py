from pathlib import Path

import numpy as np
import pytest
import yaml

from vplface import EPL, UNPG, XBM, AdaFace, ArcFace, CosFace, LastFeature, SeveralFeatures, Variational
from vplface.config import Duration, build_config, merge, overlay, read_config, shipped_recipes
from vplface.data.samplers import Balanced, Proximity, Sharded, Shuffled
from vplface.errors import ConfigError, UsageError
from vplface.prototypes import DriftStartRule
from vplface.prototypes.memories import MEMORIES

MINIMAL = {"name": "x", "data": {"train": "faces"}}


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_shipped_recipes_are_valid_and_survive_a_round_trip(recipe, tmp_path):
    config = read_config(recipe)
    stored = tmp_path / "config.yaml"
    stored.write_text(config.to_yaml(), encoding="utf-8")
    assert read_config(stored) == config
    for arm in config.arms.values():
        build_config(overlay(config.model_dump(mode="json"), arm), recipe)


def test_recipes_are_found_by_name_and_by_the_path_of_the_documentation():
    assert read_config("quickstart") == read_config("configs/quickstart.yaml") == read_config("quickstart.yaml")


def test_a_path_stands_for_a_source_and_one_source_for_a_list():
    config = build_config(MINIMAL, "x")
    assert str(config.data.train[0].path) == "faces"
    assert (
        build_config({"name": "x", "data": {"train": {"path": "f", "min_pictures": 2}}}, "x").data.train[0].min_pictures
        == 2
    )


def test_overrides_reach_nested_keys_lists_and_new_sections():
    merged = merge(
        {"a": {"b": 1}, "l": [{"k": 1}, 2]}, ["a.b=2.5", "l.0.k=[1, 2]", "l.1=text", "new.section.key=null", "a.c=x=y"]
    )
    assert merged == {
        "a": {"b": 2.5, "c": "x=y"},
        "l": [{"k": [1, 2]}, "text"],
        "new": {"section": {"key": None}},
    }


def test_an_override_changes_its_key_and_neither_an_alias_nor_what_it_was_given():
    raw = yaml.safe_load("first: &shared {k: 1, l: [1, 2]}\nsecond: *shared")
    merged = merge(raw, ["first.k=2", "first.l.0=3"])
    assert merged == {"first": {"k": 2, "l": [3, 2]}, "second": {"k": 1, "l": [1, 2]}}
    assert raw == {"first": {"k": 1, "l": [1, 2]}, "second": {"k": 1, "l": [1, 2]}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer", "key=value"),
        ("=3", "key=value"),
        ("l.5.k=1", "not an index in 0..0"),
        ("a.b.c=1", "holds the value 1"),
        ("a.b=[1", "not valid YAML"),
    ],
)
def test_malformed_overrides_are_refused(override, message):
    with pytest.raises(UsageError, match=message):
        merge({"a": {"b": 1}, "l": [{"k": 1}]}, [override])


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
        ({**MINIMAL, "margin": "sphereface2", "sample_rate": 0.5}, "of which sample_rate would take a part"),
        ({**MINIMAL, "margin": "sphereface2", "terms": ["unpg"]}, "UNPG adds negatives"),
        ({**MINIMAL, "margin": "adaface", "terms": ["broadface"]}, "of which AdaFace knows neither norm"),
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
def test_faults_are_named_with_their_key(raw, message):
    with pytest.raises(ConfigError, match=message):
        build_config(raw, "x")


def test_the_command_line_is_blamed_for_its_own_faults_and_the_file_for_others(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'lr'"):
        read_config("quickstart", ["optimizer.lrr=1"])
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: x\ndata: {trian: f}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken.yaml: unknown key 'data.trian'"):
        read_config(broken, ["seed=1"])


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), ("- 1", "mapping"), ("", "mapping")])
def test_files_that_are_no_configuration(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_config(path)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "c.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"c\.yaml: not utf-8 text: byte 6 is 0xe9"):
        read_config(tmp_path / "c.yaml")


def test_numbers_that_yaml_takes_for_text():
    config = build_config({**MINIMAL, "margin": {"name": "adaface", "t_alpha": "1e-2"}}, "x")
    assert config.margin == AdaFace(t_alpha=0.01)
    assert build_config({**MINIMAL, "terms": [{"name": "xbm", "weight": "1e-1"}]}, "x").terms == [XBM(weight=0.1)]
    assert injection(start={"drift": "1e-1"}).start == DriftStartRule(0.1)


def test_a_run_folder_is_called_and_lies_as_it_is(tmp_path, monkeypatch):
    config = build_config(MINIMAL, "x")
    for name in ("first", "deep/copied"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        assert read_config(tmp_path / name).run_folder == tmp_path / name
    monkeypatch.chdir(tmp_path / "deep/copied")
    assert read_config(".").run_folder == tmp_path / "deep/copied"
    assert read_config("..//copied/", ["name=other"]).run_folder == Path("../other")
    assert read_config("config.yaml").name == config.name


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        read_config("quikstart")


def test_durations():
    assert Duration(1.5, "epochs").steps(10) == 15
    assert Duration(7).steps(10) == 7
    config = build_config({**MINIMAL, "schedule": {"length": 300, "warmup": "2 epochs"}}, "x")
    assert config.schedule.length == Duration(300)
    assert config.schedule.warmup == Duration(2, "epochs")


def test_a_sampler_is_a_name_or_a_name_and_options():
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


def test_margins_and_injection_become_the_objects_of_the_head():
    config = build_config(
        {
            **MINIMAL,
            "margin": {"name": "cosface", "scale": 30},
            "variational": {"lam": 0.2, "delta_t": "1 epoch", "start": 5},
        },
        "x",
    )
    assert config.margin == CosFace(30, 0.35)
    assert config.variational.resolve(40, np.ones(5), 8) == Variational(0.2, 40, 5)
    assert build_config(MINIMAL, "x").margin == ArcFace(32.0, 0.4)
    assert yaml.safe_load(config.to_yaml())["margin"] == {"name": "cosface", "scale": 30.0, "margin": 0.35}


@pytest.mark.parametrize("name", list(MEMORIES))
def test_a_memory_is_chosen_by_name(name):
    config = build_config({**MINIMAL, "variational": {"memory": name}}, "x")
    assert config.variational.resolve(10, np.ones(5), 8).memory == MEMORIES[name]()
    assert build_config(yaml.safe_load(config.to_yaml()), "x") == config


def test_a_memory_takes_options_and_says_what_is_wrong_with_them():
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


def test_another_choice_takes_over_no_options():
    below = {
        "margin": {"name": "arcface", "scale": 32, "margin_gradient": "exact"},
        "optimizer": {"name": "sgd", "lr": 1},
    }
    changes = {"margin": {"name": "cosface", "margin": 0.2}, "optimizer": {"name": "adamw"}}
    expected = {"margin": {"name": "cosface", "margin": 0.2}, "optimizer": {"name": "adamw", "lr": 1}}
    assert overlay(below, changes) == expected
    assert overlay(below, {"margin": {"name": "arcface", "scale": 8}})["margin"] == below["margin"] | {"scale": 8}


def test_overlay_merges_sections_and_replaces_values():
    assert overlay({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "d": None}) == {"a": {"b": 9, "c": 2}, "d": None}


def test_a_backbone_may_be_given_by_its_name():
    assert build_config({**MINIMAL, "backbone": "iresnet18"}, "x").backbone.name == "iresnet18"


def test_terms_are_read_by_name_with_starts_in_steps_or_epochs():
    terms = ["unpg", {"name": "xbm", "size": 64, "start": "2 epochs"}, {"name": "epl", "start": 7}]
    config = build_config({**MINIMAL, "terms": terms}, "x")
    assert config.resolved_terms(50) == [UNPG(), XBM(64, start=100), EPL(start=7)]
    again = build_config(yaml.safe_load(config.to_yaml()), "x")
    assert again == config
    assert again.resolved_terms(10) == [UNPG(), XBM(64, start=20), EPL(start=7)]
    assert build_config(MINIMAL, "x").resolved_terms(10) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terms": ["xmb"]}, "did you mean 'xbm'"),
        ({"terms": [{"name": "unpg", "start": "1 epochs"}]}, "terms.start is not an option of unpg"),
        ({"terms": [{"name": "xbm", "start": "soon"}]}, "'soon' is not a duration"),
        ({"terms": [{"name": "xbm", "size": 0}]}, "size must be at least 1"),
        ({"terms": ["unpg", "unpg"]}, "two UNPG"),
        ({"terms": ["broadface"], "accumulate": 2}, "accumulate: 1"),
        ({"terms": ["broadface"], "variational": {}}, "take one of the two"),
    ],
)
def test_terms_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build_config({**MINIMAL, **changes}, "x")


def injection(**options):
    return build_config({**MINIMAL, "variational": options}, "test").variational


def test_rules_in_place_of_lengths():
    sizes = np.full(100, 20)
    auto = injection(start="auto", delta_t=30)
    assert auto.start == DriftStartRule()
    assert auto.resolve(50, sizes, 8) == Variational(0.15, 30, "auto")
    covered = injection(delta_t={"coverage": 0.5}, start="2 epochs")
    # 1 − exp(−8·Δt/100) ≥ 1/2 from 100·ln 2/8 = 8.66 on
    assert covered.resolve(50, sizes, 8) == Variational(0.15, 9, 100)
    both = injection(delta_t={"coverage": 0.5, "drift": 0.1}, start=200)
    assert both.resolve(50, sizes, 8) == Variational(0.15, 9, "auto")
    assert (both.start_rule(50), both.lifetime_drift) == (200, 0.1)
    drift = injection(delta_t={"drift": 0.1}, start={"drift": 0.3, "measurements": 5, "by": 0.7})
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
def test_rules_are_read_as_they_are_written(tmp_path, options):
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
def test_a_rule_at_fault_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        build_config({**MINIMAL, "variational": options}, "test")


def test_keys_that_do_not_go_together_are_named_without_the_whole_recipe():
    raw = {"name": "a", "data": {"train": "x"}, "accumulate": 2, "optimizer": {"fused": True, "clip": None}}
    with pytest.raises(ConfigError) as error:
        build_config(raw, "mine.yaml")
    assert str(error.value).startswith("mine.yaml: optimizer.fused")
    assert str(error.value).endswith("it needs accumulate: 1")


def test_a_recipe_that_is_not_there_is_looked_for_beside_it(tmp_path):
    (tmp_path / "factors.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=r"did you mean '.*factors\.yaml'\?$"):
        read_config(tmp_path / "factor.yaml")
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        read_config(tmp_path / "quickstar")
    with pytest.raises(ConfigError, match="known: folder, lfw"):
        read_config(tmp_path / "xyz.yaml")
