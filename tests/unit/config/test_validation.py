from typing import Annotated

import pytest
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from vplface.config.durations import read_duration
from vplface.config.section import Section
from vplface.config.validation import abbreviated, first_fault, refuse_unknown_keys, validate, validate_type
from vplface.errors import ConfigError


class Inner(Section):
    size: int = 1


class Outer(Section):
    name: str
    inner: Inner | None = None
    several: list[Inner] = Field(default=[])
    count: int = 0


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"name": "a", "inner": {"siz": 1}}, "f.yaml: unknown key 'inner.siz'; did you mean 'size'?"),
        ({"name": "a", "several": [{}, {"q": 1}]}, "f.yaml: unknown key 'several.1.q'; known: size"),
        ({"name": "a", "x\udcff": 1}, r"f.yaml: unknown key 'x\udcff'; known: name, inner, several, count"),
        ({"count": "many", "nmae": "a"}, "f.yaml: unknown key 'nmae'; did you mean 'name'?"),
        ({"count": "many", "inner": {"siz": 1}}, "f.yaml: unknown key 'inner.siz'; did you mean 'size'?"),
        ({"name": "a", "inner": {"size": "x"}, "count": "y"}, "f.yaml: inner.size: Input should be a valid integer, "),
    ],
)
def test_validate_names_origin_and_key(raw, message):
    with pytest.raises(ConfigError) as raised:
        validate(Outer, raw, "f.yaml")
    assert str(raised.value).startswith(message)


def test_validate_says_how_many_faults_there_are():
    with pytest.raises(ConfigError, match=r"^f: inner\.size: .*, got 'x' \(1 more\)$"):
        validate(Outer, {"name": "a", "inner": {"size": "x"}, "count": "y"}, "f")


def test_refuse_unknown_keys_ignores_missing_keys_and_invalid_values():
    refuse_unknown_keys(Outer, {"count": "many", "inner": {"size": "x"}}, "f")
    with pytest.raises(ConfigError, match=r"^f: unknown key 'inner\.siz'; did you mean 'size'"):
        refuse_unknown_keys(Outer, {"count": "many", "inner": {"siz": 1}}, "f")


def test_abbreviated_cuts_long_values():
    assert abbreviated("a") == "'a'"
    assert len(abbreviated("a" * 1000)) == 101


def _refuse(value):
    raise ValueError("slashes are not allowed")


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (Annotated[object, BeforeValidator(read_duration)], -3, "a duration must be 0 to 1,000,000,000 steps, got -3"),
        (Annotated[str, AfterValidator(_refuse)], "a/b", "slashes are not allowed, got 'a/b'"),
        (Annotated[int, Field(gt=0)], 0, "Input should be greater than 0, got 0"),
    ],
)
def test_first_fault_names_the_value_once(kind, value, expected):
    with pytest.raises(ValidationError) as raised:
        validate_type(kind, value)
    assert first_fault(raised.value) == expected
