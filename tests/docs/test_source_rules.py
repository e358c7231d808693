"""tools/source_rules.py, which checks sizes and docstrings, on sources of a few lines."""

from __future__ import annotations

import importlib.util

import pytest

from helpers.paths import ROOT

spec = importlib.util.spec_from_file_location("source_rules", ROOT / "tools" / "source_rules.py")
assert spec is not None
assert spec.loader is not None
rules = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rules)

LONG = "def f():\n" + "    x = 1\n" * 60
WIDE = "def f(a, b, c, d, e, f, g, h, *, i): ..."
COMMAND = 'def f(a: Annotated[str, typer.Option(help="x")], ' + WIDE.removeprefix("def f(")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('"""Momentum SGD that updates prototypes."""', []),
        ('"""What momentum SGD is."""', ['p.py: docstring that begins with "What"']),
        ('class A:\n    def f(self):\n        """Write text."""', ["p.py A.f: docstring of fewer than 4 words"]),
        (LONG, ["p.py f: more than 60 lines"]),
        (f"# size: one case for each tag of the format\n@decorator\n{LONG}", []),
        (f"# another comment\n{LONG}", ["p.py f: more than 60 lines"]),
        (LONG.replace("x = 1", '"""Numbers of lines, four words."""', 1), []),
        (WIDE, ["p.py f: more than 8 parameters"]),
        ("class A:\n    " + WIDE.replace("a,", "self,"), []),
        (COMMAND, []),
        ("x = 1\n" * 401, ["p.py: more than 400 lines"]),
    ],
)
def test_offences_finds_each_broken_rule_and_accepts_a_reason(source: str, found: list[str]) -> None:
    assert list(rules.offences("p.py", source)) == found


def test_offences_allows_long_files_for_parquet_and_kernels() -> None:
    for path in ("vplface/data/formats/parquet.py", *rules.KERNELS):
        assert (ROOT / "src" / path).exists()
        assert list(rules.offences(path, "x = 1\n" * 401)) == []
