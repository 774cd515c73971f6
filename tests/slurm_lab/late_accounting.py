"""sacct that answers and knows nothing new, as when slurmdbd falls behind: its database refuses to be written to."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.slurm_lab.config import ACCOUNTING_DATABASE, CLUSTER
from tests.slurm_lab.errors import LabError
from tests.slurm_lab.layout import Layout
from tests.slurm_lab.packages import find_program

LOCK = f"lock tables {CLUSTER}_job_table read; select 'locked';\n"
"""A cluster's jobs, readable by all and writable by none until the connection ends."""


@contextmanager
def late_accounting(layout: Layout) -> Iterator[None]:
    """Inside, what happens to jobs reaches slurmdbd and not its tables; afterwards slurmdbd catches up by itself."""
    client = [find_program("mariadb"), "--no-defaults", f"--socket={layout.database_socket}", "--user=root"]
    options = ["--batch", "--skip-column-names", "--unbuffered", ACCOUNTING_DATABASE]
    with subprocess.Popen([*client, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as locker:
        assert locker.stdin is not None
        assert locker.stdout is not None
        locker.stdin.write(LOCK)
        locker.stdin.flush()
        if locker.stdout.readline().strip() != "locked":
            raise LabError("the table of jobs could not be locked")
        yield
