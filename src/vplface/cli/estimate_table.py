"""Tables of the runs of a study with their estimated cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from vplface.console import Console, print_json
from vplface.printable import printable_name
from vplface.study import Estimate
from vplface.study.cost import Cost

_STATES = {
    "changed": "changed: the folder holds a run with another configuration; --overwrite restarts it.",
    "anew": "anew: an earlier run that an interrupted --overwrite had not yet restarted.",
}
_ON_RANDOM_PICTURES = (
    "* measured on a few steps of backbone and head with random pictures, in a single process: loading and parallel"
    " runs take longer. The other rates are medians from the logs of finished runs with the same backbone and batch."
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
        console.print(_table(setting, [cost for cost in estimate.costs if cost.cell.setting == setting]))
    total = sum(cost.seconds for cost in estimate.costs) / 60
    console.print(
        "per s: pictures per second; min: minutes of training per run; left: minutes for all seeds."
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
        "folder": str(cost.cell.folder),
        "state": cost.state,
        "identities": cost.identities,
        "pictures": cost.pictures,
        "steps": cost.steps,
        "taken": cost.taken,
        "pictures_per_second": cost.pictures_per_second,
        "measured_on": cost.measured_on,
        "minutes_left": cost.seconds / 60,
    }


def _table(setting: str, costs: Sequence[Cost]) -> Table:
    """The runs of a setting, with a row for the seeds of each arm."""
    table = Table(title=printable_name(setting), title_justify="left", box=None)
    table.add_column("arm", overflow="fold")
    for heading in ("seeds", "people", "pictures", "steps", "per s", "min", "left", "runs"):
        table.add_column(heading, justify="right", no_wrap=heading != "seeds")
    for arm in dict.fromkeys(cost.cell.arm for cost in costs):
        table.add_row(printable_name(arm), *_cells([cost for cost in costs if cost.cell.arm == arm]))
    return table


def _cells(costs: Sequence[Cost]) -> Iterator[str]:
    """Cells of the runs of one arm, which differ only in the seed."""
    first = costs[0]
    states = [cost.state for cost in costs]
    minutes = first.steps * first.cell.config.batch_size / first.pictures_per_second / 60
    yield _ranges([cost.cell.seed for cost in costs])
    yield f"{first.identities:,}"
    yield f"{first.pictures:,}"
    yield f"{first.steps:,}"
    yield f"{first.pictures_per_second:.0f}{'' if first.measured_on == 'runs' else '*'}"
    yield f"{minutes:.1f}"
    yield f"{sum(cost.seconds for cost in costs) / 60:.1f}"
    yield ",\n".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _ranges(seeds: Sequence[int]) -> str:
    """Seeds with consecutive ones joined, such as ``0–2, 7``."""
    ranges: list[list[int]] = []
    for seed in sorted(seeds):
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in ranges)
