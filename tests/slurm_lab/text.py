"""What the command line says about a cluster: pure text."""

from collections.abc import Mapping
from pathlib import Path

from tests.slurm_lab.config import Options


def welcome(slurm_conf: Path, options: Options, *, programs: Path, seconds: float, end: str) -> str:
    """How to use the cluster that has just come up, as lines for a shell; `programs` is the folder of `sweep`, `end`
    the command that ends this cluster and no other."""
    size = f"{options.nodes} nodes of {options.cpus} CPU and {options.gpus} pretended {options.gpu_type.upper()}"
    return f"""\
# A Slurm cluster runs on this machine, {size} (up in {seconds:.1f} s). Tell your shell:
export SLURM_CONF={slurm_conf}
export PATH={programs}:$PATH

# then, for example:
sinfo
sweep data demo
sweep plan manifests/demo.yaml
sweep submit demo --backend slurm
sweep status demo
squeue

# and in the end:
{end}"""


def status_table(pids: Mapping[str, int | None], nodes: Mapping[str, str]) -> str:
    """One line a daemon: name, pid or `-`, and the state of a node."""
    return "\n".join(f"{name:6} {pid or '-':>8}  {nodes.get(name, '')}".rstrip() for name, pid in pids.items())
