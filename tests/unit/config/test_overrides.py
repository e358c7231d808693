import pytest
import yaml

from vplface.config import apply_overrides, overlay
from vplface.errors import UsageError


def test_apply_overrides_reaches_nested_keys_lists_and_new_sections():
    merged = apply_overrides(
        {"a": {"b": 1}, "l": [{"k": 1}, 2]}, ["a.b=2.5", "l.0.k=[1, 2]", "l.1=text", "new.section.key=null", "a.c=x=y"]
    )
    assert merged == {
        "a": {"b": 2.5, "c": "x=y"},
        "l": [{"k": [1, 2]}, "text"],
        "new": {"section": {"key": None}},
    }


def test_apply_overrides_changes_neither_an_alias_nor_its_argument():
    raw = yaml.safe_load("first: &shared {k: 1, l: [1, 2]}\nsecond: *shared")
    merged = apply_overrides(raw, ["first.k=2", "first.l.0=3"])
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
def test_apply_overrides_refuses_malformed_overrides(override, message):
    with pytest.raises(UsageError, match=message):
        apply_overrides({"a": {"b": 1}, "l": [{"k": 1}]}, [override])


def test_overlay_merges_sections_and_replaces_values():
    assert overlay({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "d": None}) == {"a": {"b": 9, "c": 2}, "d": None}


def test_overlay_with_another_name_drops_the_options_of_the_first():
    below = {
        "margin": {"name": "arcface", "scale": 32, "margin_gradient": "exact"},
        "optimizer": {"name": "sgd", "lr": 1},
    }
    changes = {"margin": {"name": "cosface", "margin": 0.2}, "optimizer": {"name": "adamw"}}
    expected = {"margin": {"name": "cosface", "margin": 0.2}, "optimizer": {"name": "adamw", "lr": 1}}
    assert overlay(below, changes) == expected
    assert overlay(below, {"margin": {"name": "arcface", "scale": 8}})["margin"] == below["margin"] | {"scale": 8}
