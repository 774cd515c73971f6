"""Running Slurm's programs against one cluster, and nothing but that one."""

import os
import subprocess
from dataclasses import dataclass

from tests.slurm_lab.errors import LabError
from tests.slurm_lab.layout import Layout

CLIENT_VARIABLES = ("SLURM_", "SBATCH_", "SALLOC_", "SRUN_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_", "SCONTROL_")
"""Beginnings of the variables that change what Slurm's programs do."""


@dataclass(frozen=True, slots=True)
class Clients:
    """Slurm's programs as one cluster's user runs them."""

    layout: Layout

    @property
    def env(self) -> dict[str, str]:
        """All that Slurm's programs need to find this cluster."""
        return {"SLURM_CONF": str(self.layout.slurm_conf)}

    def run(self, *argv: str, seconds: float = 60, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a program, mostly one of Slurm's, with its output kept apart. The exit code is the caller's business."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(CLIENT_VARIABLES)}
        return subprocess.run(
            argv, env=kept | self.env, input=stdin, capture_output=True, text=True, check=False, timeout=seconds
        )

    def output(self, *argv: str) -> str:
        """Like `run`, for what must succeed: stdout without the last line's end; LabError with stderr if it fails."""
        done = self.run(*argv)
        if done.returncode:
            raise LabError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout.rstrip("\n")
