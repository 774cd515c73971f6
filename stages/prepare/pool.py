"""Work on several processes, none of which outlives the one that began it."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from stages.errors import StageError

Task = TypeVar("Task")
Result = TypeVar("Result")

LOOK_SECONDS = 0.5


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def results(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, Result]]:
    """Each task with what `function` made of it, as they are done; with one worker in order, and in this process.

    The first error ends it; what was begun is finished, what was not is not begun.
    """
    if workers <= 1 or len(tasks) <= 1:
        yield from ((task, function(task)) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")  # a forked copy would take locks of other threads with it
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=begin_worker, initargs=(os.getpid(),))
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


def begin_worker(parent: int) -> None:
    """What each worker does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends the others
    end_with(parent)


def end_with(parent: int) -> None:
    """Ends this process soon after `parent` has, however that ended; its unfinished files stay unfinished."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
