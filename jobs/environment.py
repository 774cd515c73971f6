"""Which variables enter a job: a list, the same on one machine and on a cluster. Pure.

A job does not depend on the shell that happened to submit it. What a launcher, a scheduler or another job of ours has
left there would make a job wait for peers that do not exist, or meet them on a port that is in use. So a variable of
the submitting shell passes only if it is listed here. What a sweep file's `setup` exports on the node passes, except
for what launchers set for each process.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping

PASSED = re.compile(
    "|".join(
        (
            # who runs it, where programs and libraries are
            "HOME|USER|LOGNAME|SHELL|PATH|LD_LIBRARY_PATH|LANG|LANGUAGE|LC_.*|TZ|KRB5CCNAME",
            # where Python finds packages: without PYTHONNOUSERSITE, those of ~/.local come before an environment's
            "PYTHONPATH|PYTHONNOUSERSITE|PYTHONUSERBASE",
            "XDG_(CACHE|CONFIG|DATA)_HOME",
            # environment modules and package managers, with the shell functions that they define
            "BASH_ENV|BASH_FUNC_.*|_*(MODULE|LMOD|ModuleTable|LMFILES).*|LOADEDMODULES|EBROOT.*|EBVERSION.*|SPACK_.*",
            "VIRTUAL_ENV|_?CONDA_.*|MAMBA_.*|PYENV_.*|UV_.*|NIX_.*|(APPTAINER|SINGULARITY)(ENV)?_.*",
            # compilers, and where they find what they compile against: torch.compile uses them
            "CC|CXX|CPATH|(C|CPLUS)_INCLUDE_PATH|LIBRARY_PATH|CUDA_(HOME|PATH|ROOT|DIR|CACHE_.*)|CUDNN_.*|ROCM_(HOME|PATH)",
            # what the numbers of GPUs mean, of which CUDA_VISIBLE_DEVICES consists
            "CUDA_DEVICE_ORDER",
            # how processes reach one another on this cluster, and torch's own switches
            "(NCCL|GLOO|UCX|FI|RDMAV|IBV)_.*|(TORCH|PYTORCH|TORCHINDUCTOR|TRITON)_.*",
            # data, hubs, trackers, the way to them
            "(HF|HUGGINGFACE|TRANSFORMERS|TOKENIZERS|WANDB|AWS|S3|GOOGLE|GCS|AZURE|FSSPEC)_.*|BOTO_CONFIG",
            "((HTTP|HTTPS|FTP|ALL|NO)_PROXY)|((http|https|ftp|all|no)_proxy)|SSL_CERT_(FILE|DIR)",
            "REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE",
            # ours, and what measures our tests
            "SWEEP_.*|STAGE_.*|COVERAGE_.*",
        )
    )
)
"""Names that pass from the submitting shell."""

LAUNCHERS = re.compile(
    "|".join(
        (
            # torchrun, and whoever sets the same names
            "RANK|LOCAL_RANK|GROUP_RANK|ROLE_RANK|NODE_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|GROUP_WORLD_SIZE",
            "ROLE_WORLD_SIZE|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_.*|TORCH_ELASTIC_.*|PET_.*",
            # MPI's launchers
            "(PMI|PMIX|PMI2|OMPI|PRTE|ORTE|HYDRA|HYDI|MPIR|MV2|I_MPI|PALS|ALPS|JSM)_.*|MPI_(?!(HOME|ROOT|DIR)$).*",
            # the meeting point and the identity of one set of processes
            "NCCL_(COMM_ID|HOSTID)|TORCH_NCCL_RANKS_PER_ROOT|GLOO_RENDEZVOUS.*",
            # likewise of a tracker: its server on one machine, and the one run that a process writes
            "WANDB__?SERVICE.*|WANDB_(RUN_ID|SWEEP_ID|SWEEP_PARAM_PATH)",
        )
    )
)
"""What launchers set for each process that they start. It enters no job, whoever set it."""

OF_AN_ATTEMPT = frozenset({"SWEEP_ATTEMPT", "SWEEP_FENCE", "SWEEP_MASTER_PORT"})
"""What an attempt gives its own stage: another sweep may be submitted from inside a job."""

NAMED_FIELD = "environment_from"
"""Of the engine in a job's settings: variables that the submitting shell is to have."""

LOCAL_ONLY = frozenset({"TMPDIR"})
"""Right on the machine that they were set on, and a folder that does not exist on another one."""


# Why: docs/decisions.md, D126
def select_job_variables(
    shell: Mapping[str, str], *, same_machine: bool, named: Collection[str] = ()
) -> dict[str, str]:
    """The variables of a submitting shell that its jobs get. `named`: those that the plan asks for by name."""
    kept = {
        name: value
        for name, value in shell.items()
        if (PASSED.fullmatch(name) or name in named or (same_machine and name in LOCAL_ONLY))
        and name not in OF_AN_ATTEMPT
    }
    return remove_launcher_variables(kept)


# Why: docs/decisions.md, D167
def list_named_variables(settings: Iterable[Mapping[str, object]]) -> set[str]:
    """Names of the variables that jobs take over from the shell that submits, of their settings."""
    engines = (each.get("engine") for each in settings)
    named = (engine.get(NAMED_FIELD) for engine in engines if isinstance(engine, Mapping))
    return {str(name) for names in named if isinstance(names, list | tuple) for name in names}


def remove_launcher_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without what launchers set, and with a PYTHONPATH of absolute folders alone."""
    kept = {name: value for name, value in environment.items() if not LAUNCHERS.fullmatch(name)}
    path = clean_python_path(kept.pop("PYTHONPATH", ""))
    return kept | ({"PYTHONPATH": path} if path else {})


def list_launcher_variables(environment: Mapping[str, str]) -> list[str]:
    """Names in `environment` that no job gets."""
    return sorted(name for name in environment if LAUNCHERS.fullmatch(name))


# Why: docs/decisions.md, D166
def build_child_environment(environment: Mapping[str, str], code: str = "") -> dict[str, str]:
    """What a Python program of ours gets: `environment`, without any way to import from the current folder.

    `code`: a folder or archive to import from before all others; empty: Python finds our packages without being told.
    """
    path = os.pathsep.join(filter(None, [code, clean_python_path(environment.get("PYTHONPATH", ""))]))
    kept = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    return {**kept, **({"PYTHONPATH": path} if path else {}), "PYTHONSAFEPATH": "1"}


def clean_python_path(given: str) -> str:
    """Without relative entries; an empty one means the current folder, wherever a job happens to run."""
    return os.pathsep.join(entry for entry in given.split(os.pathsep) if entry.startswith("/"))
