"""``vplface docs``: pages of the documentation on the terminal."""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from vplface.cli.options import AS_JSON
from vplface.console import Console, print_json, say
from vplface.errors import DataError, UsageError
from vplface.reading import kind_of
from vplface.suggest import did_you_mean
from vplface.tables import Table


def pages() -> dict[str, Path]:
    """The pages by topic: of the clone that this package runs from, else those that the wheel installed.

    Raises:
        DataError: there are none.
    """
    clone = Path(__file__).parents[3]
    installed = Path(sysconfig.get_path("data")) / "share" / "doc" / "vplface"
    folder = clone / "docs" if kind_of(clone / "mkdocs.yml") is not None else installed
    found = {page.stem: page for page in sorted(folder.glob("*.md"))}
    if not found:
        raise DataError(f"{folder}: no pages of the documentation; they come with the wheel and with a clone")
    return found


def section_of(text: str, topic: str) -> str | None:
    """The first section whose heading has the words of a topic, up to the next heading of its level; None if none."""
    flags = re.MULTILINE | re.DOTALL
    fenced = re.sub(r"^```.*?^```", lambda block: re.sub(r"^#", ".", block[0], flags=flags), text, flags=flags)
    for heading in re.finditer(r"^(##+) (.+)$", fenced, flags=re.MULTILINE):
        if topic.lower() in heading[2].replace("`", "").lower():
            following = re.search(rf"^#{{1,{len(heading[1])}}} ", fenced[heading.end() :], flags=re.MULTILINE)
            return text[heading.start() : heading.end() + following.start() if following else len(text)].rstrip() + "\n"
    return None


def _topics(incomplete: str) -> list[str]:
    return [topic for topic in pages() if topic.startswith(incomplete)]


def docs(
    topic: Annotated[
        list[str] | None,
        typer.Argument(help="A page, or words of a heading.", show_default=False, autocompletion=_topics),
    ] = None,
    where: Annotated[bool, typer.Option("--where", help="Print the path of the page instead.")] = False,
    as_json: AS_JSON = False,
) -> None:
    """Show a page of the documentation, or the first section whose heading has the given words.

    Without a topic, list the pages. In a pipe the text is Markdown as written.

    Example:  vplface docs recipes
    """
    known = pages()
    if not topic:
        _list_pages(known, as_json)
        return
    path, text = _find(known, " ".join(topic))
    if as_json:
        print_json({"topic": " ".join(topic), "path": str(path), "text": text})
    elif where:
        say(path)
    elif sys.stdout.isatty():
        Console().print(Markdown(text, hyperlinks=False))
    else:
        print(text.rstrip("\n"))


def _list_pages(known: dict[str, Path], as_json: bool) -> None:
    table, rows = Table("", ["topic", "title", "path"], text=(0, 1, 2)), []
    for topic, path in known.items():
        title = path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")
        rows.append({"topic": topic, "title": title, "path": str(path)})
        table.add_row(topic, title, path.name)
    if as_json:
        print_json({"pages": rows})
        return
    Console().print(table)
    say(f"in {next(iter(known.values())).parent}")


def _find(known: dict[str, Path], topic: str) -> tuple[Path, str]:
    name = topic.lower().removesuffix(".md")
    if name in known:
        return known[name], known[name].read_text(encoding="utf-8")
    for path in known.values():
        section = section_of(path.read_text(encoding="utf-8"), topic)
        if section is not None:
            return path, section
    raise UsageError(f"no page and no heading {topic!r} (vplface docs lists the pages){did_you_mean(name, known)}")
