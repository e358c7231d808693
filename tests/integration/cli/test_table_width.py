"""Every kind of table that a command prints, with long names, at the width of a terminal."""

import io
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.small_runs import settings
from vplface.bench.loop import PARTS
from vplface.cli import (
    bench_head,
    bench_scaling,
    bench_train,
    claims_tables,
    data_check,
    data_info,
    estimate_table,
    evaluation_tables,
    export_cost,
    plan_tables,
    rate_tables,
)
from vplface.cli import tables as study_tables
from vplface.console import Console
from vplface.data.check import KINDS
from vplface.data.degrade import Degradation
from vplface.data.degrade.kinds import KINDS as DEGRADATIONS
from vplface.data.summary import Summary
from vplface.evaluation import Evaluation
from vplface.evaluation.claims import needed
from vplface.evaluation.figure import Figure
from vplface.evaluation.strata import STRATA
from vplface.study import progress_table
from vplface.study.cost import Cost, SetSize
from vplface.study.grid import Cell

ARM, SET, PATH = "vpl-momentum-lambda-0.50", "held-out-people-of-2024", Path("/data/" + "face_pictures/" * 8 + "train")
METRICS = ("accuracy", "best_accuracy", "tar@far=1e-2", "tar@far=1e-3", "tar@far=1e-4", "eer", "auc")
INTERVAL = {"value": 0.98765, "ci95": [0.91234, 0.99999], "threshold": 0.31234}
DIFFERENCE = {"difference": -0.01234, "ci95": [-0.02345, 0.01234], "distinguishable": True}
MACHINE = {"gpu": None, "processor": "a processor", "threads": 2, "cores": 2, "torch": "2.13.0"}


@pytest.fixture
def drawn(monkeypatch):
    """A function that prints by a module or shows a table, and returns the lines of all tables at some width."""

    def lines(width, module, show):
        written = io.StringIO()
        if module is not None:
            monkeypatch.setattr(module, "Console", lambda **_: Console(file=written, width=width))
        found = show()
        if found is not None:
            Console(file=written, width=width).print(found)
        return written.getvalue().splitlines()

    return lines


def study(arms):
    runs = {arm: {SET: dict.fromkeys(METRICS, INTERVAL)} for arm in (ARM, *arms)}
    differences = {arm: {SET: dict.fromkeys(METRICS, DIFFERENCE)} for arm in arms}
    summary = {"runs": runs, "differences_to": ARM, "differences": differences, "seeds": [0, 1]}
    records = [SimpleNamespace(name=arm, last=lambda key: 0.999) for arm in runs]
    return SimpleNamespace(summary=summary, runs=records)


def settings_of_a_study():
    entry = {"sets": {SET: dict.fromkeys(METRICS, INTERVAL)}, "final_loss": {"value": 12.345}, "seeds": range(5)}
    return {
        "arms": {ARM: entry, "arcface": entry},
        "differences": {"arcface": {ARM: {SET: dict.fromkeys(METRICS, DIFFERENCE)}}},
    }


def evaluation():
    figures = {metric: Figure.from_json(INTERVAL) for metric in METRICS}
    rates = {"fnmr": INTERVAL, "fmr": INTERVAL}
    spread = {"fnmr": {**INTERVAL, "highest": SET, "lowest": ARM}, "fmr": None}
    at = {"tar@far=1e-3": {"threshold": 0.31234, "rates": {SET: rates}, "spread": spread}}
    protocol = {
        "kind": "all pairs", "pictures": 12345, "pairs": 10**7, "genuine": 10**5, "impostors": 10**7,
        "identities": 12345, "accept": ">=", "flip": "sum", "far_rule": "at most", "bootstrap": 0,
    }  # fmt: skip
    return Evaluation(
        SET, protocol, figures, fingerprint="x", groups={"at": at, "groups": {SET: {"identities": 12345}}}
    )


def promise():
    rate = {**INTERVAL, "lower95": 0.1, "upper95": 0.98765, "errors": 123_456, "pairs": 10**9}
    return {"threshold": 0.31234, "fmr": rate, "fnmr": rate, "sentence": "It holds."}


