"""Unusual recipes and overrides give a configuration or an error in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vplface import UNPG
from vplface.config import Config, Duration, apply_overrides, build_config, read_config
from vplface.errors import ConfigError, UsageError
from vplface.strict_yaml import parse_yaml, to_yaml
from vplface.study import read_grid
from vplface.training.networks import backbone_of

MINIMAL = {"name": "x", "data": {"train": "faces"}}
CPU = torch.device("cpu")
ODD = [
    *("people #2", "2024", "007", "1e3", "1.50", "2026-11-30", "0x1F", "1:30", "1_000", "no", "Yes", "on", "off"),
    *("true", "a: b", "*", "&a", "!x", "@a", "%b", "|", "> x", "-", "-x", "?", "#2", "{", " lead", "trail ", "a\nb"),
    *("’", "\udcff"),
]


def read_back(config: Config, folder: Path) -> Config:
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    return read_config(folder / "config.yaml")


@pytest.mark.parametrize("text", [each for each in ODD if each != "{"])
def test_read_config_keeps_names_and_paths_of_overrides_as_written(text, tmp_path):
    config = read_config("folder", [f"name={text}", f"data.train={text}", f"evaluation.best={text}"])
    assert (config.name, config.data.train[0].path, config.evaluation.best) == (text, Path(text), text)
    assert read_back(config, tmp_path) == config


@pytest.mark.parametrize("text", [each for each in ODD if each not in ("*", "&a", "\udcff") and each.strip() == each])
def test_read_config_keeps_names_and_paths_of_files_as_written(text, tmp_path):
    bare = text if text[0] not in "*&!@%|>-?#{a" and "#" not in text and "\n" not in text else json.dumps(text)
    (tmp_path / "r.yaml").write_text(f"name: {bare}\ndata:\n  train:\n  - {bare}\n  - path: {bare}\n", encoding="utf-8")
    config = read_config(tmp_path / "r.yaml")
    assert config.name == text
    assert [source.path for source in config.data.train] == [Path(text)] * 2


def test_apply_overrides_parses_lists_mappings_and_quoted_text_as_yaml():
    assert apply_overrides({}, ['a="x #1"', "b='2'", "c=[1, x]", "d={k: 2}", "e= 5 ", "f=", "g=~"]) == {
        "a": "x #1",
        "b": "2",
        "c": [1, "x"],
        "d": {"k": 2},
        "e": 5,
        "f": None,
        "g": None,
    }
    with pytest.raises(UsageError, match=r"the value of 'a', line 1: .*in quotes"):
        apply_overrides({}, ["a=[x] y"])


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0/\\"), min_size=1, max_size=50))
def test_to_yaml_keeps_any_name(name):
    raw = {"name": name, "data": {"train": [name]}, "arms": {name: {"data": {"train": name}}}}
    if name in (".", "..") or name.startswith("~"):
        return
    config = build_config(raw, "x")
    again = build_config(parse_yaml(config.to_yaml(), "x"), "x")
    assert again == config
    assert again.name == name
    assert again.arms == {name: {"data": {"train": name}}}
    assert build_config(apply_overrides({}, [f"name={to_yaml(name, flow=True)}", "data.train=f"]), "x").name == name


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.floats(),
    st.sampled_from([".inf", "1e999", "9" * 5000, "0x_", "", "~", "x", "3 epochs", "1e9 steps", "2 epoch", "-1"]),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from(["name", "amount", "drift", "path", "width"]), st.integers(0, 9), max_size=2),
)


def places(value: object, prefix: str = "") -> list[str]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [(f"{prefix}{key}", below) for key, below in inside]
    return [place for key, below in found for place in (key, *places(below, f"{key}."))]


FULL = build_config(
    {
        **MINIMAL,
        "variational": {"delta_t": {"coverage": 0.5}, "start": "auto", "memory": {"name": "several"}},
        "terms": ["xbm", {"name": "epl", "start": "2 epochs"}],
        "backbone": {"name": "tiny", "options": {"width": 8}},
        "evaluation": {
            "sets": [
                {"name": "s", "path": "p", "synthetic": {"identities": 2, "pictures": 2}},
                {"name": "poor", "path": "p", "degrade": {"kind": "surveillance", "pixels": [9, 12]}},
            ]
        },
    },
    "x",
).model_dump(mode="json")


@given(st.lists(st.tuples(st.sampled_from(places(FULL)), LEAVES), min_size=1, max_size=3))
def test_build_config_refuses_odd_values_in_one_line_or_reads_them_back(changes):
    raw = json.loads(json.dumps(FULL))
    for place, value in changes:
        try:
            *parents, last = [int(part) if part.isdigit() else part for part in place.split(".")]
            here = raw
            for part in parents:
                here = here[part]
            here[last] = value
        except (KeyError, IndexError, TypeError):  # an earlier change has replaced its parent
            pass
    try:
        config = build_config(raw, "r.yaml")
    except ConfigError as error:
        message = str(error)
        assert message.startswith("r.yaml: ")
        assert "\n" not in message
        assert len(message) < 600
        return
    assert build_config(parse_yaml(config.to_yaml(), "r"), "r") == config
    for length in (config.schedule.length, config.log_every, config.schedule.warmup):
        assert 0 <= length.steps(10**6) < 10**16


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("threads=100000", "threads: .*less than or equal to 1024"),
        ("data.workers=1e6", "data.workers: .*less than or equal to 1024"),
        ("batch_size=1e9", "batch_size: .*less than or equal to"),
        ("batch_size=true", "batch_size: .*got 'true'"),
        ("accumulate=1e7", "accumulate: .*less than or equal to"),
        ("subcenters=1e7", "subcenters: .*less than or equal to"),
        ("backbone.embedding_dim=1e9", "backbone.embedding_dim: .*less than or equal to 65536"),
        ("evaluation.bootstrap=1e9", "evaluation.bootstrap: .*less than or equal to"),
        ("checkpoints_kept=1e12", "checkpoints_kept: .*less than or equal to"),
        ("log_every=1e12", "log_every: a duration must be 0 to 1,000,000,000 steps"),
        ("schedule.length=" + "9" * 400, "schedule.length: .*not a duration"),
        ("schedule.length={amount: .nan}", "schedule.length: .*not a duration"),
        ("schedule.length=-3", "schedule.length: a duration must be 0"),
        ("timeout=1e300", "timeout: .*less than or equal to"),
        ("optimizer.lr=.nan", "optimizer.lr: .*greater than 0"),
        ("optimizer.lr=nan", "optimizer.lr: .*greater than 0"),
        ("optimizer={lr: .inf, fused: true, clip: null}", "fused needs a finite lr"),
        ("optimizer.weight_decay=.inf", "optimizer.weight_decay: .*finite"),
        ("optimizer.clip=1e308", "optimizer.clip: .*less than or equal to"),
        ("data.augmentation.flip=.nan", "data.augmentation.flip"),
        ("evaluation.fars=[.inf]", "evaluation.fars.0"),
        ("margin.scale=.inf", r"margin\.scale must be at most"),
        ("margin.scale=1e200", r"margin\.scale must be at most"),
        ("margin={name: [1]}", r"margin\.name \[1\] is unknown"),
        ("variational.delta_t={drift: .inf}", r"delta_t\.drift must be at most"),
        ("variational.memory={name: several, count: 1e6}", r"memory\.count must be at most 1,024"),
        ("terms=[{name: xbm, size: 1e12}]", r"terms\.size must be at most"),
        ("terms=[{name: unpg, whisker: .nan}]", r"terms\.whisker"),
        ("data.sampler={name: proximity, within: 1e12}", r"sampler\.within must be at most"),
        ("data.train={path: x, synthetic: {identities: 1e12, pictures: 1}}", "synthetic.identities: .*less than"),
        ("backbone.options={widht: 3}", r"backbone\.options\.widht is not an option of mobilefacenet; known: blocks"),
        ("backbone={name: tiny, options: {widht: 3}}", r"backbone\.options\.widht .*did you mean 'width'"),
        ("backbone={name: tiny, options: {width: wide}}", r"backbone\.options\.width: .*integer.*got 'wide'"),
        ("backbone={name: tiny, options: {width: 1e9}}", r"backbone\.options\.width: no number may exceed 65,536"),
        ("backbone={name: tiny, options: {norm: layer}}", r"backbone\.options\.norm: .*'batch' or 'none'"),
        ("backbone.options={blocks: [1, 4, 1000000, 2]}", r"backbone\.options\.blocks: no number may exceed"),
        ("backbone={name: 'timm:vit', options: {depth: 1e9}}", r"backbone\.options\.depth: no number may exceed"),
        ("seed=" + "9" * 5000, "seed: .*exceeded maximum size"),
        ("name=a/b", "must be the name of a folder"),
        ("name=" + "x" * 300, "must be the name of a folder"),
        (".".join("a" * 5000) + "=1", "more than 32 parts"),
        ("data.train.²=1", "cannot set"),
    ],
)  # fmt: skip
def test_read_config_names_the_key_of_an_invalid_value(override, message):
    with pytest.raises(UsageError, match=message) as raised:
        read_config("folder", [override])
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("text", "rate"), [("1e-3", 1e-3), (".1", 0.1), ("5.0e-4", 5e-4), ("+2", 2.0), ("0x10", 16.0), ("007", 7.0)]
)
def test_read_config_converts_text_to_numbers(text, rate):
    assert read_config("folder", [f"optimizer.lr={text}"]).optimizer.lr == rate
    assert build_config(MINIMAL | {"optimizer": {"lr": text}}, "x").optimizer.lr == rate


def test_Duration_survives_a_round_trip():
    for amount in (1234567, 10**9, 0.1, 0.00001, 2.5, 30):
        for unit in ("steps", "epochs"):
            length = Duration(amount, unit)
            config = build_config(MINIMAL | {"schedule": {"length": str(length)}}, "x")
            assert config.schedule.length == length
    assert build_config(MINIMAL | {"schedule": {"length": "1e3"}}, "x").schedule.length == Duration(1000)


def test_read_config_accepts_an_infinite_whisker(tmp_path):
    config = read_config("folder", ["terms=[{name: unpg, whisker: .inf}]"])
    assert config.terms == [UNPG(float("inf"))]
    assert read_back(config, tmp_path) == config


def test_BackboneConfig_converts_options_to_the_types_of_the_arguments():
    options = build_config(MINIMAL | {"backbone": {"name": "tiny", "options": {"width": "016"}}}, "x").backbone.options
    assert options == {"width": 16}
    raw = {"name": "timm:any", "options": {"a": "1.0e-5", "b": "True", "c": ["1e3", "x"]}}
    assert build_config(MINIMAL | {"backbone": raw}, "x").backbone.options == {"a": 1e-5, "b": True, "c": [1e3, "x"]}


@pytest.mark.parametrize(
    "backbone",
    [
        {"name": "tiny", "options": {"width": 60_000}},
        {"name": "mobilefacenet", "options": {"blocks": [1, 4, 60_000, 2]}},
        {"name": "mobilefacenet", "options": {"scale": 60_000}},
    ],
)
def test_backbone_of_refuses_a_network_too_large_for_memory(backbone):
    config = build_config(MINIMAL | {"backbone": backbone}, "x")
    with pytest.raises(ConfigError, match=r"GiB of memory; lower backbone|more than 20,000 modules"):
        backbone_of(config, CPU)


def test_read_config_expands_home_folders(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    config = read_config("folder", ["data.train=~/faces"])
    assert config.data.train[0].path == Path("/home/ada/faces")
    raw = {
        "name": "x",
        "output": "~/runs",
        "init_from": "~nobody-of-this-name/r",
        "backbone": {"weights": "~/w.pt"},
        "data": {"train": {"path": "~/a/~", "people": "~/p", "exclude": "./~/e"}},
    }
    config = build_config(raw, "x")
    source = config.data.train[0]
    assert [config.output, config.init_from, config.backbone.weights, source.path, source.people, source.exclude] == [
        *(Path("/home/ada/runs"), Path("~nobody-of-this-name/r"), Path("/home/ada/w.pt")),
        *(Path("/home/ada/a/~"), Path("/home/ada/p"), Path("./~/e")),
    ]


def test_read_grid_is_bounded_and_keeps_names_as_written(tmp_path):
    study = tmp_path / "s #1.yaml"
    study.write_text(
        "name: 007\noutput: 2024\nbase: {data: {train: 1e3}}\nbaselines: [1]\n"
        "arms: {1: {}, no: {optimizer: {lr: 1e-3}}}"
    )
    grid = read_grid(study)
    assert grid.folder == Path("2024/007")
    assert grid.arms == ["1", "no"]
    assert grid.cells[1].config.optimizer.lr == 1e-3
    assert str(grid.cells[0].config.data.train[0].path) == "1e3"
    for override, message in (
        ("workers=100000", "workers: .*1024"),
        ("threads=100000", "threads: .*1024"),
        ("seeds=[-1]", "seeds.0"),
        (f"seeds={list(range(6000))}", "12,000 runs; settings × arms × seeds × folds may be at most 10,000"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_grid(study, [override])


def test_read_config_refuses_a_device_and_reads_a_folder_with_odd_characters(tmp_path):
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"zero\.yaml.*not a regular file"):
        read_config(tmp_path / "zero.yaml")
    folder = tmp_path / "-my run #2\nagain"
    folder.mkdir()
    (folder / "config.yaml").write_text(build_config(MINIMAL, "x").to_yaml())
    assert read_config(folder).run_folder == folder
