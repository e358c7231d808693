"""Sentences and tables about what fine-tuning has changed, from ``finetuning.json`` of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vplface.evaluation.figure import Difference
from vplface.evaluation.metrics import Metric
from vplface.report.arms import capitalised, mapping
from vplface.report.markup import Markup, join, tag
from vplface.report.record import RunRecord
from vplface.report.results import results_table
from vplface.report.verdict import differences

UNTOUCHED, FINETUNED = "(untouched)", "(fine-tuned)"
"""Names of the two models, which no run can have."""


def finetuning_verdict(stored: Mapping[str, Any]) -> list[str]:
    """Whether fine-tuning helped, and what became of each guard: a sentence each, with intervals."""
    helped, deciding, guards = stored.get("helped"), mapping(stored.get("deciding")), guards_of(stored)
    kept = f"best/ holds the model of step {stored.get('step')}" if helped else "best/ holds the untouched model"
    if helped is None:
        said = [f"It is not known whether fine-tuning helped: its difference has no interval; {kept}."]
    else:
        outcome = "helped" if helped else "did not help"
        fallen = [guard.get("set") for guard in guards if guard.get("fell")]
        but = f", but {_called(fallen, len(guards))} fell" if helped and fallen else ""
        said = [f"Fine-tuning {outcome}{but}: {_change(stored, deciding)} against the untouched model; {kept}."]
    for guard in guards:
        fell = guard.get("fell")
        outcome = "is not known to have held" if fell is None else "fell" if fell else "did not measurably fall"
        said.append(f"{capitalised(_called([guard.get('set')], len(guards)))} {outcome}: {_change(stored, guard)}.")
    return said


def guards_of(stored: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Set, metric and outcome (``fell``) of each guard in ``finetuning.json``, which formerly had one at most."""
    if isinstance(several := stored.get("guards"), list):
        return [guard for guard in several if isinstance(guard, Mapping)]
    guard = mapping(stored.get("guard"))
    return [{**guard, "fell": stored.get("guard_fell")}] if guard else []


def finetuning_section(run: RunRecord) -> Markup | None:
    """Tables of both models on each set, the guards last; None for a run that was not compared with its start."""
    stored = run.finetuning
    if not stored:
        return None
    before, after = (
        replace(run, name=name, evaluations=mapping(stored.get(key)), training=(), finetuning={})
        for name, key in ((UNTOUCHED, "untouched"), (FINETUNED, "finetuned"))
    )
    used, _ = differences([before, after], mapping(stored.get("differences")))
    guards = {guard.get("set") for guard in guards_of(stored)}
    note = f"{'The' if len(guards) == 1 else 'A'} guard, whose figures must not fall:"
    tables = [
        join(
            tag("p", note, class_="note") if name in guards else None,
            results_table([before, after], name, [(after, used)]),
        )
        for name in sorted(after.evaluations, key=lambda name: name in guards)
    ]
    return join(tag("h2", "Fine-tuned and untouched"), tables)


def finetuning_caution(run: RunRecord) -> list[str]:
    """Cautions for a reader of the verdict."""
    if not run.finetuning.get("helped"):
        return []
    validations = sum(line["step"] > 0 for line in run.validation)
    caution = (
        f"The model is the best of {validations} validations on the same people, which favours it a little: confirm the"
        " difference on other people (vplface evaluate --compare)."
    )
    return [caution]


def _called(fallen: Sequence[object], count: int) -> str:
    """Some of the guards of a run by their names, or the only one without it."""
    if count == 1:
        return "the guard"
    return f"the guard{'s' if len(fallen) > 1 else ''} {' and '.join(map(str, fallen))}"


def _change(stored: Mapping[str, Any], place: Mapping[str, Any]) -> str:
    """A figure and its difference, such as ``TAR at FAR 10⁻³ on holdout +1.2 points (95 % interval 0.3 to 2.0)``."""
    name, metric = str(place.get("set")), str(place.get("metric"))
    difference = Difference.from_json(mapping(mapping(mapping(stored.get("differences")).get(name)).get(metric)))
    if difference.value is None or difference.interval is None:
        return f"{Metric.parse(metric).label} on {name} has no interval"
    digits = 1 if difference.interval[1] - difference.interval[0] >= 0.01 else 2
    change, low, high = (100 * each for each in (difference.value, *difference.interval))
    words = f"{change:+.{digits}f} points (95\N{NO-BREAK SPACE}% interval {low:.{digits}f} to {high:.{digits}f})"
    return f"{Metric.parse(metric).label} on {name} {words.replace('-', '−')}"
