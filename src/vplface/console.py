"""The way out to the terminal: text from elsewhere is shown and never obeyed, and a lost terminal stops nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from rich import console as rich_console
from rich.live import Live
from rich.progress import Progress
from rich.segment import Segment
from rich.text import Text

from vplface.printable import LINE_LENGTH, printable, printable_json, printable_name

_DRAW = frozenset({"rich", "tqdm", "click", "wandb"})
"""Libraries that move the cursor or set colours; what they write passes. Names reach rich by :class:`Console` only."""


class OutputError(Exception):
    """Standard output cannot be written: its disk is full, or its reader has gone (BrokenPipeError).

    Attributes:
        reason: the error of the system.
    """

    def __init__(self, reason: OSError | ValueError) -> None:
        super().__init__(f"cannot write to standard output: {getattr(reason, 'strerror', None) or reason}")
        self.reason = reason


class Guarded:
    """A text stream that writes out control characters, whoever prints: ``print``, warnings, logging, tracebacks.

    Args:
        stream: what is written to; None, if there is none.
        needed: whether a failure to write raises OutputError; otherwise it is passed over.
    """

    def __init__(self, stream: TextIO | None, needed: bool) -> None:
        self._stream, self._needed = stream, needed

    def write(self, text: str) -> int:
        """Write text."""
        frame = sys._getframe().f_back
        writer = "" if frame is None else str(frame.f_globals.get("__name__"))
        shown = text if writer.partition(".")[0] in _DRAW else printable(text)
        with self._failures():
            if self._stream is not None:
                self._stream.write(shown)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand everything to the system."""
        with self._failures():
            if self._stream is not None:
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether this is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self._discard()
            if self._needed:
                raise OutputError(error) from error

    def _discard(self) -> None:
        """Let what is still buffered go nowhere, so that the interpreter does not fail on it when it ends."""
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, cast(TextIO, self._stream).fileno())
            os.close(nowhere)


def guard() -> None:
    """Put :class:`Guarded` streams in place of ``sys.stdout`` and ``sys.stderr``."""
    if not isinstance(sys.stdout, Guarded):
        sys.stdout = cast(TextIO, Guarded(sys.stdout, needed=True))
    if not isinstance(sys.stderr, Guarded):
        sys.stderr = cast(TextIO, Guarded(sys.stderr, needed=False))


@contextmanager
def guarded() -> Iterator[None]:
    """:func:`guard` for a block."""
    before = sys.stdout, sys.stderr
    guard()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def start_display(display: Live | Progress) -> None:
    """Start a live display of rich, which takes the streams over: what is printed meanwhile is guarded as before."""
    ours = isinstance(sys.stderr, Guarded)
    display.start()
    if ours:
        guard()


def is_taken_over() -> bool:
    """Whether a live display has taken the streams over; another one then leaves them as they are."""
    return hasattr(sys.stderr, "rich_proxied_file")


class Console(rich_console.Console):
    """rich's console for text from elsewhere: no markup, no emoji codes, and control characters are written out."""

    def __init__(self, *, markup: bool = False, emoji: bool = False, **options: Any) -> None:
        super().__init__(markup=markup, emoji=emoji, **options)

    def on_broken_pipe(self) -> None:
        """Let the error through; rich would end the process and redirect its standard output."""
        raise

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich does, before it measures the text."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: rich_console.RenderableType, options: rich_console.ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """As rich does; what the controls of rich itself say stays."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def say(message: object, *, file: TextIO | None = None) -> None:
    """Print a message of one line: newlines in the names that it holds are written out.

    Args:
        message: the line.
        file: where to; None is standard output.
    """
    print(printable_name(str(message), LINE_LENGTH), file=file, flush=True)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout, in a line."""
    print(printable_json(json.dumps(value, ensure_ascii=False)))
