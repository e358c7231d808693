"""Grids of test cases: a small selection that always runs, and the rest under the marker `grid`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from vplface import softmax

INTERPRETED = pytest.mark.grid
"""Triton's interpreter takes about twenty times as long as other backends; by default it runs what a grid selects."""

_TRITON = "triton"
BACKENDS = [pytest.param(name, marks=INTERPRETED) if name == _TRITON else name for name in softmax.BACKENDS]


def grid(*, cover: int = 2, indirect: Sequence[str] = (), **axes: Iterable[Any]) -> pytest.MarkDecorator:
    """``pytest.mark.parametrize`` over the product of the axes.

    A fault that depends on the case mostly shows with one value, or with two together. Cases that together hold every
    pair of values of two axes (``cover=2``), or every value of each axis (``cover=1``), therefore run by default; the
    rest of the product has the marker ``grid``. With Triton, whose interpreter is slow, the rest is only what holds
    every combination of one more axis.
    """
    values = [list(axis) for axis in axes.values()]
    sizes = [len(axis) for axis in values]
    default = _covering(sizes, cover)
    interpreted = default | _covering(sizes, min(cover + 1, len(sizes)))
    cases = []
    for places in itertools.product(*(range(len(axis)) for axis in values)):
        case = [axis[place] for axis, place in zip(values, places, strict=True)]
        if _TRITON in case and places not in interpreted:
            continue
        marks = () if places in default else pytest.mark.grid
        cases.append(pytest.param(*case, id="-".join(map(_name, case)), marks=marks))
    return pytest.mark.parametrize(list(axes), cases, indirect=list(indirect))


def _name(value: Any) -> str:
    return getattr(value, "__name__", str(value))


def _covering(sizes: Sequence[int], cover: int) -> set[tuple[int, ...]]:
    """Cases that hold every combination of values of ``cover`` axes: again and again the one that adds most of them."""

    def held(case: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(itertools.combinations(enumerate(case), cover))

    cases = {case: held(case) for case in itertools.product(*map(range, sizes))}
    missing = set().union(*cases.values())
    chosen = set()
    while missing:
        best = max(cases, key=lambda case: len(cases[case] & missing))
        chosen.add(best)
        missing -= cases[best]
    return chosen
