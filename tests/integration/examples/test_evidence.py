"""examples/argument/evidence.py: differences read from the tables of docs/record.md, drawn, or refused."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from helpers.paths import ROOT

pytest.importorskip("matplotlib", reason="the figure needs vplface[plot]")
FOLDER = ROOT / "examples" / "argument"
PAGE = """# Results

### Few pictures

| arm | TAR at FAR 1e-2 | 1e-4 | rank-1 |
|---|---|---|---|
| ArcFace | 72.3 (56.6 – 79.4) | 27.1 (17.0 – 36.1) | 75.2 (67.9 – 80.9) |
| λ .3 − ArcFace, people | (+0.4 – +1.4) | (−0.1 – +1.7) | (−0.3 – +0.9) |
| λ .3 − ArcFace, seeds | +1.0 (+0.7 – +1.3) | −0.5 (−0.9 – 0.0) | +0.2 (−0.4 – +0.8) |
| λ .7 − ArcFace, people | (+0.4 – +1.4) | (−0.1 – +1.7) | (−0.3 – +0.9) |
"""


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module("evidence")


def test_differences_joins_rows_of_people_and_seeds_and_omits_those_without_seeds(evidence: ModuleType) -> None:
    first, second = evidence.differences(PAGE)
    assert first == evidence.Difference("Few pictures", "λ .3 − ArcFace", "1e-2", 1.0, [0.4, 1.4], [0.7, 1.3])
    assert second == evidence.Difference("Few pictures", "λ .3 − ArcFace", "1e-4", -0.5, [-0.1, 1.7], [-0.9, 0.0])


def test_differences_names_a_cell_that_is_not_an_interval(evidence: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"no interval: 'better'"):
        evidence.differences(PAGE.replace("(+0.4 – +1.4)", "better"))


def test_evidence_main_refuses_a_page_without_differences(
    evidence: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Nothing\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        evidence.main([str(page)])
    assert "states no differences" in capsys.readouterr().err


def test_evidence_main_reads_and_draws_the_record(
    evidence: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "figure.svg"
    evidence.main(["--json", "--out", str(picture)])
    found = json.loads(capsys.readouterr().out)["differences"]
    assert {one["rate"] for one in found} == {"1e-2", "1e-3", "1e-4"}
    for one in found:
        assert one["people"][0] <= one["people"][1]
        assert one["seeds"][0] <= one["mean"] <= one["seeds"][1]
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_summary_table_agrees_with_the_record_and_marks_significant_differences(
    evidence: ModuleType, page: str
) -> None:
    found = {
        (re.sub(r"[^\w -]", "", one.section.lower()).replace(" ", "-"), one.name, one.rate): one
        for one in evidence.differences(evidence.RECORD.read_text(encoding="utf-8"))
    }
    row = r"^\| \[[^\]]+\]\(\S*record\.md#(\S+)\), (λ \S+) \| (.+) \| (.+) \| (.+) \| (.+) \|$"
    rows = re.findall(row, (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(rows) >= 5
    for anchor, share, *cells, verdict in rows:
        significant = []
        for rate, cell in zip(evidence.RATES, cells, strict=True):
            one = found[anchor, f"{share} − ArcFace", rate]
            low, high = one.people
            if not low <= 0 <= high:
                significant.append(rate)
                sign = "gain" if low > 0 else "loss"
            mean = f"**{one.mean:+.1f}**" if rate in significant else f"{one.mean:+.1f}"
            said = f"{mean} ({low:+.1f} – {high:+.1f})".replace("-", "−")
            assert cell == re.sub(r"[+−]0\.0", "0.0", said)
        assert verdict == (f"significant {sign} at {' and '.join(significant)}" if significant else "inconclusive")