def hard():
    rate = promise()["fmr"]
    moved = {"threshold": 0.31234, "fnmr": INTERVAL}
    entry = {"threshold": 0.3, "fmr": rate, "fnmr": rate, "moved": moved}
    at = dict.fromkeys(["operating_point", "far=1e-3"], entry)
    return {"k": 12, "pairs_of_people": 10**6, "impostors": 10**7, "nearest_by": "cosine", "at": at}


def at_ages():
    names = [f"age {age}0–{age}9" for age in range(8)]
    across = [{"groups": [a, b], "fmr": INTERVAL} for a in names for b in names if a < b]
    ratio = {"value": 12.345, "ci95": [1.234, 123.456], "highest": SET, "lowest": ARM}
    gap = {"identities": 10**5, "genuine": 10**7, "fnmr": INTERVAL}
    gaps = dict.fromkeys(["0–4 years", "20 and more years"], gap)
    ratios = {"fnmr": dict.fromkeys(["max_over_min", "max_over_geometric_mean"], ratio), "fmr": None}
    return {"rates": {name: {"fmr": INTERVAL} for name in names}, "across": across, "ratios": ratios, "age_gap": gaps}


def strata():
    rates = {"fnmr": INTERVAL, "fmr": INTERVAL, "tail": INTERVAL}
    at = {f"far=1e-{places}": {"accepted": 123_456, "strata": dict.fromkeys(STRATA, rates)} for places in (3, 4)}
    pairs = {name: {"genuine": 10**5, "impostors": 10**8, "share": 0.333} for name in STRATA}
    lies = {"count": 10**6, "identities": 10**5, "norm": INTERVAL, "recognisability": [0.123, 0.234, 0.345]}
    return {"pairs": pairs, "at": at, "pictures": {"good": lies, "poor": lies}}


def degraded(kind):
    clean = evaluation()
    return replace(clean, protocol={**clean.protocol, "degrade": {**Degradation(kind()).to_dict(), "pictures": 12345}})


def of_bench_train():
    arm = {"pictures_per_second": 12345.6, "speedup": 12.34, "of_peak": 0.99, "seconds": 12.345}
    arm |= {"spread": [12.345, 13.456], "parts": dict.fromkeys(PARTS, 12.345)}
    arm |= {"streamed": {"pictures_per_second": 12345.6, "share": 0.99}}
    result = {"backbone": "timm/convnext_small.fb_in22k", "classes": 10**7, "batch": 4096, "dim": 512}
    return {**result, "parameters": 5e7, "flops": 10**15, "arms": {"as usual": arm, "vplface, bfloat16": arm}}


def of_bench_head():
    arm = {"seconds": 12.345, "spread": [12.345, 13.456], "speedup": 123.4, "over_floor": 12.34, "extra_mb": 12345}
    arms = {"insightface partial fc": {**arm, "beside": {"seconds": 1.0, "slowdown": 1.0}}, "vplface": arm}
    result = {"floor": {"seconds": 1.0, "products": 1.0, "memory": 1.0}, "classes": 10**7, "batch": 4096, "dim": 512}
    return {
        **result,
        "dtype": "bfloat16",
        "arms": {**arms, "torch": {"reason": "it would need more memory than there is"}},
    }


def of_scaling():
    base = {"scaling": "base", "processes": 1, "threads": 1, "batch": 4096, "seconds": 1.0, "spread": [1.0, 2.0]}
    weak = {**base, "scaling": "strong", "processes": 16, "efficiency": 0.5}
    result = {"backbone": "timm/convnext_small.fb_in22k", "classes": 10**7, "batch": 4096, "dim": 512}
    return {**result, "dtype": "bfloat16", "scaling": [{**each, "pictures_per_second": 1e6} for each in (base, weak)]}


def cost(tmp_path):
    cell = Cell(SET, ARM, 0, settings(tmp_path, tmp_path))
    tested = {SET: SetSize(123_456, 12_345_678, 10**9, 10**12)}
    return Cost(cell, 123_456, 12_345_678, 1_234_567, 0, "changed", 12345.6, "random", 1e6, tested)


def in_progress(tmp_path):
    table = progress_table.ProgressTable(10, [cost(tmp_path).cell], 1)
    cell = SimpleNamespace(name=f"{SET}/{ARM}-seed10", folder=tmp_path)
    table._active[cell.name] = progress_table._Watched(cell, 0.0, 0, 123_456, 1_234_567, "12345", "12.345")
    return table._table(1e4)


