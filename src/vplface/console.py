"""Terminal output that escapes control characters and survives a lost terminal."""

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
"""Libraries whose control sequences are passed on. Names reach rich through :class:`Console` only."""


class OutputError(Exception):
    """Raised if standard output cannot be written: the disk is full, or the reader has closed the pipe.

    Attributes:
        reason: the system's error.
    """

    def __init__(self, reason: OSError | ValueError) -> None:
        super().__init__(f"cannot write to standard output: {getattr(reason, 'strerror', None) or reason}")
        self.reason = reason


class Guarded:
    """Text stream that escapes control characters of ``print``, warnings, logging and tracebacks.

    Args:
        stream: the underlying stream, if any.
        needed: whether a failure to write raises OutputError; otherwise it is ignored.
    """

    def __init__(self, stream: TextIO | None, needed: bool) -> None:
        self._stream, self._needed = stream, needed

    def write(self, text: str) -> int:
        """Write text with control characters escaped."""
        frame = sys._getframe().f_back
        writer = "" if frame is None else str(frame.f_globals.get("__name__"))
        shown = text if writer.partition(".")[0] in _DRAW else printable(text)
        with self._failures():
            if self._stream is not None:
                self._stream.write(shown)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts, as :meth:`write`."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the underlying stream."""
        with self._failures():
            if self._stream is not None:
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
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
        """Redirect buffered output to the null device, so that the interpreter does not fail at exit."""
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, cast(TextIO, self._stream).fileno())
            os.close(nowhere)


def guard() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` by :class:`Guarded` streams."""
    if not isinstance(sys.stdout, Guarded):
        sys.stdout = cast(TextIO, Guarded(sys.stdout, needed=True))
    if not isinstance(sys.stderr, Guarded):
        sys.stderr = cast(TextIO, Guarded(sys.stderr, needed=False))


@contextmanager
def guarded() -> Iterator[None]:
    """Apply :func:`guard` within the block."""
    before = sys.stdout, sys.stderr
    guard()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def start_display(display: Live | Progress) -> None:
    """Start a live display of rich, and guard the streams that it replaces."""
    ours = isinstance(sys.stderr, Guarded)
    display.start()
    if ours:
        guard()


def is_taken_over() -> bool:
    """Whether a live display has replaced the streams; another display must then leave them alone."""
    return hasattr(sys.stderr, "rich_proxied_file")


class Console(rich_console.Console):
    """rich's console for untrusted text: no markup, no emoji codes, and escaped control characters."""

    def __init__(self, *, markup: bool = False, emoji: bool = False, **options: Any) -> None:
        super().__init__(markup=markup, emoji=emoji, **options)

    def on_broken_pipe(self) -> None:
        """Re-raise the error; rich would exit the process and redirect its standard output."""
        raise

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape control characters before rich measures the text."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: rich_console.RenderableType, options: rich_console.ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Escape control characters, except rich's own control segments."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def say(message: object, *, file: TextIO | None = None) -> None:
    """Print a one-line message, with newlines escaped.

    Args:
        message: the line.
        file: output stream; None is standard output.
    """
    print(printable_name(str(message), LINE_LENGTH), file=file, flush=True)


def print_json(value: Mapping[str, Any]) -> None:
    """Print a JSON object on one line of stdout."""
    print(printable_json(json.dumps(value, ensure_ascii=False)))
