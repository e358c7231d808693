"""The evaluation of one model with its inputs, as it is printed and stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vplface.cli.evaluation_quality import Gate
from vplface.data.pictures import Preprocessing
from vplface.errors import DataError
from vplface.evaluation import Evaluation
from vplface.evaluation.calibration import Calibration
from vplface.evaluation.metrics import TAR, far_point
from vplface.evaluation.operating_point import OperatingPoint
from vplface.evaluation.provenance import versions
from vplface.evaluation.quality import choose_gate
from vplface.report import RunRecord


@dataclass(frozen=True)
class Result:
    """A model's evaluation.

    Attributes:
        model: the model's path, as given.
        data: the path of the pictures.
        evaluation: the figures.
        preprocessing: preprocessing of the pictures; None where embeddings were read.
        card: the model's card, JSON-ready.
        files: SHA-256 of what was read: the model's files or that of the embeddings, and the lists of
            pairs or people.
        described: what an operating point stores about each quality score.
        degraded: the figures on the pictures as each ``--degrade`` makes them.
        date: when, ISO 8601.
    """

    model: Path
    data: Path
    evaluation: Evaluation
    preprocessing: Preprocessing | None
    card: Mapping[str, Any]
    files: Mapping[str, str]
    degraded: Sequence[Evaluation] = ()
    described: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def evaluations(self) -> list[Evaluation]:
        """The figures on the pictures as they are, and on degraded ones."""
        return [self.evaluation, *self.degraded]

    def protocol(self, evaluation: Evaluation) -> dict[str, Any]:
        """The protocol of some of the figures, with the preprocessing."""
        prepared = None if self.preprocessing is None else self.preprocessing.to_dict()
        return {"name": evaluation.name, **evaluation.protocol, "preprocessing": prepared}

    def to_dict(self) -> dict[str, Any]:
        """Figures with their protocol, JSON-ready."""
        return self._with_figures(self._figures)

    def stored(self) -> dict[str, Any]:
        """:meth:`to_dict` and all other fields; ``"evaluation"`` is the form that ``Evaluation.from_dict`` reads."""
        return self._with_figures(lambda each: self._figures(each) | {"evaluation": each.to_dict()})

    def _figures(self, evaluation: Evaluation) -> dict[str, Any]:
        values = {"protocol": self.protocol(evaluation), "metrics": evaluation.metrics_json()}
        return values | {name: dict(part) for name, part in evaluation.further.items()}

    def _with_figures(self, figures: Callable[[Evaluation], dict[str, Any]]) -> dict[str, Any]:
        values = {"model": str(self.model), "data": str(self.data), **figures(self.evaluation)}
        values |= {"files": dict(self.files), "versions": versions(), "date": self.date}
        return values | ({"degraded": [figures(each) for each in self.degraded]} if self.degraded else {})

    def record(self) -> RunRecord:
        """The evaluation as a page shows it."""
        return RunRecord(
            folder=self.model,
            name=str(self.model),
            environment={**versions(), "date": self.date, "data": str(self.data)},
            card=self.card,
            evaluations={each.name: each.to_dict() | {"protocol": self.protocol(each)} for each in self.evaluations},
            files=self.files,
        )

    def operating_point(self, far: float, gate: Gate | None = None) -> OperatingPoint:
        """The threshold at a false accept rate that was evaluated.

        Args:
            far: the false accept rate.
            gate: of quality, by the first quality score; None for none.

        Raises:
            DataError: the pairs are too few for it, or the gate does not reach its rate.
        """
        figure = self.evaluation.metrics[TAR.at(far).key]
        if figure.value is None:
            raise DataError(f"no operating point: {figure.details['reason']}")
        calibration = self.evaluation.calibration
        quality = None
        if gate is not None:
            score = next(iter(self.described))
            at = self.evaluation.quality["at"][far_point(far)]
            quality = choose_gate(at, score, self.described[score], gate.discard, gate.fnmr).to_json()
        return OperatingPoint(
            threshold=figure.details["threshold"],
            far=far,
            actual_far=figure.details["actual_far"],
            tar=figure.value,
            protocol=self.protocol(self.evaluation),
            data=str(self.data),
            date=self.date,
            files={Path(path).name: digest for path, digest in self.files.items()},
            calibration=Calibration.from_json(calibration["fit"]) if calibration else None,
            quality=quality,
        )
