"""The terminal of the live view: keys one by one, the other screen, and all as it was before, however it ends."""

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.text import Text

from sweep.terminal import find_raw_stream

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
Handler = Callable[[int, FrameType | None], None]
KEY_NAMES = {
    b"\x1b[A": "up", b"\x1b[B": "down", b"\x1b[C": "right", b"\x1b[D": "left", b"\x1bOA": "up", b"\x1bOB": "down",
    b"\x1bOC": "right", b"\x1bOD": "left", b"\x1b[5~": "page up", b"\x1b[6~": "page down", b"\x1b[H": "home",
    b"\x1b[F": "end", b"\x1b[1~": "home", b"\x1b[4~": "end", b"\x1bOH": "home", b"\x1bOF": "end", b"\x1b": "escape",
    b"\r": "enter", b"\n": "enter", b"\x7f": "backspace", b"\x08": "backspace", b"\x04": "q", b" ": "page down",
}  # fmt: skip
ESCAPE_WAIT_S = 0.1
"""For the rest of a key that is several bytes: over ssh they may come apart."""
SMALLEST = (20, 5)
"""Columns and rows; a terminal that says less is taken for so large."""


class WatchEndedError(Exception):
    """A signal asked the process to end; `number` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class WatchTerminal:
    """Keys in, screens out. Made by `open_watch_terminal`."""

    def __init__(self, source: int, console: Console, live: Live, wake: int) -> None:
        self._source, self._console, self._live, self._wake = source, console, live, wake
        self._before = termios.tcgetattr(source)
        self._given = b""
        self.resized = True
        """Whether the next screen has to be drawn, whatever it shows."""
        self.suspended = False
        """Whether the user asked the shell to put the view aside (Ctrl-Z)."""

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, now."""
        try:
            columns, rows = os.get_terminal_size(self._console.file.fileno())
        except OSError:
            return 80, 24
        return max(columns, SMALLEST[0]), max(rows, SMALLEST[1])

    @property
    def draws_blocks(self) -> bool:
        """Whether its encoding has the letters of a sparkline."""
        return self._console.encoding.lower().replace("-", "").startswith("utf")

    def begin(self) -> None:
        """Keys one by one, and the other screen."""
        tty.setcbreak(self._source)
        self._live.start()
        self.resized = True

    def close(self) -> None:
        """All as it was before `begin`. A terminal that is gone needs none of it."""
        with suppress(OSError):
            self._live.stop()
        with suppress(termios.error, OSError):
            termios.tcsetattr(self._source, termios.TCSADRAIN, self._before)

    def stop_for_shell(self) -> None:
        """Puts this process aside as Ctrl-Z does, until the shell brings it back."""
        self.suspended = False
        self.close()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self.begin()

    def show(self, lines: Sequence[Text]) -> None:
        """The whole screen: as many lines as it has rows, none wider than it."""
        self._console.size = ConsoleDimensions(*self.size)
        self._live.update(Group(*lines), refresh=True)

    def wait_for_keys(self, seconds: float) -> list[str]:
        """Names of the keys that were pressed; empty after so many seconds, or at a signal. Letters name themselves.

        EOFError where the terminal is gone.
        """
        ready, _, _ = select.select([self._source, self._wake], [], [], 0 if self._given else seconds)
        if self._wake in ready:
            with suppress(BlockingIOError):
                os.read(self._wake, 64)
        if self._source in ready:
            read = os.read(self._source, 1_024)
            if not read:
                raise EOFError
            self._given += read
            while self._given.endswith(b"\x1b") or self._given[-3:].startswith(b"\x1b["):
                if self._given in KEY_NAMES and self._given != b"\x1b":
                    break
                if not select.select([self._source], [], [], ESCAPE_WAIT_S)[0]:
                    break
                more = os.read(self._source, 1_024)
                if not more:
                    break
                self._given += more
        given, self._given = self._given, b""
        return list(iter_key_names(given))


def iter_key_names(given: bytes) -> Iterator[str]:
    """The keys in what a terminal sent. What is no known key is passed over."""
    while given:
        name = next((known for known in sorted(KEY_NAMES, key=len, reverse=True) if given.startswith(known)), None)
        if name == b"\x1b" and given[1:2] in {b"[", b"O"}:  # a key that is not known: to its last letter
            end = next((place for place, byte in enumerate(given[2:], 3) if 0x40 <= byte <= 0x7E), len(given))
            given = given[end:]
            continue
        if name is not None:
            given = given[len(name) :]
            yield KEY_NAMES[name]
            continue
        length = 1 + sum(byte & 0xC0 == 0x80 for byte in given[1:4]) if given[0] >= 0xC0 else 1
        letter = given[:length].decode(errors="replace")
        given = given[length:]
        if letter.isprintable():
            yield letter


def explain_no_terminal() -> str:
    """Why a live view cannot be shown here; empty if it can."""
    streams = {"standard input": sys.stdin, "standard output": find_raw_stream(sys.stdout)}
    for name, stream in streams.items():
        if stream is None or not stream.isatty():
            return f"{name} is not a terminal"
    if os.environ.get("TERM", "dumb") == "dumb":
        return "TERM is dumb or not set, and such a terminal cannot be drawn on"
    return ""


# Why: docs/decisions.md, D191
@contextmanager
def open_watch_terminal() -> Iterator[WatchTerminal]:
    """The terminal, in the block: keys come at once and unseen, and the screen is another one. At the end, by whatever
    way, both are as before. WatchEndedError is raised in the block when a signal asks the process to end."""
    source, stream = sys.stdin.fileno(), find_raw_stream(sys.stdout)
    # force_terminal: it is one, as was asked before; names and messages are data, so nothing in them is markup
    console = Console(file=stream, force_terminal=True, markup=False, emoji=False, highlight=False)
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    os.set_blocking(wake, False)
    live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    terminal = WatchTerminal(source, console, live, wake)
    ended = False

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal ended
        if not ended:  # a second signal must not break into the restoring
            ended = True
            raise KeyboardInterrupt if number == signal.SIGINT else WatchEndedError(number)

    def note_size(_number: int, _frame: FrameType | None) -> None:
        terminal.resized = True

    def note_suspension(_number: int, _frame: FrameType | None) -> None:
        terminal.suspended = True

    handlers: dict[signal.Signals, Handler] = {
        **dict.fromkeys(ENDING_SIGNALS, end),
        signal.SIGWINCH: note_size,
        signal.SIGTSTP: note_suspension,
    }
    with set_handlers(handlers):
        previous = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        try:
            terminal.begin()
            yield terminal
        finally:
            ended = True
            terminal.close()
            signal.set_wakeup_fd(previous)
            os.close(wake)
            os.close(waker)


@contextmanager
def set_handlers(handlers: dict[signal.Signals, Handler]) -> Iterator[None]:
    """These signal handlers, in the block."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
