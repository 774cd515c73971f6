"""Faults of what hands jobs to Slurm: killed commands, lying sbatch programs, two at once, torn and lost ledgers."""

import os
import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from jobs.processes import read_process_stat
from tests.slurm_lab.chaos.world import COMMAND_SECONDS, World

FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"
"""Of Debian's package faketime."""
CLOCK_OFF = "the submitter's clock is 3 h off"
SECOND_PERSON = "a second user submits, ticks or cancels"
AT_A_SIDE_EFFECT = "kill -9 of submit or tick at a side effect"
LEDGERS_DELETED = "ledgers deleted"
LIKELY_MOMENTS = 16
"""Side effects of a busy round, counted before and after."""

SBATCH_ORDERS = {
    "sbatch hangs after sending": "hangs_after",
    "sbatch hangs and never sends": "hangs_before",
    "sbatch sends late": "late",
    "sbatch sends and prints garbage": "garbage_after",
    "sbatch sends and ends with 1": "fails_after",
    "sbatch sends and is killed": "killed_after",
}


def killed_at_a_side_effect(world: World) -> str | None:
    """kill -9 of a submit or tick, right before or after something that it does."""
    most = LIKELY_MOMENTS
    for _ in range(3):
        done = world.run(world.chance.choice(("tick", "submit")), die_at=world.chance.randint(1, most))
        if done.returncode == -signal.SIGKILL:
            died = re.search(r"^died (.*)$", done.stderr, re.MULTILINE)
            return died[1] if died else "?"
        counted = re.search(r"^moments: (\d+)$", done.stderr, re.MULTILINE)
        most = max(1, int(counted[1])) if counted else LIKELY_MOMENTS
    return None


def killed_at_any_time(world: World) -> str | None:
    """kill -9 of a submit at a moment that nobody chose; its sbatch may be under way and goes on."""
    process = world.start(world.chance.choice(("tick", "submit")))
    world.rest(world.chance.uniform(0.3, 3.0))
    if process.poll() is not None:
        return None
    process.kill()
    process.wait()
    return "killed"


def two_at_once(world: World) -> str:
    """Two people submit in the same moment."""
    for process in [world.start("submit") for _ in range(2)]:
        process.wait(timeout=COMMAND_SECONDS)
    return "both ended"


def cancelled_and_resumed(world: World) -> str | None:
    """`sweep cancel` of a cell, at times killed on its way; somewhat later `sweep resume`."""
    cells = sorted({cell for job in world.jobs for cell in job.cells})
    cell = world.chance.choice(cells)
    done = world.run("cancel", cell, "--grace", "2", die_at=world.chance.choice((0, world.chance.randint(1, 8))))
    world.later(4.0, partial(world.start, "resume"))
    return f"{cell}, exit code {done.returncode}"


def scancel_fails(world: World) -> str | None:
    """`sweep cancel` of a cell while scancel fails as often as not; somewhat later `sweep resume`."""
    cells = sorted({cell for job in world.jobs for cell in job.cells})
    world.scancel_fails.touch()
    world.later(world.chance.uniform(2, 5), partial(world.scancel_fails.unlink, missing_ok=True))
    cell = world.chance.choice(cells)
    done = world.run("cancel", cell, "--grace", "2", who=world.next_person())
    world.later(6.0, partial(world.start, "resume"))
    return f"{cell}, exit code {done.returncode}"


def second_person(world: World) -> str | None:
    """Somebody else of the group does what the first person does otherwise."""
    if len(world.people) < 2:
        return None
    command = world.chance.choice(("tick", "submit", "cancel"))
    if command == "cancel":
        cell = world.chance.choice(sorted({cell for job in world.jobs for cell in job.cells}))
        done = world.run("cancel", cell, "--grace", "2", who=1)
        world.later(4.0, partial(world.start, "resume", who=world.chance.randint(0, 1)))
        return f"cancel {cell}, exit code {done.returncode}"
    return f"{command}, exit code {world.run(command, who=1).returncode}"


def clock_off(world: World) -> str | None:
    """A whole submission from a machine whose clock is three hours ahead or behind. The jobs' machines are right."""
    library = find_faketime()
    if not library:
        return None
    hours = world.chance.choice(("+3h", "-3h"))
    # the file server has a clock of its own, and what a process measures is not the time of day
    variables = {"LD_PRELOAD": library, "FAKETIME": hours, "NO_FAKE_STAT": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    command = world.chance.choice(("tick", "submit"))
    done = world.run(command, variables=variables, who=world.next_person())
    return f"{command} at {hours}, exit code {done.returncode}"


def find_faketime() -> str:
    """The library that shifts a process's clock; empty if it is not installed."""
    return next((str(path) for path in sorted(Path("/").glob(FAKETIME.removeprefix("/")))), "")


def torn(world: World) -> str | None:
    """The last line of a dead writer's ledger is cut in half."""
    files = [path for path in _newest_first(world) if not _is_alive(path) and path.read_bytes().strip()]
    if not files:
        return None
    path = files[0]
    content = path.read_bytes()
    last = len(content.rstrip(b"\n")) - content.rstrip(b"\n").rfind(b"\n") - 1
    os.truncate(path, len(content.rstrip(b"\n")) - max(1, last // 2))
    return path.name


def lost(world: World) -> str | None:
    """All ledgers of dead writers are deleted while jobs are queued."""
    files = [path for path in _newest_first(world) if not _is_alive(path)]
    if not files or not world.tasks("PENDING"):
        return None
    for path in files:
        path.unlink()
    return f"{len(files)} files"


def _newest_first(world: World) -> list[Path]:
    return sorted(world.ledger.glob("*.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True)


def _is_alive(ledger: Path) -> bool:
    """Whether its writer is, by the process id in the file's name."""
    stat = read_process_stat(int(ledger.stem.split("-")[-2]))
    return stat is not None and stat.alive


def sbatch_fault(name: str, world: World) -> str | None:
    """The next sbatch does what `sbatch_program` says of `name`."""
    return name if world.order(name) else None


FAULTS: dict[str, Callable[[World], str | None]] = {
    AT_A_SIDE_EFFECT: killed_at_a_side_effect,
    "kill -9 of submit or tick at any time": killed_at_any_time,
    "two submitters at once": two_at_once,
    "sweep cancel, then resume": cancelled_and_resumed,
    "scancel fails": scancel_fails,
    SECOND_PERSON: second_person,
    CLOCK_OFF: clock_off,
    "ledger torn": torn,
    LEDGERS_DELETED: lost,
    **{words: partial(sbatch_fault, name) for words, name in SBATCH_ORDERS.items()},
}
"""Each returns what it did, in words; None if there was nothing to do it to."""
