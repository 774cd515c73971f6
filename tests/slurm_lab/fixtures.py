"""The cluster of the tests: one a worker, started by the first test that asks for it.

A test takes `slurm` as an argument and finds no jobs, all daemons up and all nodes idle, whatever the test before did,
with the variables set by which Slurm's programs find this cluster. Job numbers and sacct's records of earlier tests
remain: tell jobs apart by names of the test's own. What a test changes with sacctmgr it puts back itself.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.slurm_lab import Accounting, Lab, Options
from tests.slurm_lab.clients import CLIENT_VARIABLES
from tests.slurm_lab.processes import alive

ROOTS = Path(tempfile.gettempdir())
"""Not pytest's own folder: the path of a unix socket has 107 characters at most."""
WITHOUT_ACCOUNTING = Options(accounting=Accounting.NONE, nodes=2)


@pytest.fixture(scope="session")
def make_lab(worker_id: str) -> Iterator[Callable[[str, Options], Lab]]:
    """Starts another cluster, for settings that `Lab.conf` cannot give; it ends with the session at the latest."""
    clear_abandoned()
    with ExitStack() as cleaning:

        def make(name: str, options: Options) -> Lab:
            lab = Lab(ROOTS / f"sw-test-{name}-{worker_id}-{os.getpid()}", options)
            cleaning.callback(lab.down)
            lab.up()
            return lab

        yield make


def clear_abandoned() -> None:
    """Ends this user's clusters whose test process is gone: a session that was killed could not."""
    for root in ROOTS.glob("sw-test-*-*-*"):
        pid = root.name.rpartition("-")[2]
        if root.is_dir() and root.stat().st_uid == os.geteuid() and pid.isdigit() and not alive(int(pid)):
            Lab(root).down()


@pytest.fixture(scope="session")
def slurm(make_lab: Callable[[str, Options], Lab]) -> Lab:
    """Four nodes of eight A100, with accounting: see `tests.slurm_lab.lab.Lab`."""
    return make_lab("lab", Options())


@pytest.fixture(scope="session")
def slurm_without_accounting(make_lab: Callable[[str, Options], Lab]) -> Lab:
    """Two nodes, and no sacct, no QOS and no limits of users."""
    return make_lab("bare", WITHOUT_ACCOUNTING)


@pytest.fixture(autouse=True)
def _fresh_cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resets the cluster that the test asks for and points Slurm's programs to it, in this process and below it."""
    for name in [name for name in os.environ if name.startswith(CLIENT_VARIABLES)]:
        monkeypatch.delenv(name)
    for name in ("slurm", "slurm_without_accounting"):
        if name in request.fixturenames:
            lab: Lab = request.getfixturevalue(name)
            lab.reset()
            for variable, value in lab.env.items():
                monkeypatch.setenv(variable, value)
