"""The pages of the documentation: their blocks of code and YAML, and the commands that they show."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

from helpers.paths import ROOT
from vplface.cli.app import app

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])

SHORT = (
    "backbone={name: tiny, embedding_dim: 8, options: {width: 8}}",
    "schedule={length: 4, warmup: 1}",
    "batch_size=16",
    "data.workers=0",
    "data.holdout=0.4",
)
"""A small network and four steps, for recipes that say more."""

_PROGRAMS = "vplface|torchrun|srun|python|make|pip|for"


@dataclass(frozen=True)
class Block:
    """A fenced block; ``line`` is that of its first line in the page."""

    page: Path
    line: int
    text: str


def blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(page, text.count("\n", 0, match.start()) + 2, match[1]) for match in found]


def commands(page: Path) -> list[list[str]]:
    """The words of each line that is to be typed: indented lines that begin with a program, and those of scripts."""
    text = page.read_text(encoding="utf-8").replace("\\\n", "")
    lines = re.findall(rf"^ {{4}}((?:{_PROGRAMS}) .+)$", text, flags=re.MULTILINE)
    for script in blocks(page, "bash"):
        lines += re.findall(rf"^((?:{_PROGRAMS}) .+)$", script.text.replace("\\\n", ""), flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def of_vplface(words: list[str]) -> list[str] | None:
    """What a command line gives to vplface; None if it starts something else."""
    started_by_torchrun = words[0] != "vplface" and "torchrun" in words and "vplface" in words
    return words[words.index("vplface") + 1 :] if words[0] == "vplface" or started_by_torchrun else None


def mentions(page: Path) -> list[list[str]]:
    """The words after vplface in the running text, which leaves out what does not matter there."""
    text = page.read_text(encoding="utf-8").replace("\n", " ")
    return [shlex.split(mention) for mention in re.findall(r"`vplface ([^`]+)`", text)]


def command_of(words: list[str]) -> tuple[str, Any, list[str]]:
    """The command that is meant: its name in full, what typer made of it, and the words that are left for it."""
    command: Any = typer.main.get_command(app)
    name: list[str] = []
    while hasattr(command, "commands"):
        assert words, f"vplface {' '.join(name)}: of which command?"
        assert words[0] in command.commands, f"no command vplface {' '.join([*name, words[0]])}"
        name.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    return " ".join(name), command, words


def all_commands(command: Any = None, name: str = "") -> dict[str, Any]:
    """Every command by its name in full."""
    command = typer.main.get_command(app) if command is None else command
    if not hasattr(command, "commands"):
        return {name: command}
    found = (all_commands(below, f"{name} {word}".strip()) for word, below in command.commands.items())
    return {full: each for part in found for full, each in part.items()}
