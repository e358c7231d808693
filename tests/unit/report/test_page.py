from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vplface.errors import DataError
from vplface.report import RunRecord, faces, plots, read_run, write_report
from vplface.run_folder import REPORTED

HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.example/x onerror=alert(1)>"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Every element of a page with its attributes, its text, and whether all elements were closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data + "\n"

    def count(self, tag: str, kind: str | None = None) -> int:
        return sum(name == tag and kind in (None, attrs.get("class")) for name, attrs in self.elements)


def page_of(path: Path, runs: list[RunRecord], **options: Any) -> Page:
    write_report(path, runs, "A title", **options)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def noise(set_name: str, name: str) -> np.ndarray:
    seed = sum(f"{set_name}/{name}".encode())
    return np.random.default_rng(seed).integers(0, 256, (112, 112, 3), dtype=np.uint8)


def test_write_report_of_a_study_has_every_part(study: list[Path], tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", [read_run(folder) for folder in study], picture_of=noise)
    for heading in (
        "Results",
        "Points and distributions",
        "Training",
        "Evaluation on LFW View 1",
        "Configuration",
        "Provenance",
        "ROC",
        "Loss",
        "Coverage",
        "Feature drift",
        "Cosine to own class",
        "Drift by lag",
        "Cosine to memory, by age",
        "Injected angle",
        "Gradient of the prototypes",
        "Nearer to another class's memory",
        "Learning rate",
        "Accuracy, synthetic held-out people",
        "A class is a point",
        "A class is a distribution",
        "Same person, scored lowest",
        "Different people, scored highest",
    ):
        assert f"\n{heading}\n" in page.text, heading
    assert page.count("table", "results") == 2
    assert page.count("tr", "paired") == 2
    assert "vpl-arcface − arcface" in page.text
    assert "vpl-arcface is ahead" in page.text
    assert "research" in page.text
    differing = [attrs for name, attrs in page.elements if name == "tr" and attrs.get("class") == "differs"]
    assert len(differing) == 5  # variational, and its four options


def test_write_report_page_is_self_contained_and_small(study: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    page = page_of(path, [read_run(folder) for folder in study], picture_of=noise)
    assert path.stat().st_size < 3_000_000
    for name, attributes in page.elements:
        assert name not in {"link", "iframe", "object", "embed", "base", "image", "use"}
        for key, value in attributes.items():
            if key in {"src", "href", "xlink:href", "srcset", "poster", "action"}:
                assert value is not None
                assert value.startswith(("data:", "#")), (name, key, value)
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#|data:)", text)
    assert not re.search(r"https?://|@import", text)


def test_write_report_omits_pictures_beyond_PICTURE_BYTES(
    study: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faces, "PICTURE_BYTES", 60_000)
    path = tmp_path / "report.html"
    runs = [read_run(folder) for folder in study]
    page = page_of(path, runs, picture_of=noise)
    pictures = page.count("img")
    assert 2 <= pictures < 12
    assert "Galina_Petrova/Galina_Petrova_0001.jpg" in page.text


def test_write_report_shows_pictures_in_their_colours(vpl_run: Path, tmp_path: Path) -> None:
    import base64

    import cv2

    red = np.zeros((112, 112, 3), dtype=np.uint8)
    red[..., 0] = 220
    page = page_of(tmp_path / "report.html", [read_run(vpl_run)], picture_of=lambda set_name, name: red)
    source = next(attrs["src"] for name, attrs in page.elements if name == "img")
    assert source is not None
    data = base64.b64decode(source.partition("base64,")[2])
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_allclose(shown.reshape(-1, 3).mean(axis=0), [220, 0, 0], atol=3)


def test_write_report_says_that_a_picture_is_missing(vpl_run: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", [read_run(vpl_run)], picture_of=lambda set_name, name: None)
    assert page.count("img") == 0
    assert "no picture" in page.text


def test_write_report_escapes_every_name(study: list[Path], tmp_path: Path) -> None:
    folder = study[1]
    evaluation = json.loads((folder / "evaluation.json").read_text())
    entry = evaluation.pop("LFW View 1")
    entry["worst"]["impostor"][0]["left"] = HOSTILE
    entry["protocol"][HOSTILE] = HOSTILE
    entry["metrics"][HOSTILE] = {"value": 0.5, "ci95": [0.4, 0.6]}
    evaluation[HOSTILE] = entry
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "environment.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 3000, "validation": {HOSTILE: {HOSTILE: 0.5}}}) + "\n")
    hostile = folder.with_name("<b>run&amp;")
    folder.rename(hostile)
    path = tmp_path / "report.html"
    write_report(path, [read_run(study[0]), read_run(hostile)], HOSTILE, picture_of=noise)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert page.count("script") == 1
    similarities = 2 * 2 * 2 * 7  # arms, sets, kinds, pairs
    assert page.count("b") == similarities
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert all((attributes["src"] or "").startswith("data:") for name, attributes in page.elements if name == "img")
    assert HOSTILE in page.text
    assert "<b>run&amp;" in page.text


def test_write_report_policy_allows_only_its_own_script(vpl_run: Path, tmp_path: Path) -> None:
    import base64
    import hashlib

    path = tmp_path / "report.html"
    page = page_of(path, [read_run(vpl_run)])
    policy = next(a["content"] for n, a in page.elements if n == "meta" and "Content-Security-Policy" in a.values())
    script = re.search(r"<script>(.*)</script>", path.read_text(encoding="utf-8"), re.DOTALL)
    assert script is not None
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("kept", REPORTED)
def test_write_report_accepts_a_run_with_any_single_file(vpl_run: Path, tmp_path: Path, kept: str) -> None:
    alone = tmp_path / "alone"
    (alone / kept).parent.mkdir(parents=True)
    if kept == "finetuning.json":
        (vpl_run / kept).write_text('{"helped": true, "differences": 3, "untouched": {"LFW": {}}}', encoding="utf-8")
    if not (vpl_run / kept).exists():
        (vpl_run / kept).parent.mkdir(exist_ok=True)
        shutil.copy(vpl_run / Path(kept).name, vpl_run / kept)
    shutil.copy(vpl_run / kept, alone / kept)
    page = page_of(tmp_path / "report.html", [read_run(alone)])
    assert ("No evaluation was found" in page.text) == (kept != "evaluation.json")
    assert ("hold no training log" in page.text) == (kept != "metrics.jsonl")
    assert ("hold no configuration" in page.text) == (kept != "config.yaml")
    assert ("hold no record of their environment" in page.text) == (kept != "environment.json")


@pytest.mark.parametrize(
    "evaluation",
    [
        {},
        {"metrics": None, "curves": None, "worst": None, "protocol": None},
        {"metrics": {"accuracy": {"value": None, "reason": "too few pairs"}}},
        {"metrics": {"accuracy": {"value": 0.9}, "tar@far=1e-3": {"value": 0.5, "ci95": None}}},
        {"metrics": {"accuracy": 0.9}, "curves": {"roc": {"far": [0.1]}, "histogram": {"edges": [0, 1]}}},
        {"curves": {"roc": {"far": [0.0, 1.0], "tar": [0.2, 1.0]}, "histogram": {"edges": [], "genuine": []}}},
        {"curves": {"histogram": {"edges": [0, 1], "genuine": [0], "impostor": [0]}}},
        {"worst": {"genuine": [{"left": "a.jpg"}, 3], "impostor": "none"}},
        {"worst": {"genuine": [{"left": "a.jpg", "right": "b.jpg", "similarity": None}]}},
    ],
)
def test_write_report_accepts_incomplete_evaluations(tmp_path: Path, evaluation: dict[str, Any]) -> None:
    run = RunRecord(tmp_path, "run", evaluations={"LFW": evaluation})
    path = tmp_path / "report.html"
    page = page_of(path, [run, run], picture_of=noise)
    assert "LFW" in page.text
    assert not re.search(r"\bnan\b|\binf\b", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "values", [[], [None], [float("nan")], [2.0], [2.0, float("nan"), float("inf"), 1.0], [0.0, 0.0]]
)
def test_write_report_accepts_empty_missing_and_non_finite_logged_values(
    tmp_path: Path, values: list[float | None]
) -> None:
    keys = ("loss", "lr", "pictures_per_second", "coverage", "cos_prototype", "cos_memory", "drift", "time")
    lines = [{"step": step} | dict.fromkeys(keys, value) for step, value in enumerate(values)]
    run = RunRecord(tmp_path, "run", training=lines, config={"batch_size": 8})
    page_of(tmp_path / "report.html", [run])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"\bnan\b|\binf\b", text)


def test_write_report_thins_long_logs(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 1 / (step + 1), "lr": 0.1} for step in range(50_000)]
    page_of(tmp_path / "report.html", [RunRecord(tmp_path, "run", training=lines)])
    assert (tmp_path / "report.html").stat().st_size < 80_000


def test_write_report_training_time_counts_only_the_steps(tmp_path: Path) -> None:
    lines = [
        {"step": 100, "pictures_per_second": 100.0, "time": 1e9},
        {"step": 300, "pictures_per_second": 50.0, "time": 1e9 + 99_999},
    ]
    run = RunRecord(
        tmp_path, "run", training=lines, config={"batch_size": 32}, evaluations={"LFW": {"metrics": {"accuracy": {}}}}
    )
    page = page_of(tmp_path / "report.html", [run])
    assert "\n2 min 40 s\n" in page.text  # 100·32/100 + 200·32/50 seconds


def test_write_report_marks_the_start_of_injection(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 1.0} for step in range(0, 1001, 100)]
    config = {"variational": {"start": "2.5 epochs"}}
    run = RunRecord(tmp_path, "run", training=lines, config=config, environment={"steps_per_epoch": 200})
    page_of(tmp_path / "report.html", [run])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    mark = re.search(r'class="upright neutral" d="M([\d.]+) ', text)
    axis = re.search(r'class="axis" d="M([\d.]+) [\d.]+H([\d.]+)"', text)
    assert mark is not None
    assert axis is not None
    assert float(mark[1]) == pytest.approx((float(axis[1]) + float(axis[2])) / 2, abs=0.1)


