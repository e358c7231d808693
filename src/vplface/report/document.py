"""Self-contained HTML documents: style and script are inside, and nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

from vplface.files import PRIVATE, replacing
from vplface.report.markup import Markup, tag


def document(title: str, body: Markup, script: str) -> str:
    """The page as text."""
    style = files("vplface.report").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Nothing is loaded, and only our own script runs: a hostile file name cannot change that.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    gradient = tag(
        "svg",
        tag(
            "defs",
            tag(
                "radialGradient",
                tag("stop", offset="0%", class_="ball-in"),
                tag("stop", offset="55%", class_="ball-in"),
                tag("stop", offset="100%", class_="ball-out"),
                id="ball",
                cx="38%",
                cy="32%",
                r="75%",
            ),
        ),
        width=0,
        height=0,
        style="position:absolute",
        aria_hidden="true",
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    page = tag("html", head, tag("body", gradient, body, tag("script", Markup(script)) if script else None), lang="en")
    return f"<!doctype html>\n{page}\n"


def write_page(path: Path, text: str) -> None:
    """Write the page atomically; raises DataError if the file cannot be written."""
    with replacing(path, PRIVATE) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def limits() -> Markup:
    """The limits of use, shown below all figures about faces."""
    return tag(
        "footer",
        tag(
            "p",
            "Models and figures on this page are for research. They describe these pictures under this protocol; error "
            "rates differ between groups of people, cameras and conditions, and must be measured on data like that of "
            "the intended use before they are used for decisions about people.",
        ),
        tag("p", "This page contains everything it shows and loads nothing from elsewhere."),
    )
