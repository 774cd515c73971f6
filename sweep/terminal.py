"""The one door for what is printed: while a command runs, stdout and stderr write nothing that steers a terminal."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from stages.printable import escape_unprintable
from sweep.arguments import find_terminal_columns

NAMES = {"stdout": "standard output", "stderr": "standard error"}


# Why: docs/decisions.md, D154
class PrintableStream:
    """A stream as `print` and `write` take it. What the stream's encoding lacks is written out, too.

    A write that fails names the stream: "No space left on device" alone would be taken for the store's.
    """

    def __init__(self, stream: TextIO, name: str, *, behind: "PrintableStream | None" = None) -> None:
        """`behind`: what was printed there before comes out before, where both go to one file or pipe."""
        self.stream = stream
        self.label = name
        self.behind = behind
        self.coloured = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        if self.behind is not None:
            self.behind.flush()
        shown = escape_unprintable(text)
        if not shown.isascii():
            encoding = self.stream.encoding or "utf-8"
            shown = shown.encode(encoding, "backslashreplace").decode(encoding)
        if self.coloured:
            from sweep.colours import render_colours

            shown = render_colours(shown)
        with name_stream(self.label):
            self.stream.write(shown)
        return len(text)

    def flush(self) -> None:
        with name_stream(self.label):
            self.stream.flush()


def colour_output() -> None:
    """From here on, words that mean something are coloured, on each of the two streams that is a terminal for it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, PrintableStream) and stream.isatty():
            from sweep.colours import can_colour

            stream.coloured = can_colour(stream.stream)


@contextmanager
def name_stream(label: str) -> Iterator[None]:
    """Gives an error of the block the stream's name, but for that of a closed pipe, whose reader has seen enough."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        error.filename = error.filename or label
        raise


@contextmanager
def wrap_output() -> Iterator[None]:
    """In the block, everything that is printed goes through `PrintableStream`, and is out at its end."""
    before = {name: getattr(sys, name) for name in NAMES}
    out = PrintableStream(before["stdout"], NAMES["stdout"])
    sys.stdout, sys.stderr = out, PrintableStream(before["stderr"], NAMES["stderr"], behind=out)
    try:
        yield
        sys.stdout.flush()
    except SystemExit:  # of help: what a closed pipe does not take must not fail at the interpreter's end
        sys.stdout.flush()
        raise
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)


def drop_unwritten(stream: TextIO) -> None:
    """What is still to be written is lost: at the interpreter's end it would fail again, with words of its own."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


def find_raw_stream(stream: TextIO) -> TextIO:
    """The stream below the guard, for a library that steers the terminal itself (a progress bar)."""
    return stream.stream if isinstance(stream, PrintableStream) else stream


def find_table_width() -> int | None:
    """Columns of the terminal that stdout is; None for a pipe or file, where tables are as wide as they need."""
    return find_terminal_columns() if sys.stdout.isatty() else None


COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def render_log_text(text: str) -> str:
    """Lines of a log without their colours; a line that was written over and over (`\\r`) becomes several."""
    return COLOUR.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
