"""Work on several processes, none of which outlives the one that began it."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from stages.errors import StageError

Task = TypeVar("Task")
Result = TypeVar("Result")

POLL_SECONDS = 0.5


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def iter_results(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Iterator[tuple[Task, Result]]:
    """Each task with what `function` made of it, as they are done; with one worker in order, and in this process.

    The first error ends it; what was begun is finished, what was not is not begun.
    """
    if workers <= 1 or len(tasks) <= 1:
        yield from ((task, function(task)) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")  # a forked copy would take locks of other threads with it
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=start_worker, initargs=(os.getpid(),))
    try:
        running = {pool.submit(function, task): task for task in tasks}
        for done in as_completed(running):
            yield running.pop(done), done.result()
    except BrokenProcessPool as error:
        raise StageError(
            "a worker process was killed, perhaps for lack of memory; the same command goes on where it stopped, "
            "and fewer --workers need less"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker(parent: int) -> None:
    """What each worker does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends the others
    exit_with_parent(parent)


def exit_with_parent(parent: int) -> None:
    """Ends this process soon after `parent` has, however that ended; its unfinished files stay unfinished."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# What a long preparation shows on stderr: a bar on a terminal, else a line now and then.

LINE_SECONDS = 10.0


class ProgressListener(Protocol):
    """Hears of finished work."""

    def advance(self, amount: int, tokens: int = 0) -> None:
        """So much more of the total is done, and gave so many tokens."""
        ...


@contextmanager
def show_progress(what: str, total: int, *, done: int = 0) -> Iterator[ProgressListener]:
    """A listener for work of `total` (bytes, shards), of which `done` were done before."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(what, total, done) as listener:
            yield listener
    else:
        yield ProgressLines(what, total, done)


@dataclass(slots=True)
class ProgressLines:
    """`tokenizing: 40 %, 512,000 tokens/s` every ten seconds."""

    what: str
    total: int
    done: int
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    reported: float = field(default_factory=time.monotonic)

    def advance(self, amount: int, tokens: int = 0) -> None:
        self.done, self.tokens = self.done + amount, self.tokens + tokens
        now = time.monotonic()
        if now - self.reported >= LINE_SECONDS:
            self.reported = now
            share = 100 * self.done / max(1, self.total)
            print(
                f"{self.what}: {share:.0f} %{format_rate(self.tokens, now - self.started)}", file=sys.stderr, flush=True
            )


def format_rate(tokens: int, seconds: float) -> str:
    """`, 512,000 tokens/s`; empty where no tokens are counted."""
    return f", {tokens / max(seconds, 1e-9):,.0f} tokens/s" if tokens else ""


@contextmanager
def _bar(what: str, total: int, done: int) -> Iterator[ProgressListener]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    counts = ProgressLines(what, total, done)
    with Progress(*columns, TextColumn("{task.fields[rate]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=done, rate="")

        class Bar:
            """Moves the bar."""

            def advance(self, amount: int, tokens: int = 0) -> None:
                counts.tokens += tokens
                speed = format_rate(counts.tokens, time.monotonic() - counts.started).removeprefix(", ")
                bar.update(task, advance=amount, rate=speed)

        yield Bar()
