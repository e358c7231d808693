"""Escaping of control characters in untrusted text."""

from __future__ import annotations

import re

# C0 and C1 controls without tab and newline; marks that reorder or hide text (bidirectional controls, line separators).
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_LINES = {ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
"""Digits and minus to exponents, for ``str.translate``."""

NAME_LENGTH = 200
"""Longest name shown in a line, in characters."""

LINE_LENGTH = 8000
"""Longest message, in characters; the longest file path fits."""


def printable(text: str) -> str:
    r"""Escape each control character: ESC becomes the four characters ``\x1b``."""
    return _CONTROLS.sub(_written_out, text)


def printable_name(text: str, most: int = NAME_LENGTH) -> str:
    r"""Name for one line: control characters, tabs and newlines are escaped, and a long name is shortened.

    Otherwise a newline in a name could break a table or forge a line of output.
    """
    return shortened(printable(text.translate(_LINES)), most)


def shortened(text: str, most: int) -> str:
    """The text if it has at most ``most`` characters, else its beginning and its end."""
    if len(text) <= most:
        return text
    kept = most // 2
    return f"{text[:kept]} … ({len(text) - 2 * kept:,} characters) … {text[-kept:]}"


def printable_json(text: str) -> str:
    """Escape each control character of a JSON text as JSON does, which preserves all values."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
