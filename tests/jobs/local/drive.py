"""Runs a planned toy sweep in a process of its own, so that tests can kill it.

python -m tests.jobs.local.drive STORE [--cpus N] [--die-at N]: with --die-at, SIGKILL itself at its N-th side effect.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.errors import JobsError
from jobs.local.attempts import LocalAttempts
from jobs.local.runner import LocalRunner, StopRequest
from jobs.local.slots import Slots
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.store.ledger import Ledger
from jobs.store.paths import Store
from sweep.plan.manifest import read_manifest
from tests.jobs.toy import COUNTING_STAGE, SWEEP


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--die-at", type=int, default=0)
    options = parser.parse_args()
    if options.die_at:
        die_at_side_effect(options.die_at)
    store = Store(options.store)
    jobs = read_manifest(store.locate_sweep(SWEEP).manifest).jobs
    stop = StopRequest()
    with stop.listen_for_signals():
        try:
            snapshot = SweepSnapshot(jobs, store, SWEEP)
            end = LocalRunner(snapshot, slots=Slots(options.cpus), program=COUNTING_STAGE).run(stop)
        except JobsError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
    print(json.dumps({"problem": end.problem, "stopped_by": end.stopped_by}))
    return 130 if end.stopped_by else 0


def die_at_side_effect(number: int) -> None:
    """Counts the moments before and after every write to the ledger, hand-over, start, and moving aside of a result."""
    passed = 0

    def moment() -> None:
        nonlocal passed
        passed += 1
        if passed == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def between(action: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            moment()
            answer = action(*arguments, **options)
            moment()
            return answer

        return watched

    for owner, name in (
        (Ledger, "append"),
        (LocalRunner, "_enqueue"),
        (LocalAttempts, "start"),
        (LocalRunner, "_invalidate"),
    ):
        setattr(owner, name, between(getattr(owner, name)))


if __name__ == "__main__":
    sys.exit(main())
