"""YAML from untrusted sources: bounds, one meaning, and round trips."""

from __future__ import annotations

import math
import os
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from helpers.paths import ROOT
from vplface.errors import DataError
from vplface.strict_yaml import DEEPEST, LIMIT, MOST_VALUES, number, parse_yaml, plain, read_yaml, to_yaml, written


def bomb(levels: int, opening: str = "[{}]") -> str:
    lines = ["l0: &l0 " + opening.format(",".join("x" * 10))]
    lines += [f"l{i}: &l{i} " + opening.format(",".join([f"*l{i - 1}"] * 10)) for i in range(1, levels)]
    return "\n".join(lines)


MERGES = "l0: &l0 {k: 1}\n" + "".join(f"l{i}: &l{i} {{<<: [*l{i - 1}, *l{i - 1}], k{i}: 1}}\n" for i in range(1, 40))

REFUSED = {
    "aliases that multiply": (bomb(9), "line 5: more than 50,000 values"),
    "merges that multiply": (MERGES, "more than 50,000 values"),
    "a long text that is repeated": (
        f"a: &a {'x' * 10**5}\nb: [{','.join(['*a'] * 5000)}]",
        "line 2: more than 50,000 values",
    ),
    "an alias inside its anchor": ("a: 1\nb: &b {c: *b}", r"line 2: the alias \*b refers to itself"),
    "a merge of itself": ("a: &a {<<: *a}", r"line 1: the alias \*a refers to itself"),
    "no anchor": ("a: *b", r"line 1: the alias \*b has no anchor before it"),
    "deep lists": ("a:\n  " + "[" * 3000 + "]" * 3000, "line 2: nested deeper than 32"),
    "deep mappings": ("{a: " * 3000, "nested deeper than 32"),
    "deep blocks": ("- " * 3000, "nested deeper than 32"),
    "wide": ("[" + "a," * MOST_VALUES + "]", "line 1: more than 50,000 values"),
    "long": ("a" * (LIMIT + 1), "longer than 1 MiB"),
    "a list as a key": ("a: 1\n? [b]\n: c", "line 2: a key must be a scalar"),
    "a mapping as a key": ("{{a: b}: c}", "a key must be a scalar"),
    "an alias to a list as a key": ("a: &a [1]\n*a : b", "line 2: a key must be a scalar"),
    "a key twice": ("a: 1\nlr: 2\nb: 3\nlr: 4", "line 4: the key 'lr' is a duplicate of the one in line 2"),
    "a key twice inside": ("a: {b: 1, b: 2}", "line 1: the key 'b' is a duplicate"),
    "two documents": ("a: 1\n---\nb: 2", "line 2: a second document"),
    "a tag of Python": ("a: !!python/object/apply:os.system [x]", "line 1: the tag '!!python/object/apply:os.system'"),
    "a tag of its own": ("a: 1\nb: !mine x", "line 2: the tag '!mine' is not known"),
    "no number": ("a: !!int abc", "line 1: 'abc' is not a valid !!int"),
    "no truth value": ("a: !!bool maybe", "'maybe' is not a valid !!bool"),
    "a time": ("a: !!timestamp abc", "the tag '!!timestamp' is not known"),
    "a set": ("a: !!set {b}", "the tag '!!set' is not known"),
    "a null character": ('a: "\\0"', "line 1: a text contains"),
    "half of a pair": ('a: "\\ud800"', "line 1: a text contains"),
    "no code of a character": ('a: "\\UFFFFFFFF"', "not valid YAML"),
    "a version of 5000 digits": ("%YAML 1." + "9" * 5000 + "\n---\na: 1", "not valid YAML"),
    "a control character": ("a: 1\nb: \x1b[31m", r"line 2: not valid YAML: character U\+001B"),
    "a list that does not end": ("a: [1", "line 1: not valid YAML: expected ',' or ']'"),
    "a merge of a word": ("a: {<<: b}", "<< takes a mapping"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_parse_yaml_refuses_invalid_and_hostile_text_quickly_in_one_line(kind):
    text, message = REFUSED[kind]
    began = time.process_time()
    with pytest.raises(DataError, match=f"^w.*{message}") as raised:
        parse_yaml(text, "w")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300
    assert time.process_time() - began < 10


def test_parse_yaml_keeps_ambiguous_scalars_as_text():
    words = (
        "0x_, 0x1F, 0o17, 2026-11-31, 2026-11-30, 1:30, 007, +7, -0, 1e3, 1_000, .5, 5., 1.50, no, yes, on, Off, True"
    )
    assert parse_yaml(f"[{words}]", "w") == words.split(", ")
    digits = "9" * 5000
    assert parse_yaml(f"{{7: a, no: b, 2026-11-30: c, null: d, e: {digits}}}", "w") == {
        "7": "a",
        "no": "b",
        "2026-11-30": "c",
        "null": "d",
        "e": digits,
    }


def test_parse_yaml_reads_plain_numbers_booleans_and_null():
    found = parse_yaml("[16, -3, 0, 0.5, -12.25, 1.0e-05, true, false, null, ~, '', '16', !!str 16, !!int 007]", "w")
    assert found == [16, -3, 0, 0.5, -12.25, 1e-05, True, False, None, None, "", "16", "16", 7]
    assert [type(each) for each in found[:4]] == [int, int, int, float]


@pytest.mark.parametrize(
    ("text", "value"),
    [("007", 7), ("1e3", 1e3), (".1", 0.1), ("+5", 5), ("5.", 5.0), ("0x1F", 31), ("0o17", 15), ("-.INF", -math.inf)],
)
def test_number_reads_the_numbers_of_yaml_1_2(text, value):
    assert number(text) == value
    assert type(number(text)) is type(value)


@pytest.mark.parametrize("text", ["", "1_000", "1:30", "0x_", "abc", "inf", "nan", "2026-11-30", "²", "1e", "9" * 5000])
def test_number_returns_None_for_text_that_is_not_a_number(text):
    assert number(text) is None


def test_parse_yaml_lets_explicit_keys_override_merged_keys():
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {y: 5, <<: [*a, *b]}\nd: {<<: *b}\ne: {'<<': 6}"
    found = parse_yaml(text, "w")
    assert found["c"] == {"x": 1, "y": 5, "z": 4}
    assert found["d"] == {"y": 3, "z": 4}
    assert found["e"] == {"<<": 6}


def test_read_yaml_refuses_irregular_large_missing_and_non_utf_8_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "large.yaml").write_bytes(b"#" * (LIMIT + 1))
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    messages = {
        **dict.fromkeys(("pipe", "zero"), "not a regular file"),
        "large": "larger than 1 MiB",
        "latin": "not utf-8 text",
        "none": "No such file",
    }
    for name, message in messages.items():
        with pytest.raises(DataError, match=rf"{name}\.yaml.*{message}"):
            read_yaml(tmp_path / f"{name}.yaml")


def test_read_yaml_agrees_with_safe_load_on_studies_and_recipes():
    root = ROOT
    paths = [*root.glob("studies/*.yaml"), *root.glob("src/vplface/configs/*.yaml")]
    assert len(paths) > 8

    def same(ours, theirs):
        if isinstance(ours, dict):
            return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in ours)
        if isinstance(ours, list):
            return len(ours) == len(theirs) and all(map(same, ours, theirs))
        return ours == theirs or (isinstance(theirs, float) and number(ours) == theirs)

    for path in paths:
        assert same(read_yaml(path), yaml.safe_load(path.read_text(encoding="utf-8"))), path


CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**19), 10**19),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(CHARACTERS),
    st.text(st.sampled_from("0123456789.eE+-_:xXoabcfnty~<=!&*#'\" \n")),
)
VALUES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(CHARACTERS), below, max_size=3)
)


@given(VALUES, st.booleans())
def test_parse_yaml_inverts_to_yaml(value, flow):
    text = to_yaml(value, flow=flow)
    again = parse_yaml(text, "w")
    assert again == value
    assert repr(again) == repr(value)
    assert "\n" not in text or not flow


@given(st.text(CHARACTERS))
def test_written_inverts_plain(text):
    value = plain(text)
    if value is not None:
        assert written(value) == text


@given(st.text(st.sampled_from("[]{},:&*!|>'\"%@`#-?<~ \n\tab01.\\x")))
def test_parse_yaml_reads_any_text_or_refuses_it_in_one_line(text):
    said = "w"
    try:
        parse_yaml(text, "w")
    except DataError as error:
        said = str(error)
    assert said.startswith("w")
    assert "\n" not in said


def test_parse_yaml_accepts_nesting_of_the_depth_DEEPEST():
    deepest: list[object] = []
    for _ in range(DEEPEST - 1):
        deepest = [deepest]
    assert parse_yaml("[" * DEEPEST + "]" * DEEPEST, "w") == deepest
