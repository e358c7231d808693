"""Margins whose target is one formula of the cosine, with constants that a kernel takes."""

from __future__ import annotations

import math
from typing import NamedTuple

from vplface.margins import ArcFace, CombinedMargin, CosFace, Margin, NormSoftmax


class AngularFormula(NamedTuple):
    """The target cosθ·cos_m − sinθ·sin_m − less where cosθ ≥ limit, else cosθ − fall − less.

    Attributes:
        constants: cos_m, sin_m, limit, fall and less.
        exact: whether it is differentiated; otherwise its derivative is 1.
    """

    constants: tuple[float, float, float, float, float]
    exact: bool = True


def formula_of(margin: Margin) -> AngularFormula | None:
    """The constants of a margin; None for one that has another form."""
    if type(margin) is NormSoftmax:
        return AngularFormula((1.0, 0.0, -math.inf, 0.0, 0.0), exact=False)
    if type(margin) is CosFace:
        return AngularFormula((1.0, 0.0, -math.inf, 0.0, margin.margin), exact=False)
    if type(margin) is ArcFace:
        return _added_angle(margin.margin, 0.0, margin.margin_gradient == "exact")
    if type(margin) is CombinedMargin and margin.m1 == 1.0:
        return _added_angle(margin.m2, margin.m3, True)
    return None


def _added_angle(angle: float, less: float, exact: bool) -> AngularFormula:
    cosine, sine = math.cos(angle), math.sin(angle)
    return AngularFormula((cosine, sine, -cosine, angle * sine, less), exact)
