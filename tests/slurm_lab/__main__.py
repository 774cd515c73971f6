"""Drives a cluster by hand: `python -m tests.slurm_lab --help`.

Exit codes: 0 done, 1 an error (2 wrong usage), 3 a daemon does not run (`status`).
"""

import argparse
import getpass
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.slurm_lab.config import Accounting, Options
from tests.slurm_lab.errors import LabError
from tests.slurm_lab.lab import Lab
from tests.slurm_lab.packages import install
from tests.slurm_lab.text import status_table, welcome


def main() -> int:
    chosen = _parser().parse_args()
    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "install": _install,
        "up": _up,
        "status": _status,
        "shell": _shell,
        "down": _down,
    }
    try:
        return verbs[chosen.verb](chosen)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.slurm_lab", description="A real Slurm cluster on this machine, all below one folder."
    )
    folder = Path(f"/tmp/sweep-cluster-{getpass.getuser()}")
    parser.add_argument("--dir", type=Path, default=folder, help="a short path; default: %(default)s")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("install", help="install Debian's packages that are missing (as root); else nothing")
    up = verbs.add_parser("up", help="start the cluster, or what of it does not run")
    up.add_argument("--nodes", type=int, default=2, help="default: %(default)s")
    up.add_argument(
        "--cpus", type=int, default=0, help="a node; may exceed the machine's; default: the machine's, shared"
    )
    up.add_argument("--gpus", type=int, default=8, help="pretended A100s a node; default: %(default)s")
    up.add_argument("--accounting", type=Accounting, choices=list(Accounting), default=Accounting.SLURMDBD)
    up.add_argument("--user", action="append", default=[], help="who may submit besides you (may be repeated)")
    verbs.add_parser("status", help="daemons, pids and states of the nodes")
    verbs.add_parser("shell", help="a shell whose sbatch and squeue talk to the cluster")
    down = verbs.add_parser("down", help="end every job and daemon, and remove the folder")
    down.add_argument("--keep", action="store_true", help="leave the folder: `up` goes on with its jobs and records")
    return parser


def _install(_: argparse.Namespace) -> int:
    installed = install()
    print(f"installed: {' '.join(installed)}" if installed else "Slurm's programs are there", file=sys.stderr)
    return 0


def _up(chosen: argparse.Namespace) -> int:
    begun = time.monotonic()
    options = Options(
        nodes=chosen.nodes,
        cpus=chosen.cpus or max(1, (os.cpu_count() or 1) // chosen.nodes),
        gpus=chosen.gpus,
        accounting=chosen.accounting,
        users=tuple(chosen.user),
    )
    lab = Lab(chosen.dir, options)
    lab.up()
    seconds = time.monotonic() - begun
    end = shlex.join([Path(sys.executable).name, "-m", "tests.slurm_lab", "--dir", str(chosen.dir), "down"])
    print(welcome(lab.layout.slurm_conf, options, programs=Path(sys.executable).parent, seconds=seconds, end=end))
    return 0


def _status(chosen: argparse.Namespace) -> int:
    lab = Lab.open(chosen.dir)
    pids = {name: lab.daemons.pid(name) for name in lab.daemons.names}
    print(status_table(pids, lab.node_states() if pids["ctld"] and pids["munge"] else {}))
    return 0 if all(pids.values()) else 3


def _shell(chosen: argparse.Namespace) -> int:
    lab = Lab.open(chosen.dir)
    return subprocess.run([os.environ.get("SHELL", "/bin/sh")], env={**os.environ, **lab.env}, check=False).returncode


def _down(chosen: argparse.Namespace) -> int:
    Lab.open(chosen.dir).down(keep=chosen.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
