"""Tables of help texts."""

from __future__ import annotations

from typing import Any

from rich.columns import Columns
from rich.table import Table
from rich.text import Text


class HelpTable(Table):
    """A table of rich that folds words which are too long for their column, instead of cutting them."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row of cells or of texts, as in rich."""
        super().add_row(*cells, **options)
        for column in self.columns:
            column.overflow = "fold"
        for text in (part for cell in cells if isinstance(cell, Columns) for part in cell.renderables):
            if isinstance(text, Text):
                text.overflow = "fold"
