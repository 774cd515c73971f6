import os
import subprocess
from pathlib import Path

from jobs.store.flock import acquire_lock, is_held


def test_a_lock_has_one_holder_and_probing_does_not_take_it(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    assert not is_held(path)
    lock = acquire_lock(path)
    assert lock is not None
    assert is_held(path)
    assert acquire_lock(path) is None
    os.close(lock)
    assert not is_held(path)
    again = acquire_lock(path, wait_seconds=0.05)
    assert again is not None
    os.close(again)


def test_an_inherited_lock_outlives_the_process_that_took_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = acquire_lock(path)
    assert lock is not None
    child = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    os.close(lock)
    assert is_held(path)
    child.kill()
    child.wait()
    assert not is_held(path)
