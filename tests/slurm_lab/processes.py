"""Which processes belong to a cluster, and how to end them: never by name, always by a mark of the cluster's own."""

import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jobs.processes import read_process_stat
from tests.slurm_lab.errors import LabError
from tests.slurm_lab.layout import Layout

MARK = "SWEEP_LAB"
"""Environment variable of every daemon: the root of its cluster."""


BUSY = 4
"""How many times longer everything may take on a machine that does other work beside."""


def wait_for(what: str, happened: Callable[[], object], *, seconds: float = 30, every: float = 0.02) -> None:
    """Returns as soon as `happened()` is true; LabError when that takes longer than BUSY times the usual `seconds`."""
    deadline = time.monotonic() + BUSY * seconds
    while not happened():
        if time.monotonic() > deadline:
            raise LabError(f"waited {BUSY * seconds:g} s in vain for {what}")
        time.sleep(every)


def alive(pid: int) -> bool:
    """A zombie is not: init may take its time to reap."""
    stat = read_process_stat(pid)
    return stat is not None and stat.alive


def daemon_pid(layout: Layout, daemon: str, command: Sequence[str]) -> int | None:
    """The pid in the daemon's pid file, if that very daemon lives: a recycled pid lacks the mark.

    Else that of a marked process with the daemon's command: from 24.11 on, `scontrol reconfigure` gives the daemons new
    pids, and for a moment the file names the old one, or is removed by it.
    """
    try:
        pid = int(layout.pid_file(daemon).read_text())
    except (FileNotFoundError, ValueError):  # not yet started, or not yet written
        pid = 0
    if pid and _is_daemon(layout, pid):
        return pid
    return next((pid for pid in _pids() if _arguments(pid) == command and _is_daemon(layout, pid)), None)


def _is_daemon(layout: Layout, pid: int) -> bool:
    return alive(pid) and _mark(layout) in environment(pid)


def environment(pid: int) -> list[bytes]:
    """The variables that a process was started with, as KEY=VALUE; empty if it ended or is another user's."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def job_processes(layout: Layout) -> list[int]:
    """Live pids of the jobs' processes, also of those whose slurmd or step daemon was killed.

    Known by SLURM_JOB_ID together with this cluster's SLURM_CONF, or by descent from such a process.
    """
    conf = f"SLURM_CONF={layout.slurm_conf}".encode()

    def is_job(pid: int) -> bool:
        variables = environment(pid)
        return conf in variables and any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)

    return _families(is_job)


def step_daemons(layout: Layout) -> list[int]:
    """Live pids of the slurmstepd of this cluster, which look after the jobs' processes and outlive their slurmd."""
    return [pid for pid in _pids() if _name(pid).startswith("slurmstepd") and _is_of(layout, pid) and alive(pid)]


def all_processes(layout: Layout) -> list[int]:
    """Live pids of everything that the cluster has started: daemons, step daemons, jobs."""
    return sorted({*_families(lambda pid: _is_of(layout, pid)), *job_processes(layout)})


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """A process that has just ended is no error."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _families(chosen: Callable[[int], bool]) -> list[int]:
    """Live pids of the chosen processes, and of all below them."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    found: list[int] = []
    for pid in _pids():
        children[_parent(pid)].append(pid)
        if chosen(pid):
            found.append(pid)
    members: set[int] = set()
    while found:
        pid = found.pop()
        if pid not in members:
            members.add(pid)
            found += children[pid]
    return sorted(pid for pid in members if alive(pid))


def _is_of(layout: Layout, pid: int) -> bool:
    """Whether it has the cluster's mark, or works in the cluster's folder: slurmstepd of 24.11 blanks its environment,
    and only daemons work there."""
    if _mark(layout) in environment(pid):
        return True
    try:
        folder = Path(f"/proc/{pid}/cwd").readlink()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return folder.is_relative_to(layout.root) and _name(pid).startswith("slurmstepd")


def _mark(layout: Layout) -> bytes:
    return f"{MARK}={layout.root}".encode()


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _parent(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text.rpartition(")")[2].split()[1])
