"""How commands end: an error of the system is one line, a bug a traceback, an unwritable output is reported."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from vplface.cli import last_resort
from vplface.cli.app import app
from vplface.errors import DataError
from vplface.reasons import explained


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/a/b"),
            "'/a/b': Permission denied; check the",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a"), "'a': File name too long; give a shorter name"),
        (OSError(errno.ENOSPC, "No space left on device", "a"), "'a': No space left on device; free some space"),
        (OSError(errno.ESTALE, "Stale file handle", "a"), "'a': Stale file handle; mount the share again"),
        (FileExistsError(errno.EEXIST, "File exists", "a", None, "b"), "'a': 'b': File exists"),
        (OSError("without a number"), "without a number"),
        (MemoryError("Unable to allocate 7 GiB"), "out of memory: Unable to allocate 7 GiB"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory"),
        (RuntimeError("can't start new thread"), "no thread can be started"),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"), "text that is not Unicode"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (ValueError("embedded null byte"), "null character"),
        (RuntimeError("Symlink loop from '/a'"), "'/a': its symbolic links lead in a circle"),
    ],
)
def test_ending_reports_an_error_of_the_system_in_one_line(capsys, error, said):
    with pytest.raises(SystemExit) as ended, last_resort.ending():
        raise error
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("vplface: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("bug", [TypeError, KeyError, AssertionError, ValueError, RuntimeError])
def test_ending_lets_the_exception_of_a_bug_propagate(bug):
    assert explained(bug("a bug")) is None
    with pytest.raises(bug), last_resort.ending():
        raise bug("a bug")


def test_ending_indents_later_lines_and_escapes_control_characters(capsys):
    with pytest.raises(SystemExit), last_resort.ending():
        raise DataError("a\nvplface: all is well\x1b[2J")
    assert capsys.readouterr().err == "vplface: a\n  vplface: all is well\\x1b[2J\n"


def test_ending_shortens_a_message_with_a_huge_value(capsys):
    with pytest.raises(SystemExit), last_resort.ending():
        raise DataError("key: " + "9" * 1_000_000)
    assert len(capsys.readouterr().err) < 10_000


def test_vplface_escapes_control_characters_in_usage_errors():
    ended = CliRunner().invoke(app, ["plan", "--\x1b[2J"])
    assert ended.exit_code == 2
    assert "\\x1b[2J" in ended.output
    assert "\x1b[2J" not in ended.output


def test_vplface_help_keeps_the_colours_of_rich(monkeypatch):
    monkeypatch.setattr(typer.rich_utils, "FORCE_TERMINAL", True)
    monkeypatch.setattr(typer.rich_utils, "COLOR_SYSTEM", "standard")
    ended = CliRunner().invoke(app, ["data", "get", "--help"], color=True)
    assert ended.exit_code == 0
    assert "\x1b[1m" in ended.output
    assert "\\x1b" not in ended.output


_MAIN = "import sys; sys.argv[1:] = ['data', 'get', '--list']; from vplface.cli import main; main()"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        (">/dev/full", 1, "vplface: cannot write to standard output: No space left on device\n"),
        (">&-", 1, "vplface: cannot write to standard output: Bad file descriptor\n"),
        ("| true", 141, ""),
        (">/dev/null 2>/dev/full", 0, ""),
        (">/dev/null 2>&-", 0, ""),
    ],
)
def test_main_reports_an_unwritable_stdout_and_ignores_an_unwritable_stderr(redirection, status, said):
    command = f'set -o pipefail; "$0" -c "$1" {redirection}'
    ended = subprocess.run(["bash", "-c", command, sys.executable, _MAIN], capture_output=True, text=True)
    assert (ended.stderr, ended.returncode) == (said, status)
