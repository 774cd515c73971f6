"""A submission without Slurm: takes the submit lock, reads the ledgers, notes each key that it hands over.

    python -m tests.nfs.submitter STORE MOST

What it hands over is told to the witness ($NFS_WITNESS), as Slurm would have it. A key whose intent is in a ledger is
never handed over again.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jobs.claims import submit_lock
from jobs.errors import SubmitterBusyError, describe_storage_error
from jobs.job import Resources
from jobs.slurm.batch_ledger import BatchLedger, read_batch_history
from jobs.slurm.batches import SlurmBatch
from jobs.store.ledger import Ledger
from jobs.store.paths import Store
from tests.nfs.guards import Guard
from tests.nfs.stage import write_line

SWEEP = "sent"
KEYS = [f"k{number:03d}" for number in range(400)]
SILENT_SECONDS, BEAT_SECONDS = 6.0, 0.5
"""Both a twentieth of the usual ones, as are the mounts' caches."""


def main() -> int:
    store, most = Store(Path(sys.argv[1])), int(sys.argv[2])
    submit_lock.SILENT_SECONDS, submit_lock.BEAT_SECONDS, submit_lock.POLL_SECONDS = SILENT_SECONDS, BEAT_SECONDS, 0.05
    if Guard.SUBMIT_LOCK.is_removed:
        submit(store, most, lambda: True)
        return 0
    try:
        with submit_lock.hold_submit_lock(store.submitters, wait_seconds=20.0) as holds:
            submit(store, most, holds)
    except SubmitterBusyError:
        return 3
    except OSError as error:  # as `sweep` does: one line, and the next submission goes on
        print(describe_storage_error(error), file=sys.stderr)
        return 4
    return 0


def submit(store: Store, most: int, holds: Callable[[], bool]) -> None:
    folder = store.locate_sweep(SWEEP).ledger
    ledger = Ledger(folder)
    batches = BatchLedger(ledger)
    sent = {key for batch in read_batch_history(folder).batches.values() for key in batch.tasks.values()}
    for key in [key for key in KEYS if key not in sent][:most]:
        batch = SlurmBatch(
            name=f"sw-{key}-{ledger.writer[-8:]}", phase="pretrain", tasks={0: key}, resources=Resources()
        )
        batches.write_intent(batch, "me")
        write_line(json.dumps({"key": key, "event": "noted", "who": ledger.writer}))
        if not holds():
            return
        write_line(json.dumps({"key": key, "event": "sent", "who": ledger.writer}))
        batches.write_sent(batch.name, "1")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
