import signal
import sys
from pathlib import Path

import pytest

from jobs.attempt.options import parse_options
from jobs.attempt.stage_process import build_stage_command, build_stage_environment, convert_srun_exit
from jobs.claims.takeover import Ownership
from jobs.store.paths import RunPaths

RUN = RunPaths(Path("/store/runs/pretrain/only"))
PLACE = ["--store", "/store", "--sweep", "toy", "--key", "only", "--attempt", "a"]


@pytest.mark.parametrize(
    ("asked", "tasks", "cpus"),
    [
        (["--nodes=2", "--gpus=16", "--cpus=128"], (16, 8), 8),
        (["--nodes=1", "--gpus=4", "--cpus=30"], (4, 4), 7),
        (["--nodes=3", "--cpus=6"], (3, 1), 2),
        (["--nodes=2", "--gpus=8", "--cpus=2"], (8, 4), 1),
    ],
    ids=["2 nodes of 8 GPUs", "4 GPUs", "3 nodes", "fewer cores than GPUs"],
)
def test_several_processes_are_started_by_srun_with_everything_said(
    asked: list[str], tasks: tuple[int, int], cpus: int
) -> None:
    options = parse_options([*PLACE, "--backend=slurm", *asked, "--", "python3", "-m", "stages"])
    assert build_stage_command(options, RUN) == [
        *("srun", "--export=ALL", f"--nodes={options.nodes}", f"--ntasks={tasks[0]}"),
        *(f"--ntasks-per-node={tasks[1]}", f"--cpus-per-task={cpus}", "--cpu-bind=none"),
        *(["--overcommit"] if "--cpus=2" in asked else []),
        *("--kill-on-bad-exit=0", "--wait=60", sys.executable, "-m", "jobs.attempt.rank"),
        *("python3", "-m", "stages", "/store/runs/pretrain/only/job.json"),
    ]


@pytest.mark.parametrize("asked", [["--backend=slurm", "--gpus=1", "--cpus=8"], ["--gpus=4"]], ids=["slurm", "local"])
def test_one_process_is_started_as_it_is(asked: list[str]) -> None:
    options = parse_options([*PLACE, *asked, "--", "python3", "-m", "stages"])
    assert build_stage_command(options, RUN) == ["python3", "-m", "stages", "/store/runs/pretrain/only/job.json"]


def test_threads_are_the_cores_of_a_process_and_unasked_gpus_are_hidden() -> None:
    attempt, own = RUN.locate_attempt("a"), Ownership(None)
    parse = parse_options
    without = parse([*PLACE, "--backend=slurm", "--cpus=6", "--", "x"])
    assert build_stage_environment(without, attempt, own, {}) == {
        "SWEEP_ATTEMPT": str(attempt.root),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "6",
        "CUDA_VISIBLE_DEVICES": "",
    }
    given = {"CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "2"}
    with_gpus = parse([*PLACE, "--backend=slurm", "--cpus=6", "--gpus=2", "--", "x"])
    assert given.items() <= build_stage_environment(with_gpus, attempt, own, given).items()
    local = parse([*PLACE, "--", "x"])
    assert "OMP_NUM_THREADS" not in build_stage_environment(local, attempt, own, {})


@pytest.mark.parametrize(("of_srun", "meaning"), [(0, 0), (75, 75), (128, 128), (140, -signal.SIGUSR2), (137, -9)])
def test_a_rank_that_a_signal_killed_is_told_as_one_process_would_be(of_srun: int, meaning: int) -> None:
    assert convert_srun_exit(of_srun) == meaning
