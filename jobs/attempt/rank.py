"""One rank of a job of several processes: the program that srun starts in every task.

    python -m jobs.attempt.rank PROGRAM...

Sets what torchrun would set (MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE; see
https://pytorch.org/docs/stable/elastic/run.html) from Slurm's variables, and becomes PROGRAM, so that signals reach it.
All GPUs of the node stay visible to every rank, as under torchrun: LOCAL_RANK chooses, and ranks of one node can reach
each other's memory directly.
"""

import os
import socket
import sys
from collections.abc import Sequence

from jobs.attempt.port import PORT_VARIABLE
from jobs.exit_codes import ExitCode


def main(arguments: Sequence[str]) -> int:
    """Does not return unless something is wrong."""
    program = list(arguments)
    if not program or program[0].startswith("-"):
        print("usage: srun python -m jobs.attempt.rank PROGRAM...", file=sys.stderr)
        return ExitCode.USAGE
    if "SLURM_PROCID" not in os.environ:
        print("jobs.attempt.rank: SLURM_PROCID is not set; start it with srun", file=sys.stderr)
        return ExitCode.NOT_SET_UP
    set_rendezvous()
    try:
        os.execvp(program[0], program)  # noqa: S606 - a list, and no shell
    except OSError as error:
        print(f"jobs.attempt.rank: cannot run {program[0]}: {error.strerror}", file=sys.stderr)
    return ExitCode.NOT_SET_UP


# Why: docs/decisions.md, D30
def set_rendezvous() -> None:
    """Sets the variables in this process's environment."""
    os.environ["SUBMITIT_EXECUTOR"] = "slurm"  # so submitit knows that it runs in a job
    os.environ.pop("MASTER_PORT", None)  # submitit would take it over
    from submitit.helpers import TorchDistributedEnvironment

    # submitit expands Slurm's node list. The port that it chooses by the job's id may be in use.
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    os.environ["MASTER_PORT"] = os.environ.get(PORT_VARIABLE, os.environ["MASTER_PORT"])
    os.environ["MASTER_ADDR"] = resolve_master_address(
        os.environ["MASTER_ADDR"], os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "")
    )


def resolve_master_address(name: str, address: str) -> str:
    """`name`, the first node's, if it can be resolved here; else `address`, of the node that srun was called on.

    DNS need not know Slurm's name of a node (NodeAddr, slurm.conf(5)), and our srun runs on the first node.
    """
    try:
        socket.getaddrinfo(name, None)
    except socket.gaierror:
        return address or name
    return name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
