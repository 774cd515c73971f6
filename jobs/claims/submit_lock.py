"""The submit lock: one submitter of a store at a time, on any login node. The next takes over from one that died."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.claims.claims import Claim, ClaimOwner, create_claim, find_newest_claim, remove_old_claims
from jobs.claims.heartbeat import SilenceWatch
from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.errors import SubmitterBusyError

logger = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
SILENT_SECONDS = 120.0
"""A submitter on another machine that was silent for so long is gone. NFS caches may hide a heartbeat for 60 s."""
LEAST_SILENT_SECONDS = 3 * BEAT_SECONDS
"""So long a silence we have to see ourselves, however old the claim's file is."""
POLL_SECONDS = 0.5
SILENT_WAIT_SECONDS = 3.0
"""A longer wait is reported."""


@contextmanager
def hold_submit_lock(
    folder: Path,
    *,
    wait_seconds: float,
    report_wait: Callable[[str], None] = logger.info,
    clock: Clock = SYSTEM_CLOCK,
) -> Iterator[Callable[[], bool]]:
    """Holds the lock while the block lasts. Yields a function that says whether it is still held.

    Call that function before every sbatch. Raises SubmitterBusyError after `wait_seconds` with another submitter.
    `report_wait` is called once with a line about whom a wait of more than a few seconds is for.
    """
    mine = acquire_submit_claim(folder, wait_seconds, clock, report_wait)
    over = threading.Event()
    beats = threading.Thread(target=send_heartbeats, args=(mine, over), daemon=True)
    beats.start()
    try:
        yield mine.is_newest
    finally:
        over.set()
        beats.join()
        mine.release()


def acquire_submit_claim(
    folder: Path,
    wait_seconds: float,
    clock: Clock = SYSTEM_CLOCK,
    report_wait: Callable[[str], None] = logger.info,
) -> Claim:
    """The next claim, as soon as the previous one is released or its owner is gone."""
    began = clock.monotonic()
    reported, silence = False, None
    deadline = began + wait_seconds
    while True:
        before = find_newest_claim(folder)
        if before is not None and silence is None:
            silence = SilenceWatch(before, SILENT_SECONDS, LEAST_SILENT_SECONDS, clock)
        elif before is not None and silence is not None:
            silence.observe(before)
        is_silent = silence is not None and silence.is_over
        if before is None or before.released or before.owner.process_is_gone or is_silent:
            mine = create_claim(folder, ClaimOwner.from_this_process(), after=before)
            if mine is not None:
                remove_old_claims(folder, mine)
                logger.info("%s: claimed after %.1f s", folder, clock.monotonic() - began)
                return mine
        elif clock.monotonic() >= deadline:
            raise SubmitterBusyError(
                f"another submission from this store is at work ({describe_owner(before)}); try again when it is done"
            )
        elif not reported and clock.monotonic() - began > SILENT_WAIT_SECONDS:
            reported = True
            report_wait(
                f"waits up to {wait_seconds:.0f} s for another submission from this store ({describe_owner(before)})"
            )
        else:
            logger.debug("waits for process %d on %s", before.owner.pid, before.owner.host)
        clock.sleep(POLL_SECONDS)


def describe_owner(claim: Claim) -> str:
    """For people: a claim that was only just made has no owner yet."""
    owner = claim.owner
    return f"process {owner.pid} on {owner.host}" if owner.host else f"nobody has signed {claim.path.name}"


def send_heartbeats(mine: Claim, over: threading.Event) -> None:
    """Renews the claim every few seconds; ends early if the claim was removed."""
    while not over.wait(BEAT_SECONDS):
        try:
            if not mine.send_heartbeat():
                return
        except OSError as error:  # of a store that answers again in time, no other submitter takes the claim
            logger.info("%s: not renewed: %s", mine.path, error)
