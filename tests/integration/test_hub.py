"""Models to the hub and back: folders on disk, and huggingface_hub's own client against a server on the loopback."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import pickle
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import vplface
from vplface import hub as hub_module
from vplface.backbones import build
from vplface.cli.app import app
from vplface.embedder import Embedder
from vplface.errors import DataError, VplfaceError
from vplface.evaluation.operating_point import OperatingPoint
from vplface.hub import pull_from_hub, push_to_hub, write_hub_folder
from vplface.report.model_page import Measured, model_page
from vplface.report.record import read_run
from vplface.stored_model import ModelCard, load_model, save_model

FIGURES = {
    "accuracy": {"value": 0.9432, "ci95": [0.93, 0.955], "threshold": 0.3},
    "tar@far=1e-3": {"value": 0.61, "ci95": None},
    "tar@far=1e-4": {"value": None, "ci95": None, "reason": "too few impostors"},
}
CARD = ModelCard(
    "tiny",
    16,
    {"width": 8},
    training_data="faces_of_mine",
    identities=1234,
    pictures=56789,
    step=4000,
    margin="ArcFace(scale=32, margin=0.3)",
    variational="Variational(lam=0.15)",
    evaluation={"my pairs": FIGURES},
)


def pictures(count):
    return np.random.default_rng(0).integers(0, 256, (count, 7, 7, 3), np.uint8).repeat(16, axis=1).repeat(16, axis=2)


@pytest.fixture
def run(tmp_path):
    """A run folder, as far as the hub is concerned with it."""
    torch.manual_seed(0)
    backbone = build("tiny", 16, width=8)
    backbone(torch.rand(8, 3, 112, 112) * 2 - 1)
    folder = tmp_path / "runs" / "mine"
    save_model(folder, backbone, CARD)
    save_model(folder / "best", backbone, dataclasses.replace(CARD, evaluation=None))
    (folder / "config.yaml").write_text("name: mine\nbatch_size: 64\nschedule: {length: 16 epochs}\n")
    protocol = {"kind": "pair list", "identities": 40, "genuine": 300, "impostors": 300, "flip": "sum"}
    evaluation = {"name": "my pairs", "protocol": protocol, "metrics": FIGURES}
    (folder / "evaluation.json").write_text(json.dumps({"my pairs": evaluation}))
    return folder


def save_point(model):
    weights = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    files = {"model.safetensors": weights}
    point = OperatingPoint(0.41, 1e-3, 9e-4, 0.61, {"flip": "sum"}, "/home/ada/faces", "2026-01-02T03:04:05", files)
    point.save(model)


# --- the folder and the page


def test_write_hub_folder_round_trip(run, tmp_path):
    files = write_hub_folder(run, tmp_path / "up", "ada/mine", licence="mit")
    assert [path.name for path in files] == ["model.safetensors", "model.json", "README.md"]
    assert sorted(path.name for path in (tmp_path / "up").iterdir()) == sorted(path.name for path in files)
    embedder = vplface.from_pretrained(tmp_path / "up")
    assert embedder.card == CARD
    np.testing.assert_array_equal(embedder(pictures(3)), Embedder.load(run)(pictures(3)))


def test_write_hub_folder_metadata_are_read_by_huggingface_hub(run, tmp_path):
    write_hub_folder(run, tmp_path / "up", "ada/mine", licence="cc-by-nc-4.0")
    page = huggingface_hub.ModelCard.load(tmp_path / "up" / "README.md")
    assert (page.data.license, page.data.library_name) == ("cc-by-nc-4.0", "vplface")
    assert {"face-recognition", "variational-prototype-learning"} <= set(page.data.tags)
    results = {result.metric_type: result for result in page.data.eval_results}
    assert set(results) == {"accuracy", "tar@far=1e-3"}
    assert results["accuracy"].metric_value == 0.9432
    assert results["accuracy"].metric_args == {"ci95": [0.93, 0.955]}
    assert results["accuracy"].dataset_name == "my pairs"


def test_write_hub_folder_page_states_figures_and_training_of_the_run(run, tmp_path):
    write_hub_folder(run, tmp_path / "up", "ada/mine")
    text = (tmp_path / "up" / "README.md").read_text(encoding="utf-8")
    for words in (
        "| accuracy | 94.32 | 93.00 – 95.50 |",
        "| TAR at FAR 10⁻³ | 61.00 | — |",
        "Question: pair list; 40 people; 300 genuine pairs; 300 impostor pairs; flip sum.",
        "RGB, (x − 127.5) / 127.5",
        "- data: faces\\_of\\_mine",
        "- people: 1,234",
        "- pictures: 56,789",
        "- batch size: 64",
        "- length: 16 epochs",
        "- variational prototypes: Variational(lam=0.15)",
        CARD.limits,
        "Not stated by the publisher.",
        'vplface.from_pretrained("ada/mine")',
    ):
        assert words in text
    assert "10⁻⁴" not in text
    assert str(run.parent) not in text


def test_write_hub_folder_of_best_takes_figures_only_of_its_own_weights(run, tmp_path):
    best = run / "best"
    write_hub_folder(best, tmp_path / "up", "ada/mine")
    assert "None are recorded for these weights" in (tmp_path / "up" / "README.md").read_text()
    weights = hashlib.sha256((best / "model.safetensors").read_bytes()).hexdigest()
    result = {"model": "m", "protocol": {"name": "dev", "kind": "all pairs"}, "metrics": FIGURES}
    mine, other = result | {"files": {"m": weights}}, result | {"files": {"m": "0" * 64}}
    file = tmp_path / "result.json"
    for stored in (mine, {"models": [other, mine]}):
        file.write_text(json.dumps(stored))
        write_hub_folder(best, tmp_path / "up", "ada/mine", evaluations=[file])
        text = (tmp_path / "up" / "README.md").read_text(encoding="utf-8")
        assert text.count("### dev") == text.count("| accuracy | 94.32 |") == 1
    file.write_text(json.dumps(other))
    with pytest.raises(DataError, match=r"result\.json: was measured with other weights"):
        write_hub_folder(best, tmp_path / "up", "ada/mine", evaluations=[file])
    for damaged in ("[]", "{", '{"files": 3}', "[" * 100_000):
        file.write_text(damaged)
        with pytest.raises(DataError, match=r"result\.json: not (valid|an output file of vplface evaluate --out)"):
            write_hub_folder(best, tmp_path / "up", "ada/mine", evaluations=[file])


def test_write_hub_folder_writes_weights_and_card_of_one_version(run, tmp_path, monkeypatch):
    loaded = (run / "model.safetensors").read_bytes()

    def saved_meanwhile(folder):
        save_model(run, build("tiny", 16, width=8), dataclasses.replace(CARD, step=5))
        return read_run(folder)

    monkeypatch.setattr(hub_module, "read_run", saved_meanwhile)
    write_hub_folder(run, tmp_path / "up", "ada/mine")
    assert (run / "model.safetensors").read_bytes() != loaded
    assert (tmp_path / "up" / "model.safetensors").read_bytes() == loaded
    card = load_model(tmp_path / "up")[1]
    assert card == CARD
    assert card.weights == hashlib.sha256(loaded).hexdigest()


def test_write_hub_folder_writes_the_operating_point_without_local_paths(run, tmp_path):
    save_point(run)
    files = write_hub_folder(run, tmp_path / "up", "ada/mine")
    assert files[-1].name == "operating_point.json"
    assert OperatingPoint.load(tmp_path / "up").threshold == 0.41
    assert all(b"/home/ada" not in path.read_bytes() for path in files)
    assert "a cosine of 0.4100 on" in (tmp_path / "up" / "README.md").read_text(encoding="utf-8")
    (run / "operating_point.json").unlink()
    write_hub_folder(run, tmp_path / "up", "ada/mine")
    assert not (tmp_path / "up" / "operating_point.json").exists()


def test_model_page_escapes_values_in_YAML_and_Markdown():
    nasty = 'a | b`c`\n---\n# big <script>alert("x")</script> [l](http://x) & *bold*'
    card = dataclasses.replace(CARD, training_data=nasty, margin=nasty, evaluation=None)
    measured = [Measured(nasty, {"kind": nasty}, {"accuracy": FIGURES["accuracy"]})]
    text = model_page(card, "ada/mine", "mit", measured, {"batch_size": nasty}, None)
    head, _, body = text.removeprefix("---\n").partition("---\n\n")
    assert yaml.safe_load(head)["model-index"][0]["results"][0]["dataset"]["name"] == " ".join(nasty.split())
    assert "<script" not in body
    assert "\n---" not in body
    assert "\n# big" not in body
    assert r"\[l\](http" in body
    assert "[l]" not in body
    assert "### a \\| b" in body


@pytest.mark.parametrize("repo", ["mine", "ada/mine/three", "../mine", "ada/", "a b/c", "ada/müne", ""])
def test_write_hub_folder_refuses_an_invalid_repository_name(run, tmp_path, repo):
    with pytest.raises(DataError, match="OWNER/NAME"):
        write_hub_folder(run, tmp_path / "up", repo)
    assert not (tmp_path / "up").exists()


# --- hostile folders


def hostile(folder, **change):
    values = json.loads((folder / "model.json").read_text()) | change
    (folder / "model.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embedding_dim": 10**9}, "do not fit"),
        ({"embedding_dim": 10**30}, r"model\.json"),
        ({"embedding_dim": -1}, "at least 1"),
        ({"backbone_options": {"width": 10**8}}, "do not fit"),
        ({"backbone_options": {"width": 10**30}}, r"model\.json"),
        ({"backbone_options": {"width": "os.system"}}, r"model\.json"),
        ({"backbone": "__import__('os')"}, "unknown backbone"),
        (
            {"preprocessing": {"size": 10**6, "color": "rgb", "mean": [0, 0, 0], "std": [1, 1, 1]}},
            "1000000 pixels wide",
        ),
    ],
)
def test_from_pretrained_refuses_a_card_with_excessive_or_invalid_values(run, change, words):
    with pytest.raises(DataError, match=words):
        vplface.from_pretrained(hostile(run, **change))


def test_from_pretrained_refuses_damaged_weights_and_cards(run):
    weights = run / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], b"\x80\x04\x95" + whole, b"PK\x03\x04" + whole, b""):
        weights.write_bytes(content)
        with pytest.raises(DataError, match=r"model\.safetensors: damaged"):
            vplface.from_pretrained(run)
    weights.write_bytes(whole)
    for content in ("[" * 100_000, '{"schema": 1', "\x00"):
        (run / "model.json").write_text(content)
        with pytest.raises(DataError, match=r"model\.json"):
            vplface.from_pretrained(run)


def test_from_pretrained_unpickles_nothing(run, monkeypatch):
    (run / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")

    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert vplface.from_pretrained(run)(pictures(1)).shape == (1, 16)


def test_from_pretrained_refuses_what_is_neither_a_folder_nor_a_repository_name(tmp_path):
    with pytest.raises(DataError, match="no such folder, and not OWNER/NAME"):
        vplface.from_pretrained(tmp_path / "nowhere")


# --- a hub on the loopback


class Hub(ThreadingHTTPServer):
    """As much of the hub's interface as the client uses for small files: {repository: [files of each commit]}."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories = {}
        self.private = {}
        self.strange = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


