"""Which variables of a shell enter a job."""

import pytest

from jobs.environment import (
    clean_python_path,
    list_launcher_variables,
    list_named_variables,
    remove_launcher_variables,
    select_job_variables,
)
from jobs.local.attempts import build_attempt_environment
from jobs.local.slots import Allocation
from jobs.slurm.commands import build_submit_environment

LAUNCHERS = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
    "TORCHELASTIC_RUN_ID", "PMI_RANK", "PMI_FD", "PMIX_NAMESPACE", "PMI2_RANK", "OMPI_COMM_WORLD_RANK",
    "MPI_LOCALRANKID", "I_MPI_HYDRA_ENV", "MV2_COMM_WORLD_RANK", "NCCL_COMM_ID",
    "WANDB_SERVICE", "WANDB__SERVICE_WAIT", "WANDB_RUN_ID", "WANDB_SWEEP_ID",
)  # fmt: skip


@pytest.mark.parametrize("name", LAUNCHERS)
def test_what_a_launcher_sets_enters_no_job(name: str) -> None:
    assert select_job_variables({name: "1"}, same_machine=True) == {}
    assert remove_launcher_variables({name: "1", "CHOSEN": "yes"}) == {"CHOSEN": "yes"}
    assert list_launcher_variables({name: "1", "HOME": "/"}) == [name]


PASSING = (
    "HOME", "PATH", "LD_LIBRARY_PATH", "LC_CTYPE", "BASH_FUNC_module%%", "LMOD_CMD", "LOADEDMODULES", "CONDA_PREFIX",
    "NCCL_SOCKET_IFNAME", "TORCH_HOME", "HF_HOME", "WANDB_PROJECT", "AWS_PROFILE", "https_proxy", "NO_PROXY",
    "SWEEP_TAKEOVER_SECONDS", "STAGE_LOG_STEPS", "CUDA_HOME",
    "PYTHONNOUSERSITE", "PYTHONUSERBASE", "CUDA_DEVICE_ORDER", "CUDA_CACHE_PATH", "WANDB_API_KEY", "SSL_CERT_FILE",
)  # fmt: skip
STAYING = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_PROCID", "DISPLAY", "PWD",
    "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK", "LD_PRELOAD", "PYTHONSTARTUP", "PYTHONHOME", "SWEEP_ATTEMPT", "SWEEP_FENCE",
)  # fmt: skip


def test_the_rest_is_a_list_too() -> None:
    shell = dict.fromkeys((*PASSING, *STAYING), "/x")
    assert select_job_variables(shell, same_machine=False) == dict.fromkeys(PASSING, "/x")
    sent = build_submit_environment({**shell, "SLURM_CONF": "/etc/slurm.conf", "TMPDIR": "/tmp/mine"})
    assert sent == {**dict.fromkeys(PASSING, "/x"), "SLURM_CONF": "/etc/slurm.conf", "LC_ALL": "C.UTF-8"}


def test_on_one_machine_the_same_list_holds_and_no_module_comes_from_the_current_folder() -> None:
    shell = {**dict.fromkeys((*PASSING, *STAYING), "/x"), "TMPDIR": "/tmp/mine", "PYTHONPATH": ":here:/mine"}
    made = build_attempt_environment(Allocation(3, ("1", "2")), shell)
    path = made.pop("PYTHONPATH").split(":")
    assert path[-1] == "/mine"
    assert all(entry.startswith("/") for entry in path)
    assert made == {
        **dict.fromkeys(PASSING, "/x"),
        "TMPDIR": "/tmp/mine",
        "PYTHONSAFEPATH": "1",
        "CUDA_VISIBLE_DEVICES": "1,2",
        "OMP_NUM_THREADS": "3",
    }


@pytest.mark.parametrize(("given", "kept"), [("", ""), (":", ""), (".:/a::b:/c:", "/a:/c"), ("/a", "/a"), ("../x", "")])
def test_a_python_path_keeps_its_absolute_folders(given: str, kept: str) -> None:
    assert clean_python_path(given) == kept


def test_a_variable_that_the_plan_names_passes_and_its_value_is_in_no_file() -> None:
    settings: list[dict[str, object]] = [
        {"engine": {"environment_from": ["MY_SECRET"]}},
        {},
        {"engine": {"python": "/bin/sh"}},
    ]
    named = list_named_variables(settings)
    assert named == {"MY_SECRET"}
    given = {"MY_SECRET": "x"}
    shell = {**given, "OTHER": "y"}
    assert select_job_variables(shell, same_machine=True, named=named) == given
    assert given.items() <= build_submit_environment(shell, named).items()
    assert given.items() <= build_attempt_environment(Allocation(1), shell, named).items()
    assert "MY_SECRET" not in build_submit_environment(shell)
