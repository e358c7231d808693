"""The paired differences of a study, and sentences that claim no more than their intervals show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vplface.evaluation.figure import Difference, Interval
from vplface.evaluation.metrics import Metric
from vplface.report.arms import mapping

_LEVEL = "95\N{NO-BREAK SPACE}%"


@dataclass(frozen=True)
class Finding:
    """How an arm differs from a baseline in one metric on one set of one setting, over seeds.

    Attributes:
        interval: of the bootstrap over people and seeds.
        t_interval: Student's, over the differences of seeds; None with too few seeds.
        same_sign: seeds whose difference has the sign of the mean.
    """

    setting: str
    set_name: str
    metric: Metric
    arm: str
    baseline: str
    value: float
    interval: Interval | None
    t_interval: Interval | None
    per_seed: tuple[float, ...]
    same_sign: int
    distinguishable: bool

    @property
    def ahead(self) -> bool:
        """Whether the arm's figure is the better one."""
        return (self.value > 0) != self.metric.lower_is_better


def findings(summary: Mapping[str, Any]) -> Iterator[Finding]:
    """The differences that a summary holds."""
    for setting, entry in summary["settings"].items():
        for baseline, arms in entry["differences"].items():
            for arm, sets in arms.items():
                for set_name, metrics in sets.items():
                    for metric, entry in metrics.items():
                        difference = Difference.from_json(entry)
                        value, seeds = difference.value, difference.over_seeds
                        assert value is not None
                        assert seeds is not None
                        yield Finding(
                            setting,
                            set_name,
                            Metric.parse(metric),
                            arm,
                            baseline,
                            value,
                            difference.interval,
                            seeds.interval,
                            seeds.per_seed,
                            seeds.same_sign,
                            difference.distinguishable,
                        )


NOTHING = "No two arms have finished runs of one setting and seed with figures that judge them: nothing is compared."


def study_verdicts(found: Sequence[Finding]) -> dict[str, list[str]]:
    """{baseline: a sentence for each arm: where it is ahead, where behind, where no difference is significant}.

    Descriptive metrics are not named.
    """
    found = [finding for finding in found if not finding.metric.descriptive]
    verdicts: dict[str, list[str]] = {}
    for arm, baseline in dict.fromkeys((finding.arm, finding.baseline) for finding in found):
        of_pair = [f for f in found if (f.arm, f.baseline) == (arm, baseline)]
        verdicts.setdefault(baseline, []).append(_of_pair(of_pair, arm, baseline))
    return verdicts


def study_verdict(found: Sequence[Finding]) -> str:
    """All sentences, a line each."""
    return "\n".join(sentence for verdicts in study_verdicts(found).values() for sentence in verdicts) or NOTHING


def study_cautions(summary: Mapping[str, Any], found: Sequence[Finding]) -> list[str]:
    """Cautions for a reader of the verdict."""
    said = []
    counts = sorted({len(finding.per_seed) for finding in found})
    most = max(counts, default=1)
    if counts == [1]:
        said.append(
            "Each arm is one training run: the intervals say how the figures depend on the people tested, not how they "
            "would change with another seed."
        )
    elif counts:
        seeds = str(most) if len(counts) == 1 else f"{counts[0]} to {most}"
        shares = " and ".join(f"({k} − 1)/{k}" for k in counts if k > 1)
        said.append(
            f"Figures are means over {seeds} seeds. Their intervals and those of differences are percentiles of a "
            "bootstrap that draws people and seeds; with so few seeds it understates the variance between seeds, by a "
            f"factor of {shares}."
        )
    if most >= 3:
        said.append(
            "The second interval is Student's t over the differences of the seeds, with one degree of freedom less "
            "than seeds: it treats the people tested as fixed. Two arms count as statistically different if neither "
            "interval contains 0."
        )
    if any(mapping(setting).get("folds") for setting in mapping(summary["settings"]).values()):
        said.append(
            "Where people are divided into folds, each person is tested once, by a model that was not trained on that "
            "person. A figure is the mean over the folds, which have thresholds of their own, weighted by their people."
            " Intervals take the people trained on as given."
        )
    if len(found) > 1:
        said.append(
            f"{len(found)} differences are examined together, without correction for multiple comparisons: of twenty "
            f"{_LEVEL} intervals, about one excludes 0 by chance alone."
        )
    without = sum(finding.interval is None for finding in found)
    if without:
        said.append(f"{without} of them have no bootstrap interval, and count as not statistically different.")
    for run, why in mapping(summary.get("failed")).items():
        said.append(f"{run} failed: {why.splitlines()[-1] if why else 'no reason was recorded'}")
    if incomplete := summary.get("incomplete"):
        listed = ", ".join(incomplete[:6]) + (", …" if len(incomplete) > 6 else "")
        said.append(f"Left out, because not all of their folds are finished: {listed}.")
    if missing := summary.get("missing"):
        listed = ", ".join(missing[:6]) + (", …" if len(missing) > 6 else "")
        said.append(f"Not finished, and not on this page: {listed}.")
    return said


def folds_notes(entry: Mapping[str, Any]) -> list[str]:
    """How many people the folds of a setting test, a sentence for each evaluation set."""
    return [
        f"{set_name}: {sum(people):,} people in {len(people)} folds of {min(people):,} to {max(people):,}."
        for set_name, people in mapping(entry.get("folds")).items()
    ]


def points(value: float, digits: int = 1) -> str:
    """A difference in percentage points, with its sign."""
    return f"{100 * value:+.{digits}f}".replace("-", "−")


def digits_for(found: Finding) -> int:
    """Tenths of a point, or hundredths where the interval is less than a point wide."""
    return 2 if found.interval is not None and found.interval[1] - found.interval[0] < 0.01 else 1


def _of_pair(found: Sequence[Finding], arm: str, baseline: str) -> str:
    distinct = [finding for finding in found if finding.distinguishable]
    if not distinct:
        if len(found) == 1 and (only := found[0]).interval is not None:
            low, high = (points(end, digits_for(only)) for end in only.interval)
            return (
                f"{arm} and {baseline} are not statistically different: {points(only.value, digits_for(only))} points "
                f"of {only.metric.label} ({_LEVEL} interval {low} to {high})."
            )
        return f"{arm} and {baseline} are not statistically different in any of the {len(found)} figures compared."
    ahead, behind = ([f for f in distinct if f.ahead == better] for better in (True, False))
    clauses = [
        f"{word} {baseline} in {len(some)} of {len(found)} figures ({_places(some)})"
        for word, some in (("ahead of", ahead), ("behind", behind))
        if some
    ]
    unclear = len(found) - len(distinct)
    rest = f"; in the other {unclear} the two are not statistically different" if unclear else ""
    return f"{arm} is {' and '.join(clauses)}{rest}."


def _places(found: Sequence[Finding]) -> str:
    """Where: the metrics of each set of each setting."""
    places: dict[str, list[str]] = {}
    for finding in found:
        places.setdefault(f"{finding.setting}, {finding.set_name}", []).append(finding.metric.label)
    return "; ".join(f"{place}: {', '.join(metrics)}" for place, metrics in places.items())
