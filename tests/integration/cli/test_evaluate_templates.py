"""``vplface evaluate-ijb`` on a small set in the form of IJB-C."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from vplface.cli.app import app
from vplface.cli.evaluate_templates import evaluate_ijb
from vplface.errors import DataError, UsageError

POINTS = "38.3 51.7 73.5 51.5 56.0 71.7 41.5 92.4 70.7 92.2"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """12 people with three templates of two or three faces; a gallery template each."""
    root = tmp_path_factory.mktemp("ijbc")
    (root / "meta").mkdir()
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 16))
    faces, landmarks, rows = [], [], []
    templates = [(100 + t, t % 12) for t in range(36)]
    for template, subject in templates:
        for face in range(2 + template % 2):
            name = f"{len(rows) + 1}.jpg"
            faces.append(f"{name} {template} {10 * template + face // 2}")
            landmarks.append(f"{name} {POINTS} {rng.uniform(0.5, 1):.3f}")
            rows.append(rng.uniform(1, 9) * (centres[subject] + rng.normal(size=16)))
    pairs = [(a, b, int(s == r)) for a, s in templates for b, r in templates if a < b]
    (root / "meta/ijbc_face_tid_mid.txt").write_text("\n".join(faces) + "\n")
    (root / "meta/ijbc_name_5pts_score.txt").write_text("\n".join(landmarks) + "\n")
    (root / "meta/ijbc_template_pair_label.txt").write_text("".join(f"{a} {b} {s}\n" for a, b, s in pairs))
    for name, chosen in (
        ("gallery_G1", templates[:6]),
        ("gallery_G2", templates[6:12]),
        ("probe_mixed", templates[12:]),
    ):
        lines = "".join(f"{template},{subject},img/{template}.png\n" for template, subject in chosen)
        (root / f"meta/ijbc_1N_{name}.csv").write_text("TEMPLATE_ID,SUBJECT_ID,FILENAME\n" + lines)
    embeddings = np.array(rows, np.float32)
    np.save(root / "embeddings.npy", embeddings)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.savez(root / "unit.npz", embeddings=unit, names=np.array([f"some/{n + 1}.jpg" for n in range(len(unit))]))
    return root


def run(place, *arguments, model="embeddings.npy"):
    return CliRunner().invoke(app, ["evaluate-ijb", str(place / model), "--data", str(place), *map(str, arguments)])


def as_json(result):
    assert result.exit_code == 0, result.output + str(result.exception)
    return json.loads(result.stdout)


def test_vplface_evaluate_ijb_json_has_the_documented_keys(place):
    said = as_json(run(place, "--fars", "1e-1,1e-6", "--fpirs", "0.5", "--one-to-many", "--bootstrap", 20, "--json"))
    assert list(said) == ["schema", "model", "data", "protocol", "metrics", "files"]
    assert said["protocol"]["flags"] == "N1D1F1"
    assert said["protocol"]["1:1"]["pairs"] == 36 * 35 // 2
    assert said["protocol"]["1:1"]["identities"] == 12
    assert said["protocol"]["1:N"]["galleries"]["G2"] == {"templates": 6, "mated": 12, "non_mated": 12}
    assert set(said["metrics"]) == {"tar@far=1e-1", "tar@far=1e-6", "rank-1", "rank-5", "rank-10", "tpir@fpir=5e-1"}
    assert 0.3 < said["metrics"]["tar@far=1e-1"]["value"] <= 1
    assert said["metrics"]["tar@far=1e-6"]["value"] is None
    assert len(said["metrics"]["rank-1"]["ci95"]) == 2
    for path, digest in said["files"].items():
        with open(path, "rb") as file:  # noqa: PTH123
            assert hashlib.file_digest(file, "sha256").hexdigest() == digest
    assert len(said["files"]) == 7


def test_vplface_evaluate_ijb_flags_change_the_threshold_unless_norms_are_equal(place):
    def thresholds(flags, model="embeddings.npy"):
        result = run(place, "--flags", flags, "--fars", "0.1", "--bootstrap", 0, "--json", model=model)
        return as_json(result)["metrics"]["tar@far=1e-1"]["threshold"], result.stderr

    found = {flags: thresholds(flags)[0] for flags in ("N1D1F0", "N1D0F0", "N0D1F0", "N0D0F0")}
    assert len(set(found.values())) == 4
    with_norm, note = thresholds("N1D0F0", "unit.npz")
    assert with_norm == pytest.approx(found["N0D0F0"])
    assert "N1 has no effect" in note
    assert thresholds("N0D0F0", "unit.npz") == (pytest.approx(found["N0D0F0"]), "")


def test_show_rates_prints_figures_and_protocol(place):
    result = run(place, "--fars", "1e-1,1e-4", "--one-to-many", "--bootstrap", 10, "--flags", "N0D1F1")
    assert result.exit_code == 0, result.exception
    for part in ("ijbc 1:1, N0D1F1 (%)", "ijbc 1:N", "rank-5", "TPIR at FPIR 10⁻¹", "needs at least 10,000", "sha256"):
        assert part in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--flags", "N1D1"], "flags are written N1D1F1"),
        (["--fars", "1e-4;1e-5"], "--fars takes rates"),
        (["--fars", "0"], "--fars 0"),
        (["--fpirs", "1"], "--fpirs 1"),
    ],
)
def test_vplface_evaluate_ijb_refuses_invalid_options(place, arguments, message):
    with pytest.raises(UsageError, match=message):
        raise _cause(place, arguments)


def _cause(place, arguments, model="embeddings.npy"):
    alone = typer.Typer()
    alone.command()(evaluate_ijb)
    return CliRunner().invoke(alone, [str(place / model), "--data", str(place), *arguments]).exception


def test_vplface_evaluate_ijb_names_the_invalid_file(place):
    with pytest.raises(DataError, match=r"no ijbb_face_tid_mid\.txt"):
        raise _cause(place, ["--set", "ijbb"])
    np.save(place / "short.npy", np.ones((3, 16), np.float32))
    with pytest.raises(DataError, match="3 embeddings"):
        raise _cause(place, [], "short.npy")
    result = run(place, model="nothing.npy")
    assert result.exit_code == 1
    assert "nothing.npy" in result.stderr


def test_vplface_evaluate_ijb_embeds_loose_crops_with_a_model(place):
    """Pictures are warped by their landmarks, and the norms of embeddings are weights."""
    pytest.importorskip("vplface.data.align")
    import cv2
    import torch

    from vplface.backbones import build
    from vplface.stored_model import ModelCard, save_model

    torch.manual_seed(0)
    save_model(place / "model", build("tiny", 16, width=8), ModelCard("tiny", 16, {"width": 8}))
    (place / "loose_crop").mkdir()
    rng = np.random.default_rng(0)
    for number in range(len(np.load(place / "embeddings.npy"))):
        picture = cv2.resize(rng.integers(0, 256, (7, 7, 3)).astype(np.uint8), (130, 140))
        cv2.imwrite(str(place / f"loose_crop/{number + 1}.jpg"), picture)
    found = {
        flags: as_json(run(place, "--flags", flags, "--fars", "0.1", "--bootstrap", 0, "--json", model="model"))
        for flags in ("N1D1F1", "N0D1F1", "N1D1F0")
    }
    assert len({said["metrics"]["tar@far=1e-1"]["threshold"] for said in found.values()}) == 3
    assert found["N1D1F1"]["protocol"]["preprocessing"]["color"] == "rgb"
    assert str(place / "model/model.safetensors") in found["N1D1F1"]["files"]
    page = place / "page.html"
    assert run(place, "--fars", "0.1", "--bootstrap", 0, "--report", page, model="model").exit_code == 0
    assert page.read_text().count("data:image/") >= 4


def test_vplface_evaluate_ijb_writes_result_and_report(place, tmp_path):
    out, page = tmp_path / "result.json", tmp_path / "page.html"
    result = run(place, "--fars", "1e-1", "--one-to-many", "--bootstrap", 10, "--out", out, "--report", page)
    assert result.exit_code == 0, result.output
    said = json.loads(out.read_text())
    assert said["metrics"]["rank-1"] == said["evaluations"]["ijbc 1:N, N1D1F1"]["metrics"]["rank-1"]
    assert {"versions", "date", "files"} <= said.keys()
    for part in ("CMC", "Open-set identification", "DET"):
        assert part in page.read_text()
    with pytest.raises(UsageError, match=r"--out .* must end in \.json"):
        raise _cause(place, ["--out", "result.txt"])
