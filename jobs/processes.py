"""Processes as Linux shows them in /proc: which live, which belong to an attempt, and how to end them."""

import contextlib
import os
import pwd
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.store.records import AttemptStart

ATTEMPT_MARK = "SWEEP_ATTEMPT"
"""Environment variable of all processes of an attempt: the attempt's folder."""


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """The fields of /proc/PID/stat that identify a process."""

    pid: int
    state: str
    started: float
    """Clock ticks after boot."""

    @property
    def alive(self) -> bool:
        # A zombie does nothing any more: it only waits for its parent to read its exit code.
        return self.state not in "ZX"


def read_process_stat(pid: int) -> ProcessStat | None:
    """None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name stands in parentheses and may hold spaces
    return ProcessStat(pid=pid, state=fields[0], started=float(fields[19]))


def read_boot_id() -> str:
    """Differs after every boot; the same in all containers of one machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_user_name() -> str:
    """Name of the effective user; its number where the system has no name for it. Never what USER or LOGNAME say."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def read_own_start() -> float:
    """Clock ticks after boot at which this process began."""
    stat = read_process_stat(os.getpid())
    return stat.started if stat else 0.0


def is_supervisor_alive(start: AttemptStart) -> bool:
    """Whether the process that wrote `start` still runs on this machine. A recycled pid does not count."""
    if start.boot_id != read_boot_id():
        return False
    stat = read_process_stat(start.pid)
    return stat is not None and stat.alive and stat.started == start.pid_started


def list_attempt_pids(attempt_root: Path) -> list[int]:
    """Pids of the live processes that an attempt's supervisor started, found by the mark in their environment."""
    mark = f"{ATTEMPT_MARK}={attempt_root}".encode()
    return [pid for pid in _pids() if _is_marked(pid, mark)]


def signal_attempt(start: AttemptStart, attempt_root: Path, number: signal.Signals) -> None:
    """Sends a signal to the supervisor, which passes it on, or to the stage's processes if the supervisor is gone."""
    if is_supervisor_alive(start):
        _send(start.pid, number)
        return
    for pid in list_attempt_pids(attempt_root):
        _send(pid, number)


def kill_attempt_processes(attempt_root: Path) -> None:
    """Sends SIGKILL to the stage's processes. The supervisor lives on and records the end."""
    for pid in list_attempt_pids(attempt_root):
        _send(pid, signal.SIGKILL)


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _is_marked(pid: int, mark: bytes) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has ended meanwhile, or is another user's
        return False
    if mark not in environment.split(b"\0") or pid == os.getpid():
        return False
    stat = read_process_stat(pid)
    return stat is not None and stat.alive


def _send(pid: int, number: signal.Signals) -> None:
    # A process of another user cannot be signalled: the caller sees that it lives on.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
