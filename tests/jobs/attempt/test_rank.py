"""The program that srun starts in every task."""

import json
import os
import subprocess
import sys

import pytest

from jobs.attempt.rank import main, resolve_master_address
from tests.jobs import toy

SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"


def rank(*program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "MASTER_"))}
    return subprocess.run(
        [sys.executable, "-m", "jobs.attempt.rank", *program],
        cwd=toy.ROOT,
        env=bare | variables,
        capture_output=True,
        text=True,
        check=False,
    )


STEP = {
    "SLURM_JOB_ID": "912",
    "SLURM_ARRAY_JOB_ID": "900",
    "SLURM_ARRAY_TASK_ID": "4",
    "SLURM_NTASKS": "16",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NODEID": "1",
    "SLURM_JOB_NODELIST": "gpu-[007,009]",
    "SLURM_PROCID": "11",
    "SLURM_LOCALID": "3",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
}


def test_a_rank_finds_what_torchrun_would_have_set() -> None:
    done = rank(sys.executable, "-S", "-c", SHOW, "job.json", **STEP, MASTER_ADDR="stale", RANK="5")
    assert done.returncode == 0
    arguments, seen = json.loads(done.stdout)
    assert arguments == ["job.json"]
    assert {name: seen[name] for name in ("MASTER_ADDR", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")} == {
        "MASTER_ADDR": "gpu-007",
        "RANK": "11",
        "WORLD_SIZE": "16",
        "LOCAL_RANK": "3",
        "LOCAL_WORLD_SIZE": "8",
    }
    assert seen["CUDA_VISIBLE_DEVICES"] == "0,1,2,3,4,5,6,7"


def test_all_ranks_of_a_job_agree_on_the_port_and_two_jobs_do_not() -> None:
    def port(**variables: str) -> int:
        done = rank(sys.executable, "-S", "-c", SHOW, **{**STEP, **variables})
        return int(json.loads(done.stdout)[1]["MASTER_PORT"])

    assert port() == port(SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0")
    assert port() != port(SLURM_ARRAY_TASK_ID="5")
    assert 1024 < port() < 65536


def test_it_becomes_the_program_and_passes_its_end_on() -> None:
    assert rank(sys.executable, "-S", "-c", "raise SystemExit(75)", **STEP).returncode == 75


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_program_it_says_how_it_is_used(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_outside_srun_and_without_such_a_program_it_says_so() -> None:
    alone = rank("true")
    assert (alone.returncode, alone.stderr.count("\n")) == (78, 1)
    assert "srun" in alone.stderr
    missing = rank("/no/such/program", **STEP)
    assert missing.returncode == 78
    assert "cannot run /no/such/program" in missing.stderr


def test_a_node_whose_name_cannot_be_looked_up_is_reached_by_its_address() -> None:
    assert resolve_master_address("localhost", "192.0.2.7") == "localhost"
    assert resolve_master_address("no-such-node.invalid", "192.0.2.7") == "192.0.2.7"
    assert resolve_master_address("no-such-node.invalid", "") == "no-such-node.invalid"
    seen = json.loads(
        rank(sys.executable, "-S", "-c", SHOW, **{**STEP, "SLURM_LAUNCH_NODE_IPADDR": "192.0.2.7"}).stdout
    )
    assert seen[1]["MASTER_ADDR"] == "192.0.2.7"
