"""Kinds of templates compared: their figures beside each other, and the differences from the first kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vplface.console import Console, say
from vplface.tables import Table

if TYPE_CHECKING:
    from vplface.evaluation import Evaluation


def compared_templates(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """The figures of each kind of template, and the paired differences from the first, for ``--json``.

    Args:
        evaluations: by their titles, ``"mean templates"``.
    """
    from vplface.evaluation import compare

    by_kind = {str(evaluation.protocol["templates"]): evaluation for evaluation in evaluations.values()}
    first, *others = by_kind
    return {
        "templates": {kind: evaluation.metrics_json() for kind, evaluation in by_kind.items()},
        "differences_to": first,
        "differences": {kind: compare(by_kind[first], by_kind[kind]) for kind in others},
    }


def show_templates(
    evaluations: Mapping[str, Evaluation], differences: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> None:
    """Print a table of all kinds of templates, their differences from the first, and which one is best.

    Args:
        evaluations: by their titles.
        differences: of the other kinds from the first, by metric.
    """
    from vplface.cli.evaluation_tables import show_differences
    from vplface.evaluation.metrics import Metric

    by_kind = {str(evaluation.protocol["templates"]): evaluation for evaluation in evaluations.values()}
    first, *_ = by_kind
    protocol = by_kind[first].protocol
    table = Table(
        "templates (%)",
        ["figure", "value", "95 % interval", "threshold"],
    )
    reasons: dict[str, None] = {}
    for metric in by_kind[first].metrics:
        for kind, evaluation in by_kind.items():
            figure = evaluation.metrics[metric]
            ends = figure.interval
            threshold = figure.details.get("threshold")
            table.add_row(
                f"{Metric.parse(metric).label}, {kind}",
                "—" if figure.value is None else f"{100 * figure.value:.2f}",
                "—" if ends is None else f"{100 * ends[0]:.2f} … {100 * ends[1]:.2f}",
                "" if threshold is None else f"{threshold:.4f}",
            )
            if figure.details.get("reason"):
                reasons[figure.details["reason"]] = None
    Console().print(table)
    for kind, moved in differences.items():
        if moved:
            show_differences(first, kind, moved, "templates")
    for reason in reasons:
        say(reason)
    say(_verdict(by_kind, differences))
    mated, probes = protocol["mated_probes"], protocol["probes"]
    say(
        f"{protocol['enrolled_people']:,} people enrolled with {protocol['enrolled_pictures']:,} pictures; {mated:,} "
        f"probes of enrolled people, {probes - mated:,} of strangers; {protocol['distractors']:,} distractors; "
        f"{protocol['bootstrap']} resamples of the people on the probes"
    )


def _verdict(by_kind: Mapping[str, Evaluation], differences: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Which kind is best at the lowest FPIR that was measured, or at rank 1, and whether that is significant."""
    from vplface.evaluation.metrics import Metric

    first, *others = by_kind
    measured = [metric for metric, figure in by_kind[first].metrics.items() if figure.value is not None]
    metric = measured[-1]
    where = Metric.parse(metric).label
    clear = [kind for kind in others if differences[kind].get(metric, {}).get("distinguishable")]
    better = [kind for kind in clear if differences[kind][metric]["difference"] > 0]
    worse = [kind for kind in clear if kind not in better]
    same = [kind for kind in others if kind not in clear]
    parts = [f"{' and '.join(better)} better than {first}"] if better else []
    parts += [f"{' and '.join(worse)} worse than {first}"] if worse else []
    parts += [f"{' and '.join(same)} cannot be distinguished from {first}"] if same else []
    return f"by {where}: {'; '.join(parts)}" if parts else f"by {where}: nothing to compare with {first}"
