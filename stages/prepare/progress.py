"""What a long preparation shows on stderr: a bar on a terminal, else a line now and then."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

LINE_SECONDS = 10.0


class Listener(Protocol):
    """Hears of finished work."""

    def advance(self, amount: int, tokens: int = 0) -> None:
        """So much more of the total is done, and gave so many tokens."""
        ...


@contextmanager
def watching(what: str, total: int, *, done: int = 0) -> Iterator[Listener]:
    """A listener for work of `total` (bytes, shards), of which `done` were done before."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(what, total, done) as listener:
            yield listener
    else:
        yield Lines(what, total, done)


@dataclass(slots=True)
class Lines:
    """`tokenizing: 40 %, 512,000 tokens/s` every ten seconds."""

    what: str
    total: int
    done: int
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def advance(self, amount: int, tokens: int = 0) -> None:
        self.done, self.tokens = self.done + amount, self.tokens + tokens
        now = time.monotonic()
        if now - self.told >= LINE_SECONDS:
            self.told = now
            share = 100 * self.done / max(1, self.total)
            print(f"{self.what}: {share:.0f} %{rate(self.tokens, now - self.started)}", file=sys.stderr, flush=True)


def rate(tokens: int, seconds: float) -> str:
    """`, 512,000 tokens/s`; empty where no tokens are counted."""
    return f", {tokens / max(seconds, 1e-9):,.0f} tokens/s" if tokens else ""


@contextmanager
def _bar(what: str, total: int, done: int) -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    counts = Lines(what, total, done)
    with Progress(*columns, TextColumn("{task.fields[rate]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=done, rate="")

        class Bar:
            """Moves the bar."""

            def advance(self, amount: int, tokens: int = 0) -> None:
                counts.tokens += tokens
                speed = rate(counts.tokens, time.monotonic() - counts.started).removeprefix(", ")
                bar.update(task, advance=amount, rate=speed)

        yield Bar()
