"""Every command with paths that do not exist or are of another kind: a message and no traceback."""

import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from vplface.backbones import build
from vplface.cli.app import app
from vplface.stored_model import ModelCard, save_model

WRONG = {
    "long": "a" * 300,
    "folder": "folder",
    "fifo": "fifo",
    "endless": "/dev/zero",
    "locked": "locked/inside",  # last: without permissions no module can be imported
}
PICTURE = "faces/p0/0.png"

READ = [  # {} is the wrong path, which is read
    "train {}",
    "study {}",
    "plan {}",
    "plan quickstart data.train={}",
    "evaluate {} --data faces",
    "evaluate m --data {} --people people.txt",
    "evaluate m --data faces --pairs {}",
    "evaluate m --data faces --people {}",
    "evaluate m --data faces --people people.txt --groups {}",
    "evaluate-ijb {} --data faces",
    "evaluate-identification {} --gallery faces --probes faces",
    "report {}",
    "embed {} faces --out e.npz",
    "embed m {} --out e.npz",
    f"verify {{}} {PICTURE} {PICTURE}",
    f"verify m {{}} {PICTURE}",
    "enroll {} --list",
    "enroll g --name Bob {}",
    "enroll g {}",
    f"identify {{}} {PICTURE}",
    "identify g {}",
    "data align {} t --landmarks marks.csv",
    "data align faces t --landmarks {}",
    "data align faces t --detector-model {}",
    "data info {}",
    "data check {}",
    "data convert {} t.rec",
    "data overlap {} --against faces --model m",
    "data overlap faces --against faces --model {}",
    "hub push m a/b --dry-run --evaluation {}",
]
WRITTEN = [  # {} is where something is to be written
    "evaluate m --data faces --people people.txt --report {}.html",
    "report m --out {}",
    f"embed m {PICTURE} --out {{}}.npz",
    f"verify m {PICTURE} {PICTURE} --show {{}}.png",
    f"enroll {{}} --model m --name Bob {PICTURE}",
    "data info faces --plot {}.png",
    "data check faces --out {}",
    "data convert faces {}.rec",
    "data synth {} --identities 2 --pictures 1",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    before = Path.cwd()
    os.chdir(root)
    rng = np.random.default_rng(0)
    for person in range(3):
        Path(f"faces/p{person}").mkdir(parents=True)
        for number in range(2):
            cv2.imwrite(f"faces/p{person}/{number}.png", rng.integers(0, 255, (112, 112, 3), np.uint8))
    Path("people.txt").write_text("p0\np1\np2\n")
    Path("marks.csv").write_text("")
    torch.manual_seed(0)
    save_model("m", build("tiny", 16, width=8).eval(), ModelCard("tiny", 16, backbone_options={"width": 8}))
    assert CliRunner().invoke(app, ["enroll", "g", "--model", "m", "--name", "Ada", PICTURE]).exit_code == 0
    for folder in ("folder", "locked/inside"):
        Path(folder).mkdir(parents=True)
    os.mkfifo("fifo")
    Path("locked").chmod(0)
    yield root
    Path("locked").chmod(0o700)
    os.chdir(before)


def _ended(command, path, kind):
    """The result of a command; it is stopped after 30 seconds."""
    root = kind == "locked" and os.geteuid() == 0  # permissions of folders do not apply to root
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(30)
    if root:
        os.seteuid(65534)
    try:
        return CliRunner().invoke(app, [word.replace("{}", path) for word in command.split()])
    finally:
        if root:
            os.seteuid(0)
        signal.alarm(0)


def _shown(result):
    assert isinstance(result.exception, SystemExit | None), result.exc_info
    return result.output


@pytest.mark.parametrize("command", READ)
def test_vplface_reports_a_wrong_path_to_read_without_a_traceback(place, command):
    for kind, path in WRONG.items():
        said = _shown(result := _ended(command, path, kind))
        assert result.exit_code in (1, 2), (kind, said)
        assert said.strip(), kind
        assert "Traceback" not in said


@pytest.mark.parametrize("command", WRITTEN)
def test_vplface_reports_a_wrong_path_to_write_without_a_traceback(place, command):
    for kind in ("long", "locked"):
        said = _shown(result := _ended(command, WRONG[kind], kind))
        assert result.exit_code in (1, 2), (kind, said)
        assert "Traceback" not in said


def test_vplface_report_does_not_replace_a_pipe(place):
    said = _shown(result := _ended("report m --out {}", "fifo", "fifo"))
    assert (result.exit_code, said) == (1, "vplface: cannot write fifo: it is not a regular file\n")
    assert Path("fifo").is_fifo()
