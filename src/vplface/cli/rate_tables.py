"""Tables of rates with their protocol, for evaluations of templates and of identification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vplface.console import Console, say
from vplface.printable import printable_name
from vplface.tables import Table

if TYPE_CHECKING:
    from vplface.evaluation import Evaluation


def show_rates(evaluations: Mapping[str, Evaluation], embedding: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """Print a table for each evaluation, then the protocols, how pictures were embedded, and hashes of files.

    Args:
        evaluations: by the title of the table.
        embedding: source, flip and preprocessing of the embeddings.
        files: SHA-256 by path.
    """
    from vplface.evaluation.metrics import Metric

    console = Console()
    lines: list[str] = []
    for title, evaluation in evaluations.items():
        table = Table(f"{printable_name(title)} (%)", ["figure", "value", "95 % interval", "threshold"])
        for metric, figure in evaluation.metrics.items():
            ends = figure.interval
            table.add_row(
                Metric.parse(metric).label,
                "—" if figure.value is None else f"{100 * figure.value:.2f}",
                "—" if ends is None else f"{100 * ends[0]:.2f} … {100 * ends[1]:.2f}",
                _format_threshold(figure.details.get("threshold")),
            )
            if figure.details.get("reason"):
                lines.append(figure.details["reason"])
        console.print(table)
    lines += [
        f"Protocol of {evaluation.name}: {_sentence(evaluation.protocol)}." for evaluation in evaluations.values()
    ]
    lines.append(f"{_sentence(embedding).capitalize()}.")
    lines += [f"sha256 {digest}  {path}" for path, digest in files.items()]
    for line in lines:
        say(line)


def _format_threshold(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(f"{threshold:.4f}" for threshold in value) if isinstance(value, list) else f"{value:.4f}"


def _sentence(values: Mapping[str, Any]) -> str:
    given = {key.replace("_", " "): value for key, value in values.items() if value is not None}
    return "; ".join(f"{key}: {_plain(value)}" for key, value in given.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} ({_plain(part)})" for key, part in value.items())
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
