"""A calibration on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vplface.console import Console, say
from vplface.evaluation.figure import Figure
from vplface.tables import Table


def show_calibration(calibration: Mapping[str, Any], which: str = "") -> None:
    """Print the calibration curve, C_llr and minC_llr on the people that judge."""
    fit = calibration["fit"]
    table = Table(
        f"{which}{fit['method']} calibration: probability of one person at a prior of 0.5 (%)",
        ["LLR", "genuine", "impostors", "predicted", "observed", "95 % interval"],
    )
    for part in calibration["curve"]:
        low, high = part["llr"]
        observed = Figure.from_json(part["observed"])
        assert observed.value is not None  # a part of the curve has pairs
        table.add_row(
            f"{low:g} … {high:g}",
            f"{part['genuine']:,}",
            f"{part['impostors']:,}",
            f"{100 * part['predicted']:.1f}",
            f"{100 * observed.value:.1f}",
            "—" if observed.interval is None else "{:.1f} … {:.1f}".format(*(100 * end for end in observed.interval)),
        )
    Console().print(table)
    cost, least = Figure.from_json(calibration["cllr"]), calibration["min_cllr"]
    assert cost.value is not None
    ends = "" if cost.interval is None else " ({:.4f} … {:.4f})".format(*cost.interval)
    say(
        f"Cllr {cost.value:.4f}{ends}, minCllr {least:.4f}: calibration loses {cost.value - least:.4f} bits. Fitted on "
        f"{calibration['people']:,} people, judged on {calibration['judged_people']:,} others. LLR within "
        f"{fit['lowest']:.2f} … {fit['highest']:.2f}, as far as {calibration['people']:,} people can show."
    )
