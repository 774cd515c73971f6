"""A real Slurm cluster on one machine, for tests and for trying things out.

Several slurmd on loopback, fake GPUs, and accounting with a MariaDB of its own, all below one folder; /etc is neither
read nor written. Needs Debian's packages (see `packages`), and root only to install them. `python -m tests.slurm.lab`
drives it by hand; `tests/slurm/conftest.py` hands it to tests.
"""

from tests.slurm.lab.config import Accounting, Options
from tests.slurm.lab.errors import LabError
from tests.slurm.lab.lab import Lab

__all__ = ["Accounting", "Lab", "LabError", "Options"]
