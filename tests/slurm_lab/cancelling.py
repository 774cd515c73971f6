"""Emptying the queue between tests."""

import signal
from collections.abc import Sequence

from tests.slurm_lab.clients import Clients
from tests.slurm_lab.processes import job_processes, send, step_daemons, wait_for

EMPTY_SECONDS = 60


def cancel_all(clients: Clients, users: Sequence[str]) -> None:
    """Returns when no job is left, in the queue or on a node. One that is deaf to SIGTERM is not given its time."""
    if queued(clients):
        for state in ("PENDING", "RUNNING"):  # pending first, or they start in the others' places
            _cancel(clients, users, f"--state={state}")

    def ended() -> bool:
        send(job_processes(clients.layout), signal.SIGKILL)
        if queued(clients):
            _cancel(clients, users)  # what was requeued, held or suspended meanwhile
            return False
        # jobs that a crashed controller has forgotten run on, and their numbers come round again
        forgotten = step_daemons(clients.layout)
        send(forgotten, signal.SIGKILL)
        return not forgotten

    wait_for("the end of all jobs", ended, seconds=EMPTY_SECONDS, every=0.1)


def queued(clients: Clients) -> list[str]:
    """Ids of all jobs that have not ended, pending elements of an array as one."""
    return clients.output("squeue", "-h", "-o", "%i").split()


def _cancel(clients: Clients, users: Sequence[str], *options: str) -> None:
    for user in users:  # scancel(1) sends one request a user, and without one a request for each job
        clients.run("scancel", f"--user={user}", *options)
