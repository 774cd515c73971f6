"""One submitter of a store at a time, on any login node; the next takes over from one that died."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.claims.claims import Claim, Holder, age_seconds, claim, newest, tidy
from jobs.errors import SubmitterBusyError

BEAT_SECONDS = 10.0
SILENT_SECONDS = 120.0
"""A submitter of another machine that was silent for so long is gone: NFS caches hide a sign of life for 60 s."""
POLL_SECONDS = 0.5


@contextmanager
def submitting(folder: Path, *, patience_seconds: float) -> Iterator[Callable[[], bool]]:
    """Holds the claim while the block lasts, and gives the question whether it is still held.

    Waits for another submitter for `patience_seconds`, then raises SubmitterBusyError. To be asked before every sbatch.
    """
    mine = take(folder, patience_seconds)
    over = threading.Event()
    beats = threading.Thread(target=beat_until, args=(mine, over), daemon=True)
    beats.start()
    try:
        yield mine.is_newest
    finally:
        over.set()
        beats.join()
        mine.release()


def take(folder: Path, patience_seconds: float) -> Claim:
    """The next claim, as soon as the one before is released or its holder gone."""
    deadline = time.monotonic() + patience_seconds
    while True:
        before = newest(folder)
        if before is None or before.released or before.holder.process_is_gone or age_seconds(before) > SILENT_SECONDS:
            mine = claim(folder, Holder.here(), after=before)
            if mine is not None:
                tidy(folder, mine)
                return mine
        elif time.monotonic() >= deadline:
            who = f"process {before.holder.pid} on {before.holder.host}"
            raise SubmitterBusyError(
                f"another submission from this store is at work ({who}); try again when it is done"
            )
        time.sleep(POLL_SECONDS)


def beat_until(mine: Claim, over: threading.Event) -> None:
    """Shows a sign of life every few seconds; ends early once the claim is no longer there."""
    while not over.wait(BEAT_SECONDS):
        if not mine.beat():
            return
