"""Text from elsewhere, made safe to show: control characters are shown and never obeyed."""

from __future__ import annotations

import re

# C0 and C1 controls without tab and newline; marks that reorder or hide text (bidirectional controls, line separators).
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def printable(text: str) -> str:
    r"""The text with each control character written out: ESC becomes the four characters ``\x1b``."""
    return _CONTROLS.sub(_written_out, text)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
