"""The cost of reduced precision in accuracy: a file and the fp32 model, measured on the same pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from vplface.cli.tables import with_interval
from vplface.config import read_config
from vplface.console import Console, say
from vplface.embedder import Embedder, Flip
from vplface.errors import DataError, VplfaceError
from vplface.evaluation import EvalOptions, Evaluation, compare
from vplface.evaluation.figure import Difference, Figure
from vplface.evaluation.metrics import Metric
from vplface.evaluation.result import paired_differences
from vplface.evaluation.task import open_task
from vplface.printable import printable_name
from vplface.reading import is_file
from vplface.run_folder import ModelFolder
from vplface.tables import Table
from vplface.training.validation import validation_of


@dataclass(frozen=True)
class Cost:
    """Evaluations of the fp32 model and of the file, by set, or the reason why there are none."""

    fp32: Mapping[str, Evaluation]
    reduced: Mapping[str, Evaluation]
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The evaluations and their differences, JSON-ready."""
        if self.reason:
            return {"sets": {}, "reason": self.reason}
        sets = {
            name: {
                "protocol": dict(before.protocol),
                "fp32": before.metrics_json(),
                "reduced": self.reduced[name].metrics_json(),
                "differences": compare(before, self.reduced[name]),
            }
            for name, before in self.fp32.items()
        }
        return {"sets": sets}

    def show(self) -> None:
        """Print a table for each set, with paired differences, or the reason why there is none."""
        console = Console()
        if self.reason:
            say(f"accuracy: not measured: {self.reason}")
        for name, before in self.fp32.items():
            after = self.reduced[name]
            heads = ["figure", "fp32", "this file", "difference"]
            table = Table(f"{printable_name(name)}: %, and 95 % interval", heads)
            differences = paired_differences(before, after)
            for metric, figure in before.metrics.items():
                if figure.value is not None:
                    cells = (_cell(figure), _cell(after.metrics[metric]), _difference(differences.get(metric)))
                    table.add_row(Metric.parse(metric).label, *cells)
            console.print(table)


def cost_measurement(
    model: Path,
    data: Path | None,
    pairs: Path | None,
    threshold_pairs: Path | None,
    people: Path | None,
    flip: Flip,
    bootstrap: int,
) -> Callable[[Path], Cost]:
    """A function that measures a file on the pairs of ``data``, or else on the evaluation sets of the run.

    Raises:
        UsageError: ``data`` without pairs or people.
        DataError: a file of pairs or pictures is missing or damaged.
    """
    if data is not None:
        task, options = open_task(data, pairs, threshold_pairs, people), EvalOptions(flip, bootstrap=bootstrap)

        def evaluations_of(embedder: Embedder) -> dict[str, Evaluation]:
            evaluation = task.evaluate(task.embed(embedder, flip), options)
            return {evaluation.name: evaluation}

    else:
        run = ModelFolder(model).run
        if not is_file(run.config):
            return lambda file: Cost({}, {}, "no evaluation sets are known; give --data and --pairs")
        try:
            config = read_config(run.path)
            validation = validation_of(config)
        except VplfaceError as error:
            reason = f"the evaluation sets of {run.path} cannot be opened ({error}); give --data and --pairs"
            return lambda file: Cost({}, {}, reason)
        if not validation.tasks:
            return lambda file: Cost({}, {}, f"{run.path} has no evaluation sets; give --data and --pairs")

        def evaluations_of(embedder: Embedder) -> dict[str, Evaluation]:
            return validation.run(embedder, bootstrap)

    def measure(file: Path) -> Cost:
        whole, reduced = Embedder.load(model), Embedder.load(file)
        if file.suffix == ".onnx" and whole.weights != reduced.card.weights:
            raise DataError(f"{model}: has changed since {file} was exported from it; export it again")
        return Cost(evaluations_of(whole), evaluations_of(reduced))

    return measure


def _cell(figure: Figure) -> Text:
    ends = figure.interval
    value = "" if figure.value is None else f"{100 * figure.value:.2f}"
    return with_interval(value, ends and f"{100 * ends[0]:.2f} … {100 * ends[1]:.2f}")


def _difference(difference: Difference | None) -> Text:
    if difference is None or difference.value is None:
        return Text()
    ends = difference.interval
    return with_interval(f"{100 * difference.value:+.2f}", ends and f"{100 * ends[0]:+.2f} … {100 * ends[1]:+.2f}")
