"""Elements of HTML and SVG: plain text in them is escaped, control characters included."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TypeAlias

from vplface.printable import printable

VOID = frozenset({"meta", "img", "br", "hr"})


class Markup(str):
    """Text that is markup, and must not be escaped again."""

    __slots__ = ()


Child: TypeAlias = "str | Sequence[Child] | None"


def join(*children: Child) -> Markup:
    """Children one after the other: plain text escaped, markup as it is, None left out."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, str):
            parts.append(child if isinstance(child, Markup) else html.escape(printable(child)))
        elif child is not None:
            parts.append(join(*child))
    return Markup("".join(parts))


def tag(name: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """An element. ``class_`` stands for class, ``stroke_width`` for stroke-width; None leaves an attribute out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(printable(_text(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def _text(value: str | float) -> str:
    """Coordinates are rounded to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
