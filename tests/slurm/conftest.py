"""The cluster of the tests in this folder: one a worker, started by the first test that asks for it.

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

from tests.slurm.lab import Accounting, Lab, Options
from tests.slurm.lab.clients import CLIENT_VARIABLES

WITHOUT_ACCOUNTING = Options(accounting=Accounting.NONE, nodes=2)


@pytest.fixture(scope="session")
def make_lab(worker_id: str) -> Iterator[Callable[[str, Options], Lab]]:
    """Starts another cluster, for settings that `Lab.conf` cannot give; it ends with the session at the latest."""
    with ExitStack() as cleaning:

        def make(name: str, options: Options) -> Lab:
            root = Path(tempfile.gettempdir()) / f"sw-{name}-{worker_id}-{os.getpid()}"  # sockets need a short path
            lab = Lab(root, options)
            cleaning.callback(lab.down)
            lab.up()
            return lab

        yield make


@pytest.fixture(scope="session")
def slurm(make_lab: Callable[[str, Options], Lab]) -> Lab:
    """Four nodes of eight A100, with accounting: see `tests.slurm.lab.lab.Lab`."""
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