def test_injection_marks_the_lifetime_decided_by_a_rule(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"step": step, "loss": 1.0} for step in range(0, 1001, 100)]
    lines[4]["begin"] = {"delta_t": 60, "settled": True, "by_drift": True}
    lines[8] |= {"drift_by_lag": {"30": 0.1, "60": 0.2, "90": 0.3, "120": 0.35}, "spread": 0.8}
    config = {"variational": {"lam": 0.1, "start": {"drift": 0.25}, "delta_t": {"coverage": 0.5, "drift": 0.1}}}
    run = RunRecord(tmp_path, "run", training=lines, config=config | {"margin": {"name": "arcface"}})
    assert plots.variational_start(run) == 400
    assert plots.variational_lifetime(run) == 60
    page = page_of(tmp_path / "report.html", [run])
    assert "Δt by coverage 0.5, drift 0.1, start by drift 0.25" in page.text
    (figure,) = plots.injection([run])
    assert figure.title == "Drift by lag"
    middle = re.search(r'class="upright neutral" d="M([\d.]+) ', str(figure.picture))
    axis = re.search(r'class="axis" d="M([\d.]+) [\d.]+H([\d.]+)"', str(figure.picture))
    assert middle is not None
    assert axis is not None
    assert float(middle[1]) == pytest.approx((float(axis[1]) + float(axis[2])) / 2, abs=0.1)


