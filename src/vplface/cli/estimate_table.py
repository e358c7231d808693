"""Tables of the runs of a study with their estimated cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vplface.console import Console, print_json
from vplface.evaluation.metrics import far_name
from vplface.printable import printable_name
from vplface.study import Estimate
from vplface.study.cost import Cost, SetSize
from vplface.tables import Table

_STATES = {
    "changed": "changed: the folder holds a run with another configuration; --overwrite restarts it.",
    "restart": "restart: an earlier run that an interrupted --overwrite had not yet restarted.",
}
_ON_RANDOM_PICTURES = (
    "* measured on a few steps of backbone and head with random pictures, in a single process: loading and parallel"
    " runs take longer. The other rates are medians from the logs of finished runs with the same backbone and batch."
)

_OF_FOLDS = (
    "People of a fold are tested by models that are trained on all others. lowest FAR: of evaluation.fars, with the"
    " number of impostor pairs above the threshold; lower ones are not measured."
)


def show_estimate(estimate: Estimate, as_json: bool) -> None:
    """Print the runs of a study and their cost, as tables or as JSON."""
    minutes = estimate.seconds / 60
    if as_json:
        runs = [_to_dict(cost) for cost in estimate.costs]
        print_json({"schema": 1, "runs": runs, "workers": estimate.workers, "minutes_left": minutes})
        return
    console = Console()
    console.print(f"{len(estimate.costs)} runs, {estimate.workers} at a time")
    for setting in dict.fromkeys(cost.cell.setting for cost in estimate.costs):
        of_setting = [cost for cost in estimate.costs if cost.cell.setting == setting]
        console.print(_table(setting, of_setting))
        for names in _alike(of_setting).values():
            console.print(_folds(names, of_setting))
    if any(cost.tested for cost in estimate.costs):
        console.print(_OF_FOLDS, soft_wrap=True)
    total = sum(cost.seconds for cost in estimate.costs) / 60
    console.print(
        "per s: pictures per second; min: minutes of training per run; left: minutes for all its runs."
        f" {total:.1f} minutes are left, about {minutes:.1f} with {estimate.workers} at a time, plus evaluation.",
        soft_wrap=True,
    )
    if any(cost.measured_on == "random" for cost in estimate.costs):
        console.print(_ON_RANDOM_PICTURES, style="dim", soft_wrap=True)
    for state, meaning in _STATES.items():
        if any(cost.state == state for cost in estimate.costs):
            console.print(meaning)


def _to_dict(cost: Cost) -> dict[str, Any]:
    return {
        "run": cost.cell.name,
        "setting": cost.cell.setting,
        "arm": cost.cell.arm,
        "seed": cost.cell.seed,
        "fold": cost.cell.fold,
        "folder": str(cost.cell.folder),
        "state": cost.state,
        "identities": cost.identities,
        "pictures": cost.pictures,
        "steps": cost.steps,
        "taken": cost.taken,
        "pictures_per_second": cost.pictures_per_second,
        "measured_on": cost.measured_on,
        "minutes_left": cost.seconds / 60,
        "tested": {name: vars(size) | {"lowest_far": _lowest_far(cost, size)} for name, size in cost.tested.items()},
    }


def _table(setting: str, costs: Sequence[Cost]) -> Table:
    """The runs of a setting, with a row for the seeds and folds of each arm."""
    heads = ["arm", "seeds", "people", "pictures", "steps", "per s", "min", "left", "runs"]
    table = Table(printable_name(setting), heads, text=(0, 1, 8))
    for arm in dict.fromkeys(cost.cell.arm for cost in costs):
        table.add_row(printable_name(arm), *_cells([cost for cost in costs if cost.cell.arm == arm]))
    return table


def _alike(costs: Sequence[Cost]) -> dict[tuple[SetSize, ...], list[str]]:
    """The names of the evaluation sets of a setting by their sizes: clean and degraded ones have the same."""
    names: dict[tuple[SetSize, ...], list[str]] = {}
    for name in dict.fromkeys(name for cost in costs for name in cost.tested):
        names.setdefault(tuple(cost.tested[name] for cost in costs if name in cost.tested), []).append(name)
    return names


def _folds(names: Sequence[str], costs: Sequence[Cost]) -> Table:
    """The size of evaluation sets in each fold of a setting."""
    heads = ["fold", "trained", "tested", "pictures", "genuine", "impostors", "lowest FAR"]
    table = Table(f"{printable_name('; '.join(names))}: by fold", heads, text=())
    by_fold = {cost.cell.fold or 0: cost for cost in reversed(costs) if names[0] in cost.tested}
    for fold, cost in sorted(by_fold.items()):
        size = cost.tested[names[0]]
        far = _lowest_far(cost, size)
        lowest = "none" if far is None else f"{far_name(far)} ({int(far * size.impostors):,})"
        numbers = (cost.identities, size.people, size.pictures, size.genuine, size.impostors)
        table.add_row(str(fold), *(f"{number:,}" for number in numbers), lowest)
    return table


def _lowest_far(cost: Cost, size: SetSize) -> float | None:
    """The lowest false accept rate that is asked for and has an impostor pair; None without one."""
    return min((far for far in cost.cell.config.evaluation.fars if far * size.impostors >= 1), default=None)


def _cells(costs: Sequence[Cost]) -> Iterator[str]:
    """Cells of the runs of one arm, which differ only in seed and fold."""
    states = [cost.state for cost in costs]
    minutes = [cost.steps * cost.cell.config.batch_size / cost.pictures_per_second / 60 for cost in costs]
    yield _ranges(list({cost.cell.seed for cost in costs}))
    yield _typical([cost.identities for cost in costs])
    yield _typical([cost.pictures for cost in costs])
    yield _typical([cost.steps for cost in costs])
    yield f"{costs[0].pictures_per_second:.0f}{'' if costs[0].measured_on == 'runs' else '*'}"
    yield f"{sum(minutes) / len(minutes):.1f}"
    yield f"{sum(cost.seconds for cost in costs) / 60:.1f}"
    yield ",\n".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _typical(numbers: Sequence[int]) -> str:
    """The mean of some numbers, marked with ≈ where they differ."""
    return f"{'≈' if len(set(numbers)) > 1 else ''}{round(sum(numbers) / len(numbers)):,}"


def _ranges(seeds: Sequence[int]) -> str:
    """Seeds with consecutive ones joined, such as ``0–2, 7``."""
    ranges: list[list[int]] = []
    for seed in sorted(seeds):
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in ranges)
