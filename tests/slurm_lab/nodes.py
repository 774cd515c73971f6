"""The nodes' states as the controller sees them, and waiting until they are what they should be."""

import time
from collections.abc import Collection

from tests.slurm_lab.clients import Clients
from tests.slurm_lab.processes import wait_for

TAKES_JOBS = frozenset({"idle", "allocated", "mixed", "completing"})
PUT_ASIDE = frozenset({"down", "drained", "draining", "inval"})
"""States of a node that answers and yet gets no jobs until an administrator resumes it."""
READY_SECONDS = 60
NUDGE_SECONDS = 1.0


def node_states(clients: Clients) -> dict[str, str]:
    """sinfo(1)'s long state of each node, with a star behind that of a node that does not answer.

    Empty while the controller does not answer.
    """
    done = clients.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T")
    return dict(line.split() for line in done.stdout.splitlines())


def wait_for_nodes(clients: Clients, names: Collection[str], wanted: Collection[str] = TAKES_JOBS) -> None:
    """Returns when all nodes are in a wanted state. Resumes those that were put aside."""
    nudged = 0.0

    def settled() -> bool:
        nonlocal nudged
        states = node_states(clients)
        for node, state in states.items():
            if state in PUT_ASIDE:
                clients.run("scontrol", "update", f"nodename={node}", "state=resume")
        unheard = any(state == "unknown" or state.endswith("*") for state in states.values())
        if unheard and time.monotonic() - nudged > NUDGE_SECONDS:
            # a controller just restarted asks its nodes in some seconds; told to reconfigure, at once
            clients.run("scontrol", "reconfigure")
            nudged = time.monotonic()
        return states.keys() == set(names) and set(wanted).issuperset(states.values())

    wait_for(f"nodes that are {' or '.join(sorted(wanted))}", settled, seconds=READY_SECONDS, every=0.05)