def sha(number):
    return f"{number:040x}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": len(data)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def absent(self, code):
        self.answer(404, {"error": code}, X_Error_Code=code)

    def do_POST(self):
        hub, path = self.server, self.path.split("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != "Bearer hf_ada":
            self.answer(401, {"error": "Invalid credentials"})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'ada'}/{asked['name'].rpartition('/')[2]}"
            known = repo in hub.repositories
            hub.repositories.setdefault(repo, [{}])
            if not known:
                hub.private[repo] = bool(asked.get("private") or asked.get("visibility") == "private")
            self.answer(409 if known else 200, {"url": f"{hub.url}/{repo}", "name": repo})
        elif "/preupload/" in path:
            files = [file | {"uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self.answer(200, {"files": files})
        elif "/commit/" in path:
            repo = "/".join(path.split("/")[3:5])
            files = dict(hub.repositories[repo][-1])
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            hub.repositories[repo].append(files)
            commit = sha(len(hub.repositories[repo]) - 1)
            answer = {"success": True, "commitOid": commit, "commitUrl": f"{hub.url}/{repo}/commit/{commit}"}
            self.answer(200, answer)
        else:
            hub.strange.append(self.path)
            self.answer(404)

    def do_GET(self):
        hub, parts = self.server, self.path.split("?")[0].strip("/").split("/")
        reading = parts[0] == "api"
        repo = "/".join(parts[2:4] if reading else parts[:2])
        if repo not in hub.repositories:
            self.absent("RepoNotFound")
            return
        commits = hub.repositories[repo]
        revision = (parts[5] if len(parts) > 5 else "main") if reading else parts[3]
        names = {"main": len(commits) - 1} | {sha(number): number for number in range(len(commits))}
        if revision not in names:
            self.absent("RevisionNotFound")
            return
        number = names[revision]
        files = commits[number]
        if reading and (len(parts) == 4 or parts[4] == "revision"):
            siblings = [{"rfilename": name} for name in files]
            self.answer(200, {"id": repo, "sha": sha(number), "private": hub.private[repo], "siblings": siblings})
        elif reading and parts[4] == "tree":
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            self.answer(200, entries)
        elif not reading and parts[2] == "resolve" and parts[4] in files:
            data = files[parts[4]]
            etag = f'"{hashlib.sha1(data).hexdigest()}"'
            self.answer(200, data, ETag=etag, X_Repo_Commit=sha(number))
        else:
            hub.strange.append(self.path)
            self.absent("EntryNotFound")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server asks for


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub, "HfApi", partial(huggingface_hub.HfApi, endpoint=server.url))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_ada")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
    assert server.strange == []


def test_push_to_hub_and_pull_from_hub_round_trip(run, hub, tmp_path):
    save_point(run)
    url = push_to_hub(run, "ada/mine", private=True, licence="mit")
    assert url == f"{hub.url}/ada/mine/commit/{sha(1)}"
    assert hub.private == {"ada/mine": True}
    (_, files) = hub.repositories["ada/mine"]
    assert set(files) == {"model.safetensors", "model.json", "README.md", "operating_point.json"}
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()

    expected = Embedder.load(run)(pictures(3))
    np.testing.assert_array_equal(vplface.from_pretrained("ada/mine")(pictures(3)), expected)
    folder = pull_from_hub("ada/mine", tmp_path / "down")
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)
    assert OperatingPoint.load(folder).threshold == 0.41
    np.testing.assert_array_equal(Embedder.load(folder)(pictures(3)), expected)


