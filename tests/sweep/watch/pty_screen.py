"""`sweep` on a real pseudo-terminal, with an emulator that keeps what its screen shows."""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyte

ROOT = Path(__file__).parent.parent.parent.parent
PATIENCE_S = 240.0


class PtyScreen:
    """One process and its terminal."""

    def __init__(self, program: Sequence[str], size: tuple[int, int], environment: dict[str, str]) -> None:
        columns, rows = size
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        """All that the process wrote."""
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.environ.update(environment)
            os.execvp(program[0], list(program))  # noqa: S606 - no shell of Python's
        self.resize(size)
        self.before = self.attributes
        self.status: int | None = None

    @property
    def attributes(self) -> list[Any]:
        """Of the terminal, as the process set them."""
        return termios.tcgetattr(self.terminal)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def resize(self, size: tuple[int, int]) -> None:
        columns, rows = size
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def press(self, keys: bytes) -> None:
        os.write(self.terminal, keys)

    def read(self, seconds: float) -> bool:
        """Takes in what the process writes; false once it has closed its terminal."""
        if select.select([self.terminal], [], [], seconds)[0]:
            try:
                content = os.read(self.terminal, 65_536)
            except OSError:  # EIO: the other side is closed
                return False
            self.written += content
            self._stream.feed(content)
        return True

    def wait_for(self, *texts: str, absent: str = "") -> None:
        """Until the screen shows all of these."""
        deadline = time.monotonic() + PATIENCE_S
        while not all(text in self.text for text in texts) or (absent and absent in self.text):
            assert time.monotonic() < deadline, f"not all of {texts} in\n{self.text}"
            assert self.read(0.2), f"ended with\n{self.text}"

    def wait_for_end(self) -> int:
        """Its exit status, as os.waitpid has it."""
        deadline = time.monotonic() + PATIENCE_S
        while self.read(0.2):
            assert time.monotonic() < deadline, self.text
        self.status = os.waitpid(self.pid, 0)[1]
        return self.status

    def measure_cpu(self) -> float:
        """CPU seconds of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def open_pty_screen(
    *arguments: str, size: tuple[int, int] = (80, 24), program: Sequence[str] = (), **environment: str
) -> Iterator[PtyScreen]:
    """`sweep` with these arguments, or another program."""
    words = program or [sys.executable, "-m", "sweep", *arguments]
    found = PtyScreen(words, size, {"TERM": "xterm-256color", "LANG": "C.UTF-8", **environment})
    try:
        yield found
    finally:
        if found.status is None:
            os.kill(found.pid, signal.SIGKILL)
            os.waitpid(found.pid, 0)
        os.close(found.terminal)
