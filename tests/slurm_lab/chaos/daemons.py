"""Faults of Slurm itself: the controller, the accounting, the nodes."""

import signal
import time
from collections.abc import Callable
from functools import partial

from tests.slurm_lab.chaos.world import COMMAND_SECONDS, World

OUTAGES = ("slurmdbd away", "MariaDB crashes")
CRASHES = ("slurmctld crashes", "slurmctld crashes right after its answer")
UNTIL_DOWN_SECONDS = 24.0
"""By then its jobs run elsewhere: with SlurmdTimeout=3 a node is down after 10 s, and a requeued job waits 6 s."""


def controller_crashes(world: World) -> str | None:
    """kill -9, and a new start soon after: what it had not saved is forgotten."""
    if not world.lab.daemons.pid("ctld"):
        return None
    world.lab.stop("ctld", signal.SIGKILL)
    time.sleep(world.chance.uniform(0.0, 2.0))
    world.lab.start("ctld")
    return "restarted"


def controller_crashes_after_its_answer(world: World) -> str | None:
    """kill -9 right after an acknowledged submission: the id is given to another job later."""
    pid = world.lab.daemons.pid("ctld")
    if pid is None or not world.order("crash_after", str(pid)):
        return None
    until = time.monotonic() + 10
    while world.lab.daemons.pid("ctld") == pid and time.monotonic() < until:
        time.sleep(0.05)
    world.lab.stop("ctld", signal.SIGKILL)  # removes its pid file
    world.lab.start("ctld")
    return "restarted"


def controller_restarts(world: World) -> str:
    """In good order."""
    world.lab.stop("ctld")
    world.lab.start("ctld")
    return "restarted"


def controller_away(world: World) -> str:
    """A whole round without a controller."""
    world.lab.stop("ctld")
    done = world.start("tick")
    done.wait(timeout=COMMAND_SECONDS)
    world.lab.start("ctld")
    return f"tick ended with {done.returncode}"


def accounting_away(world: World) -> str | None:
    """slurmdbd is down for a while."""
    if not world.lab.daemons.pid("dbd"):
        return None
    world.lab.stop("dbd", world.chance.choice((signal.SIGTERM, signal.SIGKILL)))
    world.later(world.chance.uniform(2, 8), partial(accounting_back, world))
    return "stopped"


def database_away(world: World) -> str | None:
    """MariaDB crashes and is down for a while."""
    if not world.lab.daemons.pid("db"):
        return None
    world.lab.stop("db", signal.SIGKILL)
    world.later(world.chance.uniform(2, 6), partial(accounting_back, world))
    return "killed"


def accounting_back(world: World) -> None:
    """The database first: slurmdbd answers nobody without it."""
    for name in ("db", "dbd"):
        world.lab.start(name)


def node_down(world: World) -> str | None:
    """An administrator sets a busy node down; it comes back."""
    node = _busy_node(world)
    if node is None:
        return None
    world.lab.run("scontrol", "update", f"nodename={node}", "state=down", "reason=chaos")
    world.later(4.0, lambda: world.lab.run("scontrol", "update", f"nodename={node}", "state=resume"))
    return node


def slurmd_dies(world: World) -> str | None:
    """kill -9 of a node's slurmd while the jobs' processes live on; the node is given up, and comes back much later.

    Rather one with a long job: it runs again elsewhere while its first copy still works.
    """
    node = _busy_node(world, "long") or _busy_node(world)
    if node is None:
        return None
    world.lab.stop(node, signal.SIGKILL)
    world.later(UNTIL_DOWN_SECONDS, partial(world.lab.start, node))
    return node


def slurmd_restarts(world: World) -> str | None:
    """kill -9 of a node's slurmd, and a new start before anybody misses it."""
    node = _busy_node(world)
    if node is None:
        return None
    world.lab.stop(node, signal.SIGKILL)
    time.sleep(world.chance.uniform(0.2, 1.5))
    world.lab.start(node)
    return node


def _busy_node(world: World, beginning: str = "") -> str | None:
    """A node on which a job runs whose key begins so, and whose slurmd lives, while two others can take over."""
    alive = [name for name in world.lab.options.node_names if world.lab.daemons.pid(name)]
    running = [task for task in world.tasks("RUNNING") if task.key.startswith(beginning)]
    busy = sorted({task.nodes for task in running}.intersection(alive))
    return world.chance.choice(busy) if busy and len(alive) > 2 else None


FAULTS: dict[str, Callable[[World], str | None]] = {
    CRASHES[0]: controller_crashes,
    CRASHES[1]: controller_crashes_after_its_answer,
    "slurmctld restarts": controller_restarts,
    "slurmctld away for a round": controller_away,
    OUTAGES[0]: accounting_away,
    OUTAGES[1]: database_away,
    "node set down": node_down,
    "slurmd dies, its jobs live on": slurmd_dies,
    "slurmd crashes and restarts": slurmd_restarts,
}
"""Each returns what it did, in words; None if there was nothing to do it to."""
