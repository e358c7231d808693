"""Names that recipes and commands accept, read from the registries of the package, with a line about each."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.resources import files
from typing import Any


@dataclasses.dataclass(frozen=True)
class Entry:
    """A name, a line about it, and its options with their defaults."""

    name: str
    summary: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def margins() -> list[Entry]:
    """Margins of the softmax, for ``margin.name``."""
    from vplface.margins import MARGINS

    return _dataclasses(MARGINS)


def memories() -> list[Entry]:
    """Kinds of memory, for ``variational.memory``."""
    from vplface.prototypes.memories import MEMORIES

    return _dataclasses(MEMORIES)


def terms() -> list[Entry]:
    """Additional losses, for ``terms``."""
    from vplface.terms import TERMS

    return _dataclasses(TERMS)


def degradations() -> list[Entry]:
    """Degradations of pictures, for ``degrade``."""
    from vplface.data.degrade import KINDS

    return _dataclasses(KINDS)


def backbones() -> list[Entry]:
    """Networks to train, for ``backbone.name``."""
    from vplface.backbones import BACKBONES
    from vplface.backbones.meta_init import meta_init

    entries = []
    for name, build in BACKBONES.items():
        with meta_init():
            parameters = sum(each.numel() for each in build(embedding_dim=512).parameters())
        network = build.func if isinstance(build, partial) else build
        about = _first_sentence(sys.modules[network.__module__].__doc__ or "")
        options = {
            key: each.default
            for key, each in inspect.signature(build).parameters.items()
            if key != "embedding_dim" and each.default is not each.empty
        }
        entries.append(Entry(name, f"{parameters / 1e6:.1f} M parameters at d 512. {about}", options))
    return entries


def formats() -> list[Entry]:
    """Formats of picture sets; the names with ``--to`` are those that ``vplface data convert`` writes."""
    from vplface.data.format_table import FOLDER, FORMATS

    return [
        Entry(
            row.title,
            "; ".join(
                part
                for part in (
                    f"reads {', '.join(row.suffixes)}" if row.suffixes else "reads ROOT/IDENTITY/PICTURE",
                    "folders of such files" if row.folder else "",
                    f"written by data convert --to {row.name}" if row.writer or row.name else "not written",
                )
                if part
            ),
        )
        for row in (*FORMATS, FOLDER)
    ]


def metrics() -> list[Entry]:
    """Metrics, by their keys in evaluation results and in ``evaluation.best``."""
    from vplface.evaluation.metrics import METRICS

    keys = {"rate": "{}=RATE", "rank": "{}-K", None: "{}"}
    direction = {True: "lower is better", False: "higher is better"}
    return [
        Entry(
            keys[kind.point].format(kind.name),
            f"{kind.label}; {'describes a set' if kind.descriptive else direction[kind.lower_is_better]}",
        )
        for kind in METRICS
    ]


def recipes() -> list[Entry]:
    """Recipes in the package, for ``vplface train``, ``plan`` and ``study``."""
    from vplface.config.recipes import shipped_recipes

    folder = files("vplface").joinpath("configs")
    first = {name: folder.joinpath(f"{name}.yaml").read_text(encoding="utf-8") for name in shipped_recipes()}
    return [Entry(name, text.split("\n", 1)[0].lstrip("# ").rstrip(":.")) for name, text in first.items()]


REGISTRIES: dict[str, Callable[[], list[Entry]]] = {
    registry.__name__: registry
    for registry in (recipes, backbones, margins, memories, terms, formats, metrics, degradations)
}
"""The lists of ``vplface list``, by name."""


def recipe_names(incomplete: str) -> list[str]:
    """The recipes in the package that begin with a text, for completion in the shell."""
    from vplface.config.recipes import shipped_recipes

    return [name for name in shipped_recipes() if name.startswith(incomplete)]


def _dataclasses(registry: Mapping[str, type]) -> list[Entry]:
    return [Entry(name, _first_sentence(kind.__doc__ or ""), _defaults(kind)) for name, kind in registry.items()]


def _defaults(kind: type) -> dict[str, Any]:
    fields: Iterable[dataclasses.Field[Any]] = dataclasses.fields(kind)
    return {
        each.name: each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
        for each in fields
    }


def _first_sentence(docstring: str) -> str:
    """The first sentence of a docstring, on one line and without markup."""
    paragraph = " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split()).replace("``", "")
    return re.split(r"(?<!al)\.(?: |$)", paragraph, maxsplit=1)[0].rstrip(":")
