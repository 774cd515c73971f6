"""What `sweep submit` shows while it runs: a bar on a terminal, and one line for each job that ends."""

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from jobs.local.runner import Progress
from jobs.reconcile.snapshot import Picture
from jobs.reconcile.state import State
from jobs.store.ledger import EventKind


@contextmanager
def watching(picture: Picture, wanted: Collection[str]) -> Iterator[Callable[[Progress], None]]:
    """Gives the listener for a runner. Everything goes to stderr."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(picture, wanted) as listener:
            yield listener
        return

    def tell(progress: Progress) -> None:
        line = line_of(progress, wanted)
        if line:
            print(line, file=sys.stderr, flush=True)

    yield tell


def line_of(progress: Progress, wanted: Collection[str]) -> str:
    """`12:03:10 [5/40] done finetune m5-b60-i10 3f... (71 s)`; empty for an attempt that starts."""
    if progress.event is not EventKind.ENDED:
        return ""
    job = progress.job
    name = job.cells[0] if job.cells else job.phase
    parts = [
        time.strftime("%H:%M:%S"),
        f"[{done_of(progress.picture, wanted)}/{len(wanted)}]",
        f"{progress.status.state:<11} {job.phase:<8} {name} {job.key}",
    ]
    return "  ".join([*parts, progress.message] if progress.message else parts)


def done_of(picture: Picture, wanted: Collection[str]) -> int:
    """How many of the wanted jobs are done."""
    return sum(picture.statuses[key].state is State.DONE for key in wanted)


@contextmanager
def _bar(picture: Picture, wanted: Collection[str]) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("jobs", total=len(wanted))

        def tell(progress: Progress) -> None:
            line = line_of(progress, wanted)
            if line:
                bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
            running = sum(status.state is State.RUNNING for status in picture.statuses.values())
            bar.update(task, completed=done_of(picture, wanted), description=f"{running} running")

        yield tell
