"""Text from elsewhere, made safe to show: control characters are shown and never obeyed."""

from __future__ import annotations

import re

# C0 and C1 controls without tab and newline; marks that reorder or hide text (bidirectional controls, line separators).
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_LINES = {ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
"""Digits and minus to exponents, for ``str.translate``."""

NAME_LENGTH = 200
"""The most characters of a name that a line shows."""

LINE_LENGTH = 8000
"""The most characters of a message; the longest path of a file fits."""


def printable(text: str) -> str:
    r"""The text with each control character written out: ESC becomes the four characters ``\x1b``."""
    return _CONTROLS.sub(_written_out, text)


def printable_name(text: str, most: int = NAME_LENGTH) -> str:
    r"""A name for one line: control characters, tabs and newlines are written out, and a long name is shortened.

    A name with a newline can then neither break the row of a table nor add a line that looks like one of ours.
    """
    return shortened(printable(text.translate(_LINES)), most)


def shortened(text: str, most: int) -> str:
    """The text if it has at most ``most`` characters, else its beginning and its end."""
    if len(text) <= most:
        return text
    kept = most // 2
    return f"{text[:kept]} … ({len(text) - 2 * kept:,} characters) … {text[-kept:]}"


def printable_json(text: str) -> str:
    """A JSON text with each control character as the escape of JSON, which keeps every value."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
