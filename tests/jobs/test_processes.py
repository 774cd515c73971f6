import os
import signal
import subprocess
import sys
from pathlib import Path

from jobs.processes import (
    ATTEMPT_MARK,
    is_supervisor_alive,
    list_attempt_pids,
    read_boot_id,
    read_own_start,
    read_process_stat,
    signal_attempt,
)
from jobs.store.records import AttemptStart


def start_of(pid: int, started: float, boot: str) -> AttemptStart:
    return AttemptStart(
        attempt="a",
        key="k",
        stage="s",
        backend="local",
        host="h",
        pid=pid,
        pid_started=started,
        boot_id=boot,
        started_at=0.0,
    )


def test_a_recycled_pid_is_not_the_attempts_own() -> None:
    assert is_supervisor_alive(start_of(os.getpid(), read_own_start(), read_boot_id()))
    assert not is_supervisor_alive(start_of(os.getpid(), read_own_start() - 1, read_boot_id()))
    assert not is_supervisor_alive(start_of(os.getpid(), read_own_start(), "before"))
    assert not is_supervisor_alive(start_of(2**22 + 1, 0.0, read_boot_id()))


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    found = read_process_stat(child.pid)
    assert found is not None
    assert not found.alive
    child.wait()
    assert read_process_stat(child.pid) is None


def test_processes_of_an_attempt_are_found_by_their_mark(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"], env={ATTEMPT_MARK: str(tmp_path)})
    other = subprocess.Popen(["sleep", "60"], env={ATTEMPT_MARK: str(tmp_path / "other")})
    try:
        assert list_attempt_pids(tmp_path) == [child.pid]
        signal_attempt(start_of(child.pid, 0.0, read_boot_id()), tmp_path, signal.SIGTERM)  # no supervisor any more
        assert child.wait(10) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        for process in (child, other):
            process.kill()
            process.wait()
