"""Options for the preprocessing of other makers' models: colour order, mean and standard deviation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vplface.errors import UsageError

if TYPE_CHECKING:
    from vplface.data.pictures import Preprocessing


INSIGHTFACE = "--color rgb --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5"
"""Preprocessing of the model files of insightface."""

COLOR = Annotated[
    Literal["rgb", "bgr"] | None,
    typer.Option(
        help="Order of the model's input channels. For .onnx files that were not exported by vplface say how they "
        f"take their pictures; insightface's take {INSIGHTFACE}. Of --color, --mean and --std, those not given "
        "have these values.",
        show_default=False,
    ),
]
MEAN = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,C", help="Mean per channel, of pixels in 0..1, in the order of --color.", show_default=False
    ),
]
STD = Annotated[
    str | None,
    typer.Option(metavar="A,B,C", help="Standard deviation per channel, in the same order.", show_default=False),
]


def preprocessing_of(color: Literal["rgb", "bgr"] | None, mean: str | None, std: str | None) -> Preprocessing | None:
    """The preprocessing by ``--color``, ``--mean`` and ``--std``, which default to RGB and .5; None if all are missing.

    Raises:
        UsageError: a list that is not three numbers of pixels in 0..1.
    """
    if color is None and mean is None and std is None:
        return None
    from vplface.data.pictures import Preprocessing

    try:
        return Preprocessing(
            color=color or "rgb", mean=_three("mean", mean or "0.5,0.5,0.5"), std=_three("std", std or "0.5,0.5,0.5")
        )
    except ValueError as error:
        raise UsageError(f"--{error}") from error


def _three(key: str, text: str) -> tuple[float, float, float]:
    try:
        a, b, c = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"--{key} {text!r}: expected three numbers with commas between, e.g. 0.5,0.5,0.5") from None
    if max(a, b, c) > 1:
        raise UsageError(f"--{key} {text!r}: the numbers are for pixels in 0..1; divide numbers for 0..255 by 255")
    return a, b, c
