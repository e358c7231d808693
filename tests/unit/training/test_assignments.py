import builtins
import sys
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vplface.errors import ConfigError
from vplface.training.assignments import LARGEST_FILE, Assigned, NotRead, read_assignments

LITERALS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.lists(parts, max_size=3).map(tuple)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), parts, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "c.py"

    def write_and_read(source):
        path.write_bytes(source if isinstance(source, bytes) else source.encode("utf-8"))
        return read_assignments(path)

    return write_and_read


def values(found):
    return {key: known.value for key, known in found.keys.items() if isinstance(known, Assigned)}


def not_read(found):
    return {key: known.why for key, known in found.keys.items() if isinstance(known, NotRead)}


@given(LITERALS)
def test_literals_come_back_as_they_are(read, literal):
    found = read(f"config.key = {literal!r}\n")
    known = found.keys["key"]
    assert isinstance(known, Assigned), known
    assert known.value == literal
    assert repr(known.value) == repr(literal)
    assert known.where == "c.py:1"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("0.1 * 8", 0.8),
        ("100 * 10000", 1_000_000),
        ("-2 + 3 ** 2", 7),
        ("7 // 2", 3),
        ("7 % 4 / 2", 1.5),
        ("+5", 5),
        ("(1 + 2, [3 * 4])", (3, [12])),
        ("{'a': 2 * 3, 4: None}", {"a": 6, 4: None}),
        ("config.other // 8", 2),
        ("config['other']", 20),
    ],
)
def test_arithmetic_of_numbers_and_other_keys(read, expression, value):
    assert values(read(f"config.other = 20\nconfig.key = {expression}\n"))["key"] == value


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("__import__('os').getpid()", "a call"),
        ("open('x').read()", "a call"),
        ("GPUS * 2", "the name 'GPUS'"),
        ("lambda epoch: epoch", "a function"),
        ("f'{1}'", "a formatted string"),
        ("[x for x in (1, 2)]", "a comprehension"),
        ("1 if True else 2", "an if"),
        ("os.environ", "something that is no literal"),
        ("config.later", "config.later, which is not known here"),
        ("1 / 0", "arithmetic that fails"),
        ("10.0 ** 64 ** 1 * 1e300", "a number that is too large"),
        ("9 ** 9 ** 9", "a very large power"),
        ("1e999", "a number that is too large"),
        ("2 ** 64", "a number that is too large"),
        ("(-8) ** 0.5", "arithmetic of something that is no number"),
        ("'a' * 3", "arithmetic of something that is no number"),
        ("True + 1", "arithmetic of something that is no number"),
        ("{**other}", "a dict whose keys are no literals"),
        ("{(): 1}", "a dict whose keys are no literals"),
        ("b'bytes'", "something that is no literal"),
        ("[*other]", "something that is no literal"),
    ],
)
def test_anything_else_is_named_with_its_line(read, expression, why):
    known = read(f"config.a = 1\nconfig.key = {expression}\nconfig.later = 3\n").keys["key"]
    assert isinstance(known, NotRead)
    assert known.why.startswith(why)
    assert known.where == "c.py:2"


@pytest.mark.parametrize(
    "statement",
    [
        "config.key += 1",
        "if True:\n    config.key = 2",
        "for i in range(3):\n    config['key'] = i",
        "def change():\n    config.key = 2",
        "config.key, config.other = 1, 2",
        "config.key['part'] = 2",
        "config.key.append(2)",
        "del config.key",
        "with open('x') as config.key:\n    pass",
        "config.key.part = 2",
    ],
)
def test_a_key_that_may_have_changed_since_is_not_read(read, statement):
    found = read(f"config.key = [1]\n{statement}\nconfig.last = 3\n")
    assert "key" in not_read(found)
    assert values(found)["last"] == 3
    assert [remark.where for remark in found.statements] == ["c.py:2"]


def test_the_last_assignment_counts_and_chains_are_followed(read):
    found = read("config.a = config.b = 1\nconfig.a: int = 2\nconfig.b = f()\nconfig.b = 3\n")
    assert values(found) == {"a": 2, "b": 3}
    assert found.statements == []
    assert values(read("config.lr = 0.4\nconfig.lr = config.lr / 2\n")) == {"lr": 0.2}


