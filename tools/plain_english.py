"""Word list for the text that users read: pages, help, errors, reports.

Each phrase has plainer wording next to it. The check reads the pages in Markdown, without code and quotations, and the
strings in ``src/vplface``, which make up help, errors and reports. Docstrings are read in ``cli``, where they are help.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md")

_COUNTED = (
    "pictures?|process(?:es)?|operations|numbers?|times|bits|bytes|points?|vector|milliseconds|ms|steps|prototypes?"
)
_COMPARATIVES = "more|less|fewer|better|larger|higher|lower|faster|slower|worse|smaller"
_UNITS = "second|GPU|step|class|picture|person|number|rank|pass|epoch|row"

PHRASES: dict[str, str] = {
    r"anew": "again, from scratch",
    r"told": "state, list; for a user: ask, pass",
    r"tell(?:s|ing)? apart": "distinguish",
    r"of which": "a second sentence",
    r"(?:borne|bears?|bore) out": "significant, confirmed",
    r"(?:owed?|owes) to": "due to",
    r"in vain": "without success, timed out",
    r"for want of": "because there is no",
    r"(?:goe?s?|went) on(?! top)(?! the)": "continue, resume",
    rf"(?<!there )(?:is|are) no (?!longer|{_COMPARATIVES})": "is not",
    r"what (?:an?|the|this|that|each|every) [\w-]+ (?:is|are|was|were|has|does|says)": "name the thing",
    r"(?:there|that) is to": "name what is done",
    r"(?:is|are) to be": "must be, will be",
    r"may be had": "is available",
    r"flatter(?:s|ed|ing)?": "is optimistically biased, favours",
    r"beforehand": "before",
    r"(?:stands?|holds?|stood|held) still": "is frozen, does not change",
    r"at fault": "invalid, wrong",
    r"kept? aside": "held out",
    r"whole program": "complete script",
    r"to the letter": "literally, exactly",
    r"com(?:es?|ing) into being": "starts, is created",
    r"without a word": "silently",
    r"as (?:ever|always)": "as before, as usual",
    r"not surely": "inconclusive",
    r"all the same(?! [a-z])": "anyway, still",
    r"save (?:for|what)": "except",
    r"but for": "except for",
    r"in the place of": "instead of",
    r"in the mean": "on average",
    r"by heart": "memorise",
    r"yardstick": "reference",
    r"whoever": "name the reader: you",
    r"mend(?:s|ed|ing)?": "fix",
    rf"(?:{_COUNTED}) an? (?:{_UNITS})": "per",
}
_PATTERNS = [(re.compile(rf"\b{phrase}\b", re.IGNORECASE), better) for phrase, better in PHRASES.items()]


def offences(text: str) -> Iterator[tuple[int, str, str]]:
    """Line from 1, the phrase found, and plainer wording. A phrase may continue on the next line."""
    flat = text.replace("\n", " ")
    for pattern, better in _PATTERNS:
        for found in pattern.finditer(flat):
            yield text.count("\n", 0, found.start()) + 1, found[0], better


def prose(page: str) -> str:
    """A page with code, quotations and link targets blanked out, line by line."""
    text = re.sub(r"^```.*?^```", _blank, page, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(?: {4}|>).*$", _blank, text, flags=re.MULTILINE)
    return re.sub(r"`[^`]*`|\"[^\"\n]*\"|\]\([^)\s]*\)", _blank, text)


def _blank(found: re.Match[str]) -> str:
    return re.sub(r"[^\n]", "·", found[0])


def strings(source: str, docstrings: bool) -> Iterator[tuple[int, str]]:
    """Line and text of each string of a module, with or without docstrings; of an f-string its constant parts."""
    tree = ast.parse(source)
    left_out = set()
    if not docstrings:
        left_out = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and " " in node.value
            and id(node) not in left_out
        ):
            yield node.lineno, re.sub(r"``[^`]*``|`[^`]*`", _blank, node.value)


def main() -> int:
    """Print each phrase with its place; 0 where there is none."""
    found = [
        (page.relative_to(ROOT), *offence)
        for pattern in PAGES
        for page in sorted(ROOT.glob(pattern))
        for offence in offences(prose(page.read_text(encoding="utf-8")))
    ]
    for module in sorted((ROOT / "src" / "vplface").rglob("*.py")):
        for first, text in strings(module.read_text(encoding="utf-8"), docstrings="cli" in module.parts):
            found += [(module.relative_to(ROOT), first + line - 1, *rest) for line, *rest in offences(text)]
    for path, line, phrase, better in found:
        print(f"{path}:{line}: “{phrase}”; plainer: {better}; see tools/plain_english.py")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
