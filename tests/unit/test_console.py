"""Output to the terminal: control characters are escaped, and the loss of the terminal stops nothing."""

import io
import json
import logging
import os
import pty
import sys
import threading

import pytest
from rich.table import Table

from vplface import progress as progress_module
from vplface.console import Console, Guarded, OutputError, guarded, print_json, say
from vplface.printable import NAME_LENGTH, printable_name
from vplface.progress import progress

HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x9b2J\u202e\r[red]x[/red]:smile:"
SHOWN = "\\x1b]0;owned\\x07\\x1b[31mred\\x9b2J\\u202e\\x0d[red]x[/red]:smile:"


def test_guarded_escapes_control_characters_in_print_logging_and_tracebacks(capsys):
    with guarded():
        print(HOSTILE)
        logging.StreamHandler().emit(logging.makeLogRecord({"msg": HOSTILE}))
        sys.excepthook(TypeError, TypeError(HOSTILE), None)
    out, err = capsys.readouterr()
    assert out == SHOWN + "\n"
    assert "\x1b" not in err
    assert err.count(SHOWN) == 2


def test_Console_print_escapes_control_characters_and_keeps_markup_and_emoji_codes():
    written = io.StringIO()
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    console = Console(file=written, width=200, force_terminal=True, color_system=None)
    console.print(table)
    console.print(HOSTILE)
    assert written.getvalue().count(SHOWN) == 4
    assert "\x1b" not in written.getvalue()


def test_say_and_printable_name_escape_line_breaks(capsys):
    say("a\nvplface: all is well\tb")
    assert capsys.readouterr().out == "a\\nvplface: all is well\\tb\n"
    assert printable_name("a\r\nb\tc") == "a\\r\\nb\\tc"


def test_printable_name_shortens_a_long_name_in_the_middle():
    name = "begin" + "9" * 100_000 + "end"
    assert printable_name("9" * NAME_LENGTH) == "9" * NAME_LENGTH
    assert printable_name(name).startswith("begin9")
    assert printable_name(name).endswith("9end")
    assert len(printable_name(name)) < NAME_LENGTH + 30


def test_print_json_escapes_control_characters_and_keeps_every_value(capsys):
    value = {"name": HOSTILE + "\x7fÄ\u2028\n"}
    with guarded():
        print_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert not any(character in out for character in "\x1b\x7f\x9b\u202e\u2028\r")
    assert "Ä" in out


class _Failing(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BrokenPipeError(32, "Broken pipe")])
def test_Guarded_write_raises_for_a_failing_stream_only_if_it_is_needed(error):
    with pytest.raises(OutputError, match=error.strerror) as raised:
        Guarded(_Failing(error), needed=True).write("text")
    assert raised.value.reason is error
    Guarded(_Failing(error), needed=False).write("text")
    Guarded(None, needed=False).write("text")


def test_progress_survives_a_thread_that_cannot_start(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(progress_module, "PATIENCE", -1.0)
    monkeypatch.setattr(threading.Thread, "start", start)
    before = sys.stdout, sys.stderr
    with progress("embedding", 3) as advance:
        for _ in range(3):
            advance(1, "status")
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), BrokenPipeError(32, "Broken pipe")])
def test_progress_survives_the_loss_of_its_terminal(monkeypatch, error):
    monkeypatch.setattr(progress_module, "PATIENCE", -1.0)
    monkeypatch.setattr(sys, "stderr", _Failing(error))
    with progress("embedding", 3) as advance:
        for _ in range(3):
            advance(1)


def test_progress_escapes_control_characters_in_the_bar_and_in_text_printed_above_it(monkeypatch):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal, os.fdopen(ours, "rb", buffering=0) as screen:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(progress_module, "PATIENCE", -1.0)
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        with guarded(), progress("desc\x1b[2J", 3) as advance:
            advance(1, "[red]status\x1b]0;owned\x07")
            print("name\x1b[31m", file=sys.stderr)
            advance(1, "[red]status\x1b]0;owned\x07")
        terminal.flush()
        os.set_blocking(ours, False)
        shown = b""
        try:
            while part := screen.read(65536):
                shown += part
        except OSError:
            pass
    assert b"name\\x1b[31m" in shown
    assert b"[red]status\\x1b]0;owned\\x07" in shown
    assert b"desc\\x1b[2J" in shown
    assert b"\x1b]0;" not in shown


@pytest.mark.parametrize("width", [80, 120])
def test_progress_bar_is_never_cut(width, monkeypatch):
    written = io.StringIO()
    console = Console(file=written, width=width)
    monkeypatch.setattr("vplface.console.Console", lambda **_: console)
    bars = progress_module._bars()
    name, status = "vpl-momentum-lambda-0.50", "loss 12.345  1234 pictures/s"
    bars.add_task(name, total=1_234_567, completed=345_678, status=status)
    console.print(bars.get_renderable())
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "345678/1234567" in lines[0]
    assert status in lines[0]
    assert "…" not in written.getvalue()
    assert "".join(line.split(" ")[0] for line in lines) == name
