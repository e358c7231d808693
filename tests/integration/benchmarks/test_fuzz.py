"""benchmarks/fuzz.py on a few inputs and on planted failures; docs/reliability.md has the figures of a long run."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fuzz
import pytest

from helpers.paths import ROOT
from vplface.errors import DataError

PATH = ROOT / "benchmarks" / "fuzz.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and forks as Linux has them")


def test_fuzz_main_finds_no_failure_in_2100_inputs(tmp_path):
    options = ["--inputs", "2100", "--out", str(tmp_path / "f")]
    command = [sys.executable, str(PATH), *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2,100 inputs" in ended.stdout
    assert not (tmp_path / "f").exists()
    counts = {line.split()[0]: [int(n.replace(",", "")) for n in line.split()[1:]]
              for line in ended.stdout.splitlines()[1:-1]}  # fmt: skip
    assert list(counts) == list(fuzz.FORMATS)
    for refused, partly, read, failed in counts.values():
        assert refused > 0
        assert partly + read > 0
        assert failed == 0


def test_fuzz_in_two_parts_has_the_counts_of_one_run(tmp_path):
    formats = fuzz.build(["text", "gallery"])
    whole = fuzz.fuzz(formats, 60, 0, 2, tmp_path)
    parts = [fuzz.fuzz(formats, 25, 0, 2, tmp_path), fuzz.fuzz(formats, 60, 0, 2, tmp_path, first=25)]
    assert whole == {name: {o: sum(part[name][o] for part in parts) for o in fuzz.OUTCOMES} for name in whole}


def test_numbered_distributes_inputs_by_the_share_of_each_format():
    formats = {name: fuzz.Format([{"x": b"a"}], lambda _: True, share=share) for name, share in (("a", 3), ("b", 1))}
    assert [fuzz.numbered(formats, 0, number)[0] for number in range(8)] == ["a", "b", "a", "a"] * 2


def test_numbered_inputs_of_a_format_do_not_depend_on_the_other_formats():
    both = fuzz.build(["text", "picture"])
    beside = [files for name, files in (fuzz.numbered(both, 0, number) for number in range(300)) if name == "text"]
    assert beside == [fuzz.numbered({"text": both["text"]}, 0, number)[1] for number in range(len(beside))]


def test_numbered_is_deterministic_and_mutates_its_inputs():
    formats = fuzz.build(["text", "picture"])
    some = [fuzz.numbered(formats, 1, number) for number in range(200)]
    assert some == [fuzz.numbered(formats, 1, number) for number in range(200)]
    assert some != [fuzz.numbered(formats, 2, number) for number in range(200)]
    assert len({files["x"] for name, files in some if name == "picture"}) > 80


def _wait_deafly(_: Path) -> bool:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(60)
    return True


def _run(folder: Path) -> bool:
    Path("executed").touch()
    raise DataError("refused, but too late")


BAD = {
    "another exception": (lambda _: [][1], "IndexError"),
    "no memory": (lambda _: bool(bytearray(3 << 30)), "MemoryError"),
    "no end": (lambda _: all(True for _ in iter(int, 1)), "TooSlow: took more than 0.3 seconds"),
    "no end, and deaf": (_wait_deafly, "the process took more than 1 seconds"),
    "a crash": (lambda _: ctypes.string_at(0), "the process ended with status -11"),
    "an exit": (lambda _: os._exit(0), "the process ended with status 0"),
    "executed": (_run, "the input was executed"),
}


@pytest.mark.parametrize("kind", BAD)
def test_fuzz_counts_and_saves_a_failure_and_continues(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(fuzz, "SECONDS", 0.3)
    monkeypatch.setattr(fuzz, "DEADLINE", 1.0)
    bad, told = BAD[kind]

    def read(folder: Path) -> bool:
        return bad(folder) if (folder / "x").read_bytes() == wrong else True

    corpus = [{"x": b"%d" % number * 40} for number in range(10)]
    formats = {"planted": fuzz.Format(corpus, read)}
    wrong = fuzz.numbered(formats, 0, 5)[1]["x"]
    same = sum(fuzz.numbered(formats, 0, number)[1]["x"] == wrong for number in range(12))
    table = fuzz.fuzz(formats, 12, 0, 2, tmp_path)
    assert table == {"planted": {"refused": 0, "read in part": 0, "read": 12 - same, "failed": same}}
    assert (tmp_path / "planted-0-5" / "files" / "x").read_bytes() == wrong
    assert told in (tmp_path / "planted-0-5" / "failure.txt").read_text()
