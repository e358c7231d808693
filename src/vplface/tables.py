"""Tables on the terminal that are never cut: they wrap, continue below, or become records where that is not enough."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from vplface.printable import printable

_LONGEST_WORD = 32
"""Longer words, such as paths, are folded."""
_GAP = 2
"""Spaces between two columns."""


class Table:
    """A table that fits the width of the terminal, for untrusted text.

    Where the columns are too wide, their heads wrap at words; then the cells of columns of text do, while figures stay
    whole. Where that is not enough, the columns continue below, beside the first one again. Where not even two columns
    fit, each row is a record: its first cell, and below it a line for each other cell.

    Args:
        title: a line above the table; "" for none.
        heads: of the columns; none for a list of names and their values.
        text: the columns of text, which are aligned on the left; the others hold figures.
    """

    def __init__(self, title: str, heads: Sequence[str] = (), text: Collection[int] = (0,)) -> None:
        self._title = title
        self._heads = [_text(head) for head in heads]
        self._text = text
        self._rows: list[tuple[list[Text], str]] = []

    def add_row(self, *cells: str | Text, style: str = "") -> None:
        """Add a row with a cell for each column."""
        self._rows.append(([_text(cell) for cell in cells], style))

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return len(self._rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._title:
            yield Text(printable(self._title), style="table.title", overflow="fold")
        if not self._rows and not self._heads:
            return
        blocks = self._blocks(options.max_width)
        if blocks is None:
            yield from self._records(options.max_width)
            return
        for number, (columns, widths) in enumerate(blocks):
            if number:
                yield Text()
            yield self._grid(columns, widths)

    def _blocks(self, width: int) -> list[tuple[list[int], list[int]]] | None:
        """Columns that are beside each other, and their widths; None if not even two fit."""
        count = len(self._heads) or len(self._rows[0][0])
        blocks, begin = [], 1
        while begin < max(count, 2):
            end = count
            while (widths := self._widths(columns := [0, *range(begin, end)], width)) is None:
                end -= 1
                if end <= begin or not self._heads:
                    return None
            blocks.append((columns, widths))
            begin = max(end, 2)
        return blocks

    def _widths(self, columns: Sequence[int], width: int) -> list[int] | None:
        """Widths of columns that are beside each other; None if they do not fit."""
        space = width - _GAP * len(columns)
        whole, least, most = [], [], []
        for at in columns:
            head = self._heads[at] if self._heads else Text()
            cells = [row[at] for row, _ in self._rows]
            lines = max(map(_line, cells), default=0)
            whole.append(max(_word(head), lines))
            least.append(max(map(_word, [head, *cells])) if at in self._text else whole[-1])
            most.append(max(_line(head), lines))
        for narrowest in (whole, least):
            if sum(narrowest) <= space:
                return _shared(space, narrowest, most)
        return None

    def _grid(self, columns: Sequence[int], widths: Sequence[int]) -> RichTable:
        table = RichTable(
            box=box.SIMPLE_HEAD if self._heads else None,  # whose lines between columns are a space wide
            show_header=bool(self._heads),
            show_edge=False,
            padding=(0, _GAP - 1 if self._heads else _GAP, 0, 0),
            pad_edge=False,
        )
        for at, width in zip(columns, widths, strict=True):
            head = self._heads[at] if self._heads else ""
            table.add_column(head, width=width, overflow="fold", justify="left" if at in self._text else "right")
        for cells, style in self._rows:
            if 1 in columns or len(columns) == 1 or any(cells[at].plain for at in columns[1:]):
                table.add_row(*(cells[at] for at in columns), style=style)
        return table

    def _records(self, width: int) -> RenderResult:
        names = self._heads[1:]
        of_names = min(max(map(_line, names), default=0), width // 2 - _GAP)
        for (first, *others), style in self._rows:
            yield Text.assemble(first, style=style or "bold", overflow="fold")
            if not names:
                yield from (Padding(Text.assemble(other, overflow="fold"), (0, 0, 0, _GAP)) for other in others)
                continue
            table = RichTable(box=None, show_header=False, padding=(0, _GAP, 0, 0), pad_edge=False)
            table.add_column(width=of_names, overflow="fold")
            table.add_column(overflow="fold")
            for name, cell in zip(names, others, strict=True):
                if cell.plain:
                    table.add_row(name, cell)
            yield Padding(table, (0, 0, 0, _GAP))


def _text(cell: str | Text) -> Text:
    return Text(printable(cell)) if isinstance(cell, str) else cell


def _line(cell: Text) -> int:
    """The width of the longest line."""
    return max(map(cell_len, cell.plain.split("\n")))


def _word(cell: Text) -> int:
    """The width of the longest word, or of as much of it as has to stay whole."""
    return min(max(map(cell_len, cell.plain.split()), default=0), _LONGEST_WORD)


def _shared(space: int, least: Sequence[int], most: Sequence[int]) -> list[int]:
    """Widths from ``least`` to ``most`` that fill a space: the widest columns give way first."""
    limit = max(most)
    while True:
        widths = [max(low, min(high, limit)) for low, high in zip(least, most, strict=True)]
        if sum(widths) <= space:
            return widths
        limit -= 1
