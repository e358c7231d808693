from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vplface.report.finetuning import finetuning_caution, finetuning_section, finetuning_verdict
from vplface.report.record import RunRecord

METRIC = "tar@far=1e-3"


def stored(ends: list[float] | None, guard: list[float] | None = None) -> dict[str, Any]:
    of_set = {"mine": ends, "other": guard or [0.0, 0.0]}
    value = {name: None if interval is None else sum(interval) / 2 for name, interval in of_set.items()}
    return {
        "step": 40,
        "helped": None if ends is None else ends[0] > 0,
        "guard_fell": None if guard is None else guard[1] < 0,
        "deciding": {"set": "mine", "metric": METRIC},
        "guard": None if guard is None else {"set": "other", "metric": METRIC},
        "untouched": {name: {"metrics": {METRIC: {"value": 0.5}}} for name in of_set},
        "finetuned": {name: {"metrics": {METRIC: {"value": 0.5 + (value[name] or 0.0)}}} for name in of_set},
        "differences": {
            name: {METRIC: {"difference": value[name], "ci95": interval}} for name, interval in of_set.items()
        },
    }


def plain(sentences: list[str]) -> list[str]:
    return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in sentences]


def test_finetuning_verdict_says_that_it_helped_with_the_interval() -> None:
    (sentence,) = plain(finetuning_verdict(stored([0.01, 0.05])))
    assert sentence == (
        "Fine-tuning helped: TAR at FAR 10⁻³ on mine +3.0 points (95 % interval 1.0 to 5.0) against the untouched"
        " model; best/ holds the model of step 40."
    )


@pytest.mark.parametrize("ends", [[-0.01, 0.02], [-0.05, -0.01]])
def test_finetuning_verdict_says_that_it_did_not_help_and_what_is_kept(ends: list[float]) -> None:
    (sentence,) = finetuning_verdict(stored(ends))
    assert sentence.startswith("Fine-tuning did not help: ")
    assert sentence.endswith("best/ holds the untouched model.")


def test_finetuning_verdict_says_that_the_guard_fell() -> None:
    first, second = plain(finetuning_verdict(stored([0.01, 0.05], [-0.03, -0.01])))
    assert first.startswith("Fine-tuning helped, but the guard fell: ")
    assert second == "The guard fell: TAR at FAR 10⁻³ on other −2.0 points (95 % interval −3.0 to −1.0)."


def of_several(**ends: list[float]) -> dict[str, Any]:
    guards = [{"set": name, "metric": METRIC, "fell": interval[1] < 0} for name, interval in ends.items()]
    of_guards = {name: {METRIC: {"difference": sum(pair) / 2, "ci95": pair}} for name, pair in ends.items()}
    one = stored([0.01, 0.05])
    return {**one, "guards": guards, "differences": {**one["differences"], **of_guards}}


def test_finetuning_verdict_names_each_of_several_guards() -> None:
    first, *others = plain(finetuning_verdict(of_several(lfw=[-0.03, -0.01], cfp=[-0.01, 0.01], old=[-0.02, -0.01])))
    assert first.startswith("Fine-tuning helped, but the guards lfw and old fell: TAR at FAR 10⁻³ on mine +3.0 points")
    assert others == [
        "The guard lfw fell: TAR at FAR 10⁻³ on lfw −2.0 points (95 % interval −3.0 to −1.0).",
        "The guard cfp did not measurably fall: TAR at FAR 10⁻³ on cfp +0.0 points (95 % interval −1.0 to 1.0).",
        "The guard old fell: TAR at FAR 10⁻³ on old −1.5 points (95 % interval −2.0 to −1.0).",
    ]
    first, *_ = plain(finetuning_verdict(of_several(lfw=[-0.03, -0.01], cfp=[-0.01, 0.01])))
    assert first.startswith("Fine-tuning helped, but the guard lfw fell: ")


def test_finetuning_verdict_says_that_the_guard_did_not_measurably_fall() -> None:
    first, second = plain(finetuning_verdict(stored([-0.01, 0.05], [-0.03, 0.01])))
    assert first.startswith("Fine-tuning did not help: ")
    assert second.startswith("The guard did not measurably fall: ")


def test_finetuning_verdict_without_an_interval_claims_nothing() -> None:
    assert finetuning_verdict(stored(None)) == [
        "It is not known whether fine-tuning helped: its difference has no interval; best/ holds the untouched model."
    ]


def test_finetuning_section_has_both_models_and_the_guard_last() -> None:
    run = RunRecord(Path("mine"), "mine", finetuning=stored([0.01, 0.05], [-0.03, -0.01]))
    page = finetuning_section(run)
    assert page is not None
    assert page.index("<h3>mine</h3>") < page.index("The guard") < page.index("<h3>other</h3>")
    assert page.count("(untouched)") >= 2
    assert "excludes 0" in page
    assert finetuning_section(RunRecord(Path("mine"), "mine")) is None


def test_finetuning_section_has_each_guard_last() -> None:
    found = of_several(lfw=[-0.03, -0.01], cfp=[-0.01, 0.01])
    found["finetuned"] = dict.fromkeys(("lfw", "cfp", "mine"), found["finetuned"]["mine"])
    found["untouched"] = dict.fromkeys(("lfw", "cfp", "mine"), found["untouched"]["mine"])
    page = finetuning_section(RunRecord(Path("mine"), "mine", finetuning=found))
    assert page is not None
    assert page.index("<h3>mine</h3>") < page.index("A guard") < page.index("<h3>lfw</h3>") < page.index("<h3>cfp</h3>")
    assert page.count("A guard, whose figures must not fall:") == 2


def test_finetuning_caution_counts_the_validations_after_the_start() -> None:
    lines = [{"step": step, "validation": {}} for step in (0, 10, 20)]
    run = RunRecord(Path("mine"), "mine", validation=lines, finetuning=stored([0.01, 0.05]))
    assert "best of 2 validations" in finetuning_caution(run)[0]
    assert finetuning_caution(RunRecord(Path("mine"), "mine", finetuning=stored([-0.1, 0.1]))) == []