@pytest.mark.parametrize(
    "made",
    [
        "from easydict import EasyDict\nconfig = EasyDict()\nconfig.lr = 0.1",
        "from easydict import EasyDict as E\nconfig = E({'lr': 0.1})",
        "import easydict\nconfig = easydict.EasyDict(lr=0.1)",
        "'''A configuration.'''\nconfig = {'lr': 0.1}",
        "config = edict({'lr': 0.2})\nconfig = edict(lr=0.1)",
    ],
)
def test_ways_to_make_a_config(read, made):
    found = read(made)
    assert values(found) == {"lr": 0.1}
    assert found.statements == []


def test_what_other_lines_do_is_named(read):
    found = read(
        "import os\nfrom base import config\nconfig.lr = 1\nconfig.update(other)\nother.lr = 2\nprint(config.lr)\n"
    )
    assert values(found) == {"lr": 1}
    assert [(said.where, said.why) for said in found.statements] == [
        ("c.py:1", "an import"),
        ("c.py:2", "an import"),
        ("c.py:4", "something that is no literal"),
        ("c.py:5", "something that is no literal"),
        ("c.py:6", "something that is no literal"),
    ]
    assert values(read("config.lr = 1\nconfig = load()\nconfig.wd = 2\n")) == {"wd": 2}


ATOMS = [
    "config.a",
    "config['b']",
    "config",
    "1",
    "'x'",
    "(1, 2)",
    "[]",
    "{}",
    "mark()",
    "mark",
    "x.y",
    "lambda: mark()",
]
FORMS = [
    "{} = {}",
    "{} += {}",
    "{}({})",
    "if {}:\n    config.a = {}",
    "for config.a in {}: {}",
    "def f(x={}): return {}",
    "@mark\nclass C({}): y = {}",
    "import mark",
    "config.a = __import__('mark')",
    "config.{} = {}",
    "assert {}, {}",
    "config.a = f'{{{}}}' + {}",
    "exec('mark()')",
]


@given(st.lists(st.tuples(st.sampled_from(FORMS), st.sampled_from(ATOMS), st.sampled_from(ATOMS)), max_size=6))
@example([("config.a = __import__('mark')", "1", "1")])
def test_no_source_is_ever_run(read, traces, lines):
    source = "config.first = 1\n" + "\n".join(form.format(a, b) for form, a, b in lines) + "\n"
    with suppress(ConfigError):
        read(source)
    assert traces == []


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """What a source would leave behind if it ran: a call of ``mark``, or an import of a module of that name."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "mark.py").write_text("import builtins; builtins.mark()\n", encoding="utf-8")
    calls = []
    builtins.mark = lambda *_: calls.append(1)
    sys.path.insert(0, str(folder))
    yield calls
    sys.path.remove(str(folder))
    del builtins.mark


@given(st.binary(max_size=200))
@example(b"\x00config.a = 1")
@example(b"# coding: nonsense\nconfig.a = 1")
@example(b"\xff\xfe")
@example(b"config.a = " + b"(" * 5000)
@example(b"config.a = " + b"-" * 20000 + b"1")
@example(b"config.a = " + b"1+" * 20000 + b"1")
@example(b"config.a = " + b"9" * 5000)
def test_bytes_of_any_kind_are_read_or_refused(read, data):
    with suppress(ConfigError):
        assert read(data).keys


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("config.lr = 0.1\nconfig.lr = = 2\n", r"c\.py, line 2: not Python: invalid syntax"),
        ("name: quickstart\ndata: {train: x}\n", "no configuration|not Python"),
        ("print('hello')\n", "no configuration: no line is of the form config.network"),
        ("", "no configuration"),
        ("config.a = 1\n" + "#" * LARGEST_FILE, "more than 256 KiB"),
    ],
)
def test_what_is_no_configuration_is_refused(read, source, message):
    with pytest.raises(ConfigError, match=message):
        read(source)


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path):
    for path in (tmp_path / "none.py", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_assignments(path)
