import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.claims import submit_lock
from jobs.claims.claims import ClaimOwner, create_claim, find_newest_claim
from jobs.claims.submit_lock import hold_submit_lock
from jobs.errors import SubmitterBusyError


def test_a_submitter_has_the_sweep_to_itself(tmp_path: Path) -> None:
    with hold_submit_lock(tmp_path, wait_seconds=0) as still_mine:
        assert still_mine()
        with (
            pytest.raises(SubmitterBusyError, match=f"process {os.getpid()} on "),
            hold_submit_lock(tmp_path, wait_seconds=0),
        ):
            pass
    with hold_submit_lock(tmp_path, wait_seconds=0) as still_mine:
        assert still_mine()


def test_the_next_waits_for_the_one_before(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom jobs.claims.submit_lock import hold_submit_lock\n"
        "with hold_submit_lock(Path(sys.argv[1]), wait_seconds=0):\n    print('mine', flush=True); time.sleep(1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"mine\n"
        began = time.monotonic()
        with hold_submit_lock(tmp_path, wait_seconds=30):
            assert time.monotonic() - began > 0.5


def test_one_that_was_killed_on_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom jobs.claims.submit_lock import hold_submit_lock\n"
        "with hold_submit_lock(Path(sys.argv[1]), wait_seconds=0):\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert not find_newest_claim(tmp_path).released  # type: ignore[union-attr]
    with hold_submit_lock(tmp_path, wait_seconds=0) as still_mine:
        assert still_mine()


def test_a_silent_one_of_another_machine_is_replaced_and_notices(tmp_path: Path) -> None:
    other = create_claim(tmp_path, ClaimOwner(host="elsewhere", boot_id="other", pid=1), after=None)
    assert other
    with pytest.raises(SubmitterBusyError, match="elsewhere"), hold_submit_lock(tmp_path, wait_seconds=0):
        pass
    long_ago = time.time() - submit_lock.SILENT_SECONDS - 60
    os.utime(other.path, (long_ago, long_ago))
    with hold_submit_lock(tmp_path, wait_seconds=0):
        assert not other.is_newest()
