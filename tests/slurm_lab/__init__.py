"""A real Slurm cluster on one machine, for tests and for trying things out.

Several slurmd on loopback, fake GPUs, and accounting with a MariaDB of its own, all below one folder; /etc is neither
read nor written. Needs Debian's packages (see `packages`), and root only to install them. `python -m tests.slurm_lab`
drives it by hand; `tests/slurm_lab/fixtures.py` hands it to all tests that ask for it.
"""

from tests.slurm_lab.config import Accounting, Options
from tests.slurm_lab.errors import LabError
from tests.slurm_lab.lab import Lab

__all__ = ["Accounting", "Lab", "LabError", "Options"]