def summary():
    sizes = {f"{1000 + size}x{1000 + size}": 10 for size in range(9)}
    return Summary(np.full(12345, 30), 12, 1000, {"jpg": 500, "png": 499}, sizes, 3, 10**11)


class Pictures:
    identities = (ARM,)

    def __len__(self):
        return 12_345_678


COVERAGE = {batch: dict.fromkeys(data_info.LIFETIMES, 0.98765) for batch in (128, 512, 4096)}
PLAN = [
    ("distilled from", f"{PATH}/best: 1 · cosine, 0.5 · distance"),
    ("  softmax: prototypes with memory, Z", "1.2 GiB"),
]
PLAN += [("coverage by Δt (steps)", "   ".join(f"{10**size:,}: 99%" for size in range(8)))]
RATES = {f"{SET} 1:N": evaluation()}

KINDS_OF_TABLES = {
    "study of two arms": (None, lambda _: study_tables._table(study(["arcface"]), SET)),
    "study of many arms": (None, lambda _: study_tables._table(study([ARM + "-a", ARM + "-b"]), SET)),
    "setting of a study": (
        None, lambda _: study_tables._figures_of_setting(SET, SET, settings_of_a_study(), [ARM, "arcface"]),
    ),
    "differences of a study": (
        None, lambda _: study_tables._differences_of_setting(SET, settings_of_a_study(), [ARM]),
    ),
    "runs of a study": (None, lambda path: estimate_table._table(SET, [cost(path)] * 12)),
    "progress of a study": (None, in_progress),
    "plan": (plan_tables, lambda _: plan_tables._show(f"plan of {PATH}", PLAN)),
    "evaluation": (evaluation_tables, lambda _: evaluation_tables.show_figures(evaluation(), str(PATH), "RGB", {})),
    "stored threshold": (claims_tables, lambda _: claims_tables.show_promise(promise())),
    "hard impostors": (claims_tables, lambda _: claims_tables.show_hard(hard())),
    "across groups": (claims_tables, lambda _: claims_tables.show_ratios(at_ages())),
    "people of claims": (
        claims_tables, lambda _: claims_tables.show_needed([needed(far) for far in (0.1, 1e-4, 1e-7)]),
    ),
    "degraded pictures": (
        evaluation_tables,
        lambda _: evaluation_tables.show_degraded(evaluation(), [degraded(kind) for kind in DEGRADATIONS.values()]),
    ),
    "strata": (evaluation_tables, lambda _: evaluation_tables._show_strata(evaluation_tables.Console(), strata())),
    "folds": (None, lambda path: estimate_table._folds([SET, ARM], [cost(path)])),
    "comparison": (
        evaluation_tables,
        lambda _: evaluation_tables.show_differences(str(PATH), ARM, dict.fromkeys(METRICS, DIFFERENCE)),
    ),
    "rates": (rate_tables, lambda _: rate_tables.show_rates(RATES, {"flip": "sum"}, {})),
    "reduced precision": (export_cost, lambda _: export_cost.Cost(RATES, RATES).show()),
    "bench train": (bench_train, lambda _: bench_train._show(MACHINE, [of_bench_train()])),
    "bench head": (bench_head, lambda _: bench_head._show(MACHINE, [of_bench_head()], 8)),
    "bench, several processes": (bench_scaling, lambda _: bench_scaling.print_scaling([of_scaling()], False)),
    "data check": (
        data_check,
        lambda _: data_check._print_findings(
            PATH, Pictures(), [], ["truncated"], dict.fromkeys(KINDS, 123_456)
        ),
    ),
    "data info": (data_info, lambda _: data_info._print_summary(PATH, summary(), COVERAGE)),
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("kind", KINDS_OF_TABLES)
def test_tables_are_never_cut(drawn, tmp_path, monkeypatch, kind, width):
    module, show = KINDS_OF_TABLES[kind]
    lines = drawn(width, module, lambda: show(tmp_path))
    text = "\n".join(lines)
    assert len(lines) > 3
    assert max(map(len, lines)) <= width, text
    assert not re.search(r"\S…|…\S", text), text
    assert width < 200 or "─" in text or kind == "plan"  # room for a table: no records
