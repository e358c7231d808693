"""Files written by version 0.1 still work: states of heads, runs, a gallery.

Commit cf4be46 made ``tests/fixtures/v0.1``. ``recipe.yaml`` there was trained and stopped after four of sixteen steps
(``stopped``), then resumed to its end (``finished``), and three of its test people were enrolled (``people``,
``gallery``). :func:`write_heads` wrote the states of heads, after two steps. All faces are generated.
"""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from helpers.heads import OPTIONS, made, optimiser_of
from helpers.paths import ROOT
from helpers.spawned import B, D, N, advance
from vplface import Variational, plug
from vplface.cli.app import app
from vplface.deploy.gallery_folder import load_gallery
from vplface.embedder import Embedder

FIXTURES = ROOT / "tests" / "fixtures" / "v0.1"
HEADS = [name for name in OPTIONS if name not in ("VonMisesFisher", "BorrowedSpread")]
"""Those two hold what Gaussian holds: a bank of 4,096 residuals, too large to keep three times."""


def plugged():
    torch.manual_seed(0)
    linear = torch.nn.Linear(D, N, bias=False)
    return linear, plug(linear, "weight", Variational(0.3, 3, 0))


def advance_plugged(linear, handle, first, steps):
    seen = []
    for step in range(first, first + steps):
        chance = torch.Generator().manual_seed(step)
        x = torch.randn(B, D, generator=chance).requires_grad_()
        y = torch.randint(N, (B,), generator=chance)
        loss = torch.nn.functional.cross_entropy(linear(x), y)
        handle.remember(x, y)
        loss.backward()
        with torch.no_grad():
            for each in linear.parameters():
                each -= 0.2 * each.grad
                each.grad = None
        seen += [loss.detach(), x.grad]
    return seen


def write_heads(folder):
    """Write a state and the four losses and gradients that follow it, for each kind of head."""
    folder.mkdir()
    for name in HEADS:
        head = made(name)
        advance(head, optimiser_of(head), 0, 2)
        save_file({key: value.contiguous() for key, value in head.state_dict().items()}, folder / f"{name}.safetensors")
        again = made(name)
        again.load_state_dict(head.state_dict())
        follow = advance(again, optimiser_of(again), 2, 4)
        save_file({str(index): value for index, value in enumerate(follow)}, folder / f"{name}.next.safetensors")
    linear, handle = plugged()
    advance_plugged(linear, handle, 0, 2)
    save_file(dict(linear.state_dict()), folder / "plug.safetensors")
    follow = advance_plugged(linear, handle, 2, 4)
    save_file({str(index): value for index, value in enumerate(follow)}, folder / "plug.next.safetensors")


def require_next(folder, name, follow):
    expected = load_file(folder / f"{name}.next.safetensors")
    assert len(follow) == len(expected) == 8
    for index, value in enumerate(follow):
        torch.testing.assert_close(value, expected[str(index)], msg=lambda text, at=index: f"{at}: {text}")


@pytest.mark.parametrize("name", HEADS)
def test_PrototypeHead_trains_on_from_a_state_of_v0_1(name):
    head = made(name)
    head.load_state_dict(load_file(FIXTURES / "heads" / f"{name}.safetensors"))
    require_next(FIXTURES / "heads", name, advance(head, optimiser_of(head), 2, 4))


def test_plug_trains_on_from_a_state_of_v0_1():
    linear, handle = plugged()
    linear.load_state_dict(load_file(FIXTURES / "heads" / "plug.safetensors"))
    require_next(FIXTURES / "heads", "plug", advance_plugged(linear, handle, 2, 4))


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The stopped run, resumed to its end."""
    folder = tmp_path_factory.mktemp("v0_1")
    shutil.copytree(FIXTURES / "stopped", folder / "runs" / "small")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(app, ["train", "runs/small", "--resume"])
    assert result.exit_code == 0, result.output
    return folder / "runs" / "small"


def test_vplface_train_resumes_a_run_of_v0_1(resumed):
    lines = [json.loads(line) for line in (resumed / "metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (FIXTURES / "finished" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    (loss,), (expected_loss,) = ([line["loss"] for line in each if "loss" in line] for each in (lines, expected))
    assert loss == pytest.approx(expected_loss, rel=1e-2)
    weights, known = (load_file(each / "model.safetensors") for each in (resumed, FIXTURES / "finished"))
    assert weights.keys() == known.keys()
    for key, value in weights.items():
        torch.testing.assert_close(value, known[key], rtol=0.05, atol=0.02, msg=lambda text, at=key: f"{at}: {text}")


def test_vplface_train_keeps_the_file_names_and_keys_of_v0_1(resumed):
    assert {path.name for path in (FIXTURES / "finished").iterdir()} <= {path.name for path in resumed.iterdir()}
    for name in ("model.json", "evaluation.json", "environment.json"):
        now, then = (json.loads((each / name).read_text()) for each in (resumed, FIXTURES / "finished"))
        assert outline(now) == outline(then)
    now, then = (yaml.safe_load((each / "config.yaml").read_text()) for each in (resumed, FIXTURES / "finished"))
    assert now == then


def outline(value):
    """The keys of nested mappings, with the types of what they lead to."""
    if isinstance(value, dict):
        return {key: outline(each) for key, each in value.items()}
    return type(value).__name__


def test_vplface_report_reads_a_run_of_v0_1(tmp_path):
    out = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", str(FIXTURES / "finished"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "64.0" in out.read_text()


def test_vplface_identify_reads_and_searches_a_gallery_of_v0_1(tmp_path):
    gallery, model = tmp_path / "gallery", FIXTURES / "finished"
    shutil.copytree(FIXTURES / "gallery", gallery)
    pictures = sorted((FIXTURES / "people").glob("*/*.png"))
    embeddings = Embedder.load(model)(pictures, "sum")
    stored = load_gallery(gallery)
    assert dict(stored.pictures) == {"id_01000": 2, "id_01001": 2, "id_01002": 2}
    np.testing.assert_allclose(stored.embeddings, embeddings, atol=1e-3)
    result = CliRunner().invoke(app, ["identify", str(gallery), str(pictures[0]), "--model", str(model), "--json"])
    assert result.exit_code == 0, result.output
    (face,) = json.loads(result.stdout)["pictures"][0]["faces"]
    assert face["matches"][0] == {"name": "id_01000", "similarity": pytest.approx(1), "file": "0000.png", "known": None}
