"""Quality gates: below a least quality, a picture is too poor to decide by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from vplface.errors import DataError
from vplface.evaluation.figure import finite

_ROUNDING = 1e-9


@dataclass(frozen=True)
class QualityGate:
    """A least quality and what it was measured to do, stored with an operating point.

    Attributes:
        score: "norm", "recognisability", or the path of an ONNX quality model.
        least: a picture is good enough if its quality is >= this.
        discarded: share of the pictures that were turned away.
        fnmr: of the pairs that were left, at the threshold of the operating point.
        fnmr_without: of all pairs.
        chosen_by: "discard=SHARE" or "fnmr=RATE".
        described: what else the score needs: the "direction" of recognisability, or "sha256" and "preprocessing" of an
            ONNX model.
    """

    score: str
    least: float
    discarded: float
    fnmr: float
    fnmr_without: float
    chosen_by: str
    described: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, the inverse of :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: object, where: str) -> QualityGate:
        """Read back :meth:`to_json`; raises DataError if it is damaged.

        Args:
            values: the stored values.
            where: names them in the error.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping) or not set(names) <= set(values):
            raise DataError(f"{where}: 'quality' must have {', '.join(map(repr, names))}")
        gate = cls(**{name: values[name] for name in names})
        for name in ("score", "chosen_by"):
            if not isinstance(values[name], str):
                raise DataError(f"{where}: 'quality': {name!r} must be a text, got {values[name]!r}")
        for name in ("least", "discarded", "fnmr", "fnmr_without"):
            if finite(values[name]) is None:
                raise DataError(f"{where}: 'quality': {name!r} must be a finite number, got {values[name]!r}")
        if not isinstance(gate.described, Mapping):
            raise DataError(f"{where}: 'quality': 'described' has a wrong value: {gate.described!r}")
        return gate

    def __str__(self) -> str:
        return (
            f"quality ({self.score}) at least {self.least:.4g}: {100 * self.discarded:.1f} % of the pictures were "
            f"turned away, FNMR {100 * self.fnmr:.2f} % instead of {100 * self.fnmr_without:.2f} %"
        )


def choose_gate(
    at: Mapping[str, Any],
    score: str,
    described: Mapping[str, Any],
    discard: float | None = None,
    fnmr: float | None = None,
) -> QualityGate:
    """The gate that an error-versus-discard curve gives, in steps of a hundredth of the pictures.

    Args:
        at: the curves at the threshold of the operating point, an entry of ``"at"`` of
            :func:`vplface.evaluation.quality.compare_scores`.
        score: the quality score.
        described: what is stored about it.
        discard: turn away as many pictures as possible, at most this share.
        fnmr: turn away as few pictures as possible so that the FNMR does not exceed this rate. Give one of the two.

    Raises:
        DataError: at most half of the pictures may be turned away, and the rate is not reached by then.
        ValueError: not exactly one of ``discard`` and ``fnmr``.
    """
    curve = at["scores"][score]["curve"]
    rates, whole = curve["fnmr"], float(at["fnmr"]["value"])
    if discard is not None and fnmr is None:
        chosen_by = f"discard={discard:g}"
        place = sum(share <= discard + _ROUNDING for share in curve["share"]) - 1
        if rates[place] is None:
            raise DataError(f"no gate with {score}: no genuine pair is left where {discard:g} of the pictures are gone")
    elif fnmr is not None and discard is None:
        chosen_by = f"fnmr={fnmr:g}"
        reached = [place for place, rate in enumerate(rates) if rate is not None and rate <= fnmr]
        if not reached:
            lowest = min(rate for rate in rates if rate is not None)
            raise DataError(
                f"no gate with {score}: an FNMR of {fnmr:g} is not reached while at most half of the pictures are "
                f"turned away; the lowest is {lowest:.4g}. Ask for a higher one"
            )
        place = reached[0]
    else:
        raise ValueError("give discard or fnmr")
    return QualityGate(
        score, curve["quality"][place], curve["discarded"][place], rates[place], whole, chosen_by, described
    )