def test_push_to_hub_replaces_an_earlier_push_and_pull_from_hub_reads_both(run, hub, tmp_path):
    save_point(run)
    push_to_hub(run, "ada/mine")
    hub.repositories["ada/mine"][-1]["notes.md"] = b"the owner's own"
    torch.manual_seed(1)
    save_model(run, build("tiny", 16, width=8), dataclasses.replace(CARD, step=5000))
    (run / "operating_point.json").unlink()
    push_to_hub(run, "ada/mine")
    assert set(hub.repositories["ada/mine"][-1]) == {"model.safetensors", "model.json", "README.md", "notes.md"}

    folder = pull_from_hub("ada/mine", tmp_path / "down", revision=sha(1))
    assert load_model(folder)[1].step == 4000
    assert (folder / "operating_point.json").is_file()
    pull_from_hub("ada/mine", folder)
    assert load_model(folder)[1].step == 5000
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.json", "model.safetensors"]


def test_pull_from_hub_of_a_damaged_repository_leaves_the_folder_unchanged(run, hub, tmp_path):
    push_to_hub(run, "ada/mine")
    folder = pull_from_hub("ada/mine", tmp_path / "down")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    commits = hub.repositories["ada/mine"]
    commits.append(commits[-1] | {"model.safetensors": commits[-1]["model.safetensors"][:-100]})
    with pytest.raises(DataError, match=r"model\.safetensors: damaged"):
        pull_from_hub("ada/mine", folder)
    commits.append({"README.md": b"no model", "pytorch_model.bin": b"\x80"})
    with pytest.raises(DataError, match=r"ada/mine: has no model\.safetensors; it is not a model pushed by vplface"):
        pull_from_hub("ada/mine", folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_push_to_hub_and_pull_from_hub_explain_refusals_of_the_hub(run, hub, monkeypatch):
    with pytest.raises(VplfaceError, match="ada/none: no such model on the hub"):
        pull_from_hub("ada/none")
    push_to_hub(run, "ada/mine")
    with pytest.raises(VplfaceError, match="ada/mine: no such revision"):
        pull_from_hub("ada/mine", revision="v9")
    monkeypatch.setenv("HF_TOKEN", "hf_eve")
    with pytest.raises(VplfaceError, match=r"ada/new: access denied by the hub \(401\); log in .*hf auth login"):
        push_to_hub(run, "ada/new")
    assert set(hub.repositories) == {"ada/mine"}


# --- the commands


def command(*arguments):
    return CliRunner().invoke(app, ["hub", *map(str, arguments)], catch_exceptions=False)


def test_vplface_hub_push_dry_run_sends_nothing(run):
    said = command("push", run, "ada/mine", "--dry-run", "--license", "mit")
    assert "license: mit" in said.stdout
    assert f"{run / 'hub'} holds what would be pushed to ada/mine; nothing was sent" in said.stdout
    assert load_model(run / "hub")[1] == CARD
    answer = json.loads(command("push", run / "best", "ada/mine", "--dry-run", "--json").stdout)
    assert (answer["pushed"], len(answer["files"])) == (False, 3)


def test_vplface_hub_push_and_pull_transfer_a_model(run, hub, tmp_path):
    answer = json.loads(command("push", run, "ada/mine", "--json").stdout)
    assert answer["commit"] == f"{hub.url}/ada/mine/commit/{sha(1)}"
    assert hub.private == {"ada/mine": False}
    assert command("pull", "ada/mine", "--out", tmp_path / "down").stdout.strip() == str(tmp_path / "down")
    answer = json.loads(command("pull", "ada/mine", "--revision", sha(1), "--json").stdout)
    assert len(answer["files"]) == 3
