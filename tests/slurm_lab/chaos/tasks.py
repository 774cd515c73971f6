"""Faults of running and waiting jobs: people, priorities, limits, signals."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from jobs.processes import list_attempt_pids
from tests.slurm_lab.chaos.world import Task, World


def cancelled_by_hand(state: str, world: World) -> str | None:
    """scancel, which our records take for a person's wish; the campaign resumes the sweep somewhat later."""
    task = _one(world, state)
    if task is None or world.lab.run("scancel", task.id).returncode:
        return None
    world.later(3.0, partial(world.start, "resume"))
    return f"{task.key} {task.id}"


def requeued_by_hand(world: World) -> str | None:
    """scontrol requeue of a running job."""
    task = _one(world, "RUNNING")
    if task is None or world.lab.run("scontrol", "requeue", task.id).returncode:
        return None
    return f"{task.key} {task.id}"


def preempted(world: World) -> str | None:
    """A job of a higher QOS takes a whole node on which a preemptable job runs."""
    low = [task for task in world.tasks("RUNNING") if task.qos == "low"]
    if not low:
        return None
    task = world.chance.choice(low)
    options = ("--qos=high", "--exclusive", f"--nodelist={task.nodes}", "--time=1", "--output=/dev/null")
    sent = world.lab.run("sbatch", "--job-name=urgent", *options, "--wrap=sleep 1")
    return None if sent.returncode else f"{task.key} {task.id}"


def out_of_time(world: World) -> str | None:
    """The time limit of a long job is now, as an administrator may set it."""
    long = [task for task in world.tasks("RUNNING") if task.key.startswith("long")]
    if not long:
        return None
    task = world.chance.choice(long)
    done = world.lab.run("scontrol", "update", f"jobid={task.id}", "endtime=now")
    return None if done.returncode else f"{task.key} {task.id}"


def stage_killed(world: World) -> str | None:
    """SIGKILL to the stage."""
    stages = [
        (pid, folder) for folder, start in world.attempts() for pid in list_attempt_pids(folder) if pid != start.pid
    ]
    return _killed(world, stages)


def supervisor_killed(world: World) -> str | None:
    """SIGKILL to the stage's supervisor, which is Slurm's batch process; the stage is left to itself."""
    return _killed(world, [(start.pid, folder) for folder, start in world.attempts()])


def _killed(world: World, processes: list[tuple[int, Path]]) -> str | None:
    if not processes:
        return None
    pid, folder = world.chance.choice(processes)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return f"{folder.parent.parent.name} {folder.name}"


def _one(world: World, state: str) -> Task | None:
    tasks = [task for task in world.tasks(state) if task.key]
    return world.chance.choice(tasks) if tasks else None


FAULTS: dict[str, Callable[[World], str | None]] = {
    "scancel of a running job": partial(cancelled_by_hand, "RUNNING"),
    "scancel of a pending job": partial(cancelled_by_hand, "PENDING"),
    "scontrol requeue of a running job": requeued_by_hand,
    "preemption": preempted,
    "time limit": out_of_time,
    "stage killed": stage_killed,
    "supervisor killed": supervisor_killed,
}
"""Each returns what it did, in words; None if there was nothing to do it to."""
