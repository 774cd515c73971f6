"""Faults of Slurm itself: the controller, the accounting, the nodes."""

import signal
import time
from collections.abc import Callable
from functools import partial

from tests.slurm_lab.chaos.world import COMMAND_SECONDS, World

OUTAGES = ("slurmdbd away", "MariaDB crashes")
CRASHES = ("slurmctld crashes", "slurmctld crashes right after its answer")
HIDDEN = "jobs of others hidden"
NODE_LEAVES = "a node leaves the cluster"
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
    answered = world.orders.parent / "answered"
    if not world.lab.daemons.pid("ctld") or not world.order("crash_after", str(answered)):
        return None
    until = time.monotonic() + 10
    while not answered.exists() and time.monotonic() < until:
        time.sleep(0.01)
    world.lab.stop("ctld", signal.SIGKILL)
    answered.unlink(missing_ok=True)
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
    world.later(UNTIL_DOWN_SECONDS, partial(world.start_node, node))
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


def node_leaves(world: World) -> str | None:
    """A machine is taken away for good while jobs run: it is no longer in slurm.conf. It is back in the next season."""
    node = world.lab.options.node_names[0]
    alive = [name for name in world.lab.options.node_names if world.lab.daemons.pid(name)]
    if world.absent or node not in alive or len(alive) < 4:
        return None
    if node not in {task.nodes for task in world.tasks("RUNNING")}:
        return None
    world.leave(node)
    return node


def jobs_hidden(world: World) -> str | None:
    """The site hides other people's jobs for a while, and both people tick meanwhile."""
    if len(world.people) < 2:
        return None
    world.set_conf("hidden", "PrivateData=jobs,usage")
    world.later(world.chance.uniform(5, 10), partial(world.set_conf, "hidden", ""))
    return f"ticks ended with {[world.run('tick', who=who).returncode for who in (1, 0)]}"


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
    NODE_LEAVES: node_leaves,
    HIDDEN: jobs_hidden,
}
"""Each returns what it did, in words; None if there was nothing to do it to."""
