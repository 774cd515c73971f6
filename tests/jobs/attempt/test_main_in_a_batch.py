"""An attempt as a batch script starts it: parents, records, stops, the stage's command and environment."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from jobs.attempt.options import build_parser
from jobs.attempt.stage_process import signal_as_negative, stage_command, stage_environment
from jobs.claims.takeover import Ownership
from jobs.store.flock import acquire
from jobs.store.paths import RunPaths, Store
from jobs.store.records import AttemptStart, FailureClass
from tests.jobs import toy
from tests.jobs.attempt.slurm_attempts import (
    BATCH,
    end_of,
    files_below,
    finish,
    paths_of,
    planned,
    saved_steps,
    start,
    wait_until,
)


def test_an_attempt_records_where_slurm_ran_it_and_which_code(store: Store) -> None:
    run = planned(store)
    assert finish(start(store, restart=2, SLURMD_NODENAME="n3")) == (0, "")
    record = AttemptStart.read(paths_of(run, 2).start)
    assert record is not None
    assert (record.backend, record.job_id, record.batch, record.restart) == ("slurm", "7_0", BATCH, 2)
    assert record.node == "n3"
    assert json.loads(run.job.read_text())["code"]["revision"] == "r1"


def test_a_child_of_an_unfinished_parent_leaves_nothing_behind(store: Store) -> None:
    parent, child = toy.toy_job("parent", phase="trunk"), toy.toy_job("child", "parent")
    toy.plan(store, [parent, child], backend="slurm")
    before = files_below(store.root)
    code, said = finish(start(store, key="child"))
    assert (code, said.count("\n")) == (77, 1)
    assert "parent parent has no result" in said
    assert files_below(store.root) == before
    assert finish(start(store, key="parent", job_id="6_0"))[0] == 0
    assert finish(start(store, key="child"))[0] == 0


def test_a_finished_job_is_left_as_it_is(store: Store) -> None:
    run = planned(store)
    assert finish(start(store))[0] == 0
    before = files_below(run.root)
    assert finish(start(store, job_id="8_0"))[0] == 0
    assert files_below(run.root) == before


def test_a_local_attempt_that_lives_is_left_alone(store: Store) -> None:
    run = planned(store)
    lock = acquire(run.lock)
    assert lock is not None
    try:
        assert finish(start(store))[0] == 76
    finally:
        os.close(lock)
    assert not run.attempts.exists()
    assert finish(start(store))[0] == 0


@pytest.mark.parametrize(
    ("number", "failure"),
    [(signal.SIGUSR2, FailureClass.WALL_CLOCK), (signal.SIGTERM, FailureClass.PREEMPTED)],
    ids=["time limit", "preemption"],
)
def test_a_stop_is_recorded_by_its_signal(store: Store, number: signal.Signals, failure: FailureClass) -> None:
    run = planned(store, steps=1_000, step_seconds=0.02)
    process = start(store)
    wait_until(lambda: saved_steps(run) > 1)
    process.send_signal(number)
    code, said = finish(process)
    end = end_of(run)
    assert code == 75
    assert (end.failure, end.stop_signal, end.returncode) == (failure, number.name, 75)
    assert end.checkpoint_step == saved_steps(run)
    # of the two only a time limit is followed by a requeue of our own, here without a Slurm to ask
    assert ("scontrol requeue 7_0: " in said) == (number is signal.SIGUSR2)
    assert said.count("\n") == (number is signal.SIGUSR2)


def test_a_wrong_takeover_time_is_told(store: Store) -> None:
    run = planned(store)
    for wrong in ("soon", "-1", "inf"):
        code, said = finish(start(store, SWEEP_TAKEOVER_SECONDS=wrong))
        assert code == 78
        assert "SWEEP_TAKEOVER_SECONDS" in said
    assert not run.root.exists()


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
    options = build_parser().parse_args([*PLACE, "--backend=slurm", *asked, "--", "python3", "-m", "stages"])
    assert stage_command(options, RUN) == [
        *("srun", "--export=ALL", f"--nodes={options.nodes}", f"--ntasks={tasks[0]}"),
        *(f"--ntasks-per-node={tasks[1]}", f"--cpus-per-task={cpus}", "--cpu-bind=none"),
        *(["--overcommit"] if "--cpus=2" in asked else []),
        *("--kill-on-bad-exit=0", "--wait=60", sys.executable, "-m", "jobs.attempt.rank"),
        *("python3", "-m", "stages", "/store/runs/pretrain/only/job.json"),
    ]


@pytest.mark.parametrize("asked", [["--backend=slurm", "--gpus=1", "--cpus=8"], ["--gpus=4"]], ids=["slurm", "local"])
def test_one_process_is_started_as_it_is(asked: list[str]) -> None:
    options = build_parser().parse_args([*PLACE, *asked, "--", "python3", "-m", "stages"])
    assert stage_command(options, RUN) == ["python3", "-m", "stages", "/store/runs/pretrain/only/job.json"]


def test_threads_are_the_cores_of_a_process_and_unasked_gpus_are_hidden() -> None:
    attempt, own = RUN.attempt("a"), Ownership(None)
    parse = build_parser().parse_args
    without = parse([*PLACE, "--backend=slurm", "--cpus=6", "--", "x"])
    assert stage_environment(without, attempt, own, {}) == {
        "SWEEP_ATTEMPT": str(attempt.root),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "6",
        "CUDA_VISIBLE_DEVICES": "",
    }
    given = {"CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "2"}
    with_gpus = parse([*PLACE, "--backend=slurm", "--cpus=6", "--gpus=2", "--", "x"])
    assert given.items() <= stage_environment(with_gpus, attempt, own, given).items()
    local = parse([*PLACE, "--", "x"])
    assert "OMP_NUM_THREADS" not in stage_environment(local, attempt, own, {})


@pytest.mark.parametrize(("of_srun", "meaning"), [(0, 0), (75, 75), (128, 128), (140, -signal.SIGUSR2), (137, -9)])
def test_a_rank_that_a_signal_killed_is_told_as_one_process_would_be(of_srun: int, meaning: int) -> None:
    assert signal_as_negative(of_srun) == meaning
