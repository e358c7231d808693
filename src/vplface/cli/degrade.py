"""The option ``--degrade`` of the commands: degradations as text, ``KIND:key=value,key=value``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from vplface.errors import UsageError

if TYPE_CHECKING:
    from vplface.data.degrade import Degradation

DEGRADE = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND[:KEY=VALUE,...]",
        help="Make pictures poor, too: low_resolution, blur, noise, compression, darkness, occlusion or surveillance. "
        "With options, e.g. low_resolution:pixels=7-11,share=0.2,seed=0: the strength of the kind, the share of the "
        "pictures, and probes=true to leave the first picture of each pair (or one picture of each person) as it is. "
        "May be repeated.",
        show_default=False,
    ),
]

_RANGE = re.compile(r"([\d.]+)-([\d.]+)")


def parse_degradations(texts: Sequence[str]) -> list[Degradation]:
    """The degradations of all ``--degrade``.

    Raises:
        UsageError: a text is not a degradation, or two are the same; the message names it.
    """
    found: list[Degradation] = []
    for text in texts:
        degradation = _parsed(text)
        if degradation in found:
            raise UsageError(f"--degrade {text}: is given twice")
        found.append(degradation)
    return found


def _parsed(text: str) -> Degradation:
    from vplface.config.degrade import read_degradation  # opencv takes a second to import

    kind, _, given = text.partition(":")
    options: dict[str, object] = {"kind": kind}
    for part in given.split(",") if given else []:
        key, separator, value = part.partition("=")
        if not separator or key in options:
            reason = "key is given twice" if separator else "has no ="
            raise UsageError(
                f"--degrade {text}: {part!r}: {reason}; write KIND:KEY=VALUE,KEY=VALUE, for example "
                "low_resolution:pixels=7-11,share=0.2"
            )
        ends = _RANGE.fullmatch(value)
        options[key] = value if ends is None else list(ends.groups())
    try:
        degradation = read_degradation(options)
    except ValueError as error:
        raise UsageError(f"--degrade {text}: {error}") from error
    assert degradation is not None
    return degradation