@pytest.mark.parametrize("value", [None, 3, "x", {}, {"a": 1}, {"5": None}, {"5": "x"}, {"5": 0.1}])
def test_write_report_accepts_any_value_of_the_curves_by_age(tmp_path: Path, value: object) -> None:
    keys = ("drift_by_lag", "cosine_by_age", "injected_angle", "gradient_norm", "begin", "spread", "nearer_to_memory")
    run = RunRecord(tmp_path, "run", training=[{"step": 1} | dict.fromkeys(keys, value)])
    page_of(tmp_path / "report.html", [run])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"\bnan\b|\binf\b", text)


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        ({}, "start 0)"),
        ({"name": "last"}, "start 0)"),
        ({"name": "several", "count": 4}, "start 0, memory several count 4)"),
    ],
)
def test_write_report_names_a_memory_other_than_the_default(
    tmp_path: Path, memory: dict[str, object], words: str
) -> None:
    injection = {"lam": 0.2, "delta_t": 5, "start": 0} | ({"memory": memory} if memory else {})
    run = RunRecord(tmp_path, "run", config={"margin": {"name": "arcface", "scale": 32}, "variational": injection})
    assert f"arcface (scale 32) + VPL (λ 0.2, Δt 5, {words}" in page_of(tmp_path / "report.html", [run]).text


def test_injection_weighs_cosines_by_age_with_their_samples(tmp_path: Path) -> None:
    lines = [
        {"step": 100, "cosine_by_age": {"1": 0.9}, "samples_by_age": {"1": 1000}},  # before the last fifth of the run
        {"step": 900, "cosine_by_age": {"1": 0.2, "5": 0.4}, "samples_by_age": {"1": 1, "5": 2}},
        {"step": 1000, "cosine_by_age": {"1": 0.6}, "samples_by_age": {"1": 3}},
    ]
    (figure,) = plots.injection([RunRecord(tmp_path, "run", training=lines)])
    assert "run, 1 steps: 0.5<" in str(figure.picture)
    assert "run, 5 steps: 0.4<" in str(figure.picture)


def test_write_report_distinguishes_arms_of_equal_name(tmp_path: Path) -> None:
    runs = [RunRecord(tmp_path / seed / "vpl", "vpl") for seed in ("seed0", "seed1", "seed1")]
    page = page_of(tmp_path / "report.html", runs)
    assert "\nseed0/vpl, seed1/vpl, seed1/vpl (2)\n" in page.text.replace(": ", "\n")


def test_write_report_refuses_a_damaged_comparison(study: list[Path], tmp_path: Path) -> None:
    (study[0].parent / "comparison.json").write_text("{")
    with pytest.raises(DataError, match=r"comparison\.json"):
        write_report(tmp_path / "report.html", [read_run(folder) for folder in study], "A title")
    assert not (tmp_path / "report.html").exists()


def test_write_report_refuses_an_empty_list_of_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        write_report(tmp_path / "report.html", [], "A title")
