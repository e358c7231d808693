"""Tables that fit the terminal without losing a character."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.text import Text

from vplface.console import Console
from vplface.tables import Table


def shown(table, width):
    written = io.StringIO()
    Console(file=written, width=width).print(table)
    return [line.rstrip() for line in written.getvalue().splitlines()]


def arms():
    table = Table("two arms", ["arm", "TAR at FAR 10⁻³", "loss"])
    table.add_row("finetune-shallow", Text("90.1\n89.0 – 91.2"), "1.5")
    table.add_row("arcface", "88.0", "")
    return table


def test_Table_keeps_lines_whole_where_there_is_room():
    assert shown(arms(), 80) == [
        "two arms",
        "arm               TAR at FAR 10⁻³  loss",
        "───────────────────────────────────────",
        "finetune-shallow             90.1   1.5",
        "                      89.0 – 91.2",
        "arcface                      88.0",
    ]


def test_Table_wraps_heads_before_cells():
    assert shown(arms(), 38) == [
        "two arms",
        "                    TAR at FAR",
        "arm                       10⁻³  loss",
        "────────────────────────────────────",
        "finetune-shallow          90.1   1.5",
        "                   89.0 – 91.2",
        "arcface                   88.0",
    ]


def test_Table_wraps_columns_of_text_before_figures():
    table = Table("", ["finding", "pictures", "meaning"], text=(0, 2))
    table.add_row("truncated", "1 of 2", "the file was cut short")
    assert shown(table, 35) == [
        "finding    pictures  meaning",
        "─────────────────────────────────",
        "truncated    1 of 2  the file was",
        "                     cut short",
    ]


def test_Table_continues_columns_below():
    assert shown(arms(), 32) == [
        "two arms",
        "                    TAR at FAR",
        "arm                       10⁻³",
        "──────────────────────────────",
        "finetune-shallow          90.1",
        "                   89.0 – 91.2",
        "arcface                   88.0",
        "",
        "arm               loss",
        "──────────────────────",
        "finetune-shallow   1.5",
    ]


def test_Table_shows_records_where_not_even_two_columns_fit():
    assert shown(arms(), 24) == [
        "two arms",
        "finetune-shallow",
        "  TAR at FAR  90.1",
        "  10⁻³        89.0 –",
        "              91.2",
        "  loss        1.5",
        "arcface",
        "  TAR at FAR  88.0",
        "  10⁻³",
    ]


def test_Table_folds_a_long_path_in_title_and_value():
    path = "/" + "very_long/" * 9
    table = Table(path, text=(0, 1))
    table.add_row("pictures", path)
    lines = shown(table, 40)
    assert max(map(len, lines)) <= 40
    assert "".join(line.removeprefix("pictures").strip() for line in lines) == 2 * path


def test_Table_without_rows_shows_title_and_heads():
    assert shown(Table("none yet", ["run", "step"]), 80) == ["none yet", "run  step", "─────────"]
    assert shown(Table("nothing"), 80) == ["nothing"]
    assert Table("").row_count == 0


cells = st.text("ab 7.é表-/", max_size=30)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(cells, min_size=3, max_size=3), st.lists(st.lists(cells, min_size=3, max_size=3), max_size=3), st.data()
)
def test_Table_never_cuts_and_never_exceeds_the_width(heads, rows, data):
    table = Table("a title", heads, text=data.draw(st.sets(st.integers(0, 2))))
    for row in rows:
        table.add_row(*row)
    width = data.draw(st.integers(12, 120))
    written = io.StringIO()
    Console(file=written, width=width).print(table)
    lines = written.getvalue().splitlines()
    assert all(Text(line).cell_len <= width for line in lines)
    assert "…" not in written.getvalue()
    expected = "".join(sorted("".join("".join(row) for row in rows).replace(" ", "")))
    got = "".join(lines)
    assert all(got.count(character) >= expected.count(character) for character in set(expected))


@pytest.mark.parametrize("width", [20, 200])
def test_Table_escapes_control_characters_before_it_measures(width):
    table = Table("\x1b[31m", ["\x1b]0;x", "b"])
    table.add_row("\x07red", "1")
    lines = shown(table, width)
    assert "\x1b" not in "".join(lines)
    assert any("\\x07red" in line for line in lines)
    assert max(map(len, lines)) <= width
