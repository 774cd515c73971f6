"""One attempt as every cluster starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.attempt.__main__ import main
from jobs.exit_codes import ExitCode
from jobs.store.flock import acquire_lock, is_held
from jobs.store.paths import RunPaths, Store
from jobs.store.records import AttemptExit, AttemptStart, FailureClass, read_record
from jobs.store.results import check_result
from tests.jobs import toy


def arguments(store: Store, key: str, attempt: str, *program: str) -> list[str]:
    place = ["--store", str(store.root), "--sweep", toy.SWEEP, "--key", key, "--attempt", attempt]
    return [*place, "--cpus", "2", "--", *(program or toy.COUNTING_STAGE)]


def attempt(store: Store, key: str, name: str = "local-0001", *program: str) -> int:
    """In a process of its own: it installs signal handlers and keeps its lock until it ends."""
    command = [sys.executable, "-m", "jobs.attempt", *arguments(store, key, name, *program)]
    return subprocess.run(command, cwd=toy.ROOT, capture_output=True, check=False).returncode


def only(store: Store, **config: Any) -> RunPaths:
    job = toy.toy_job("only", **config)
    toy.plan(store, [job])
    return toy.run_of(store, job)


def test_an_attempt_leaves_its_records_its_log_and_the_result(store: Store) -> None:
    run = only(store)
    before = time.time()
    assert attempt(store, "only") == 0
    paths = run.locate_attempt("local-0001")
    start, end = AttemptStart.read(paths.start), AttemptExit.read(paths.exit)
    assert start is not None
    assert end is not None
    assert (start.key, start.stage, start.cpus, start.checkpoint_step) == ("only", "pretrain", 2, -1)
    assert before <= start.started_at <= end.ended_at
    assert (end.returncode, end.failure, end.checkpoint_step) == (0, None, 3)
    assert start.started_at <= end.checkpoint_at <= end.ended_at
    assert paths.log.read_text() == "starts at step 0\n"
    assert check_result(run, "only").valid
    assert not is_held(run.lock)


def test_job_json_tells_the_stage_all_that_it_needs(store: Store) -> None:
    parent = toy.toy_job("parent", phase="trunk")
    child = toy.toy_job("child", "parent", phase="finetune", depth=2)
    toy.plan(store, [parent, child])
    assert attempt(store, "parent") == 0
    assert attempt(store, "child") == 0
    run = toy.run_of(store, child)
    content = json.loads(run.job.read_text())
    assert content["config"] == {"steps": 3, "depth": 2}
    assert content["parents"] == [{"key": "parent", "stage": "pretrain", "run": "../../pretrain/parent"}]
    assert (run.root / content["parents"][0]["run"] / "result.json").exists()
    assert content["data"] == {"words": "/data/words"}
    assert content["paths"]["error"] == "attempts/local-0001/error.json"
    assert content["code"]["versions"]["torch"]
    assert len(content["code"]["revision"]) == 40


def test_a_finished_job_is_not_run_again(store: Store) -> None:
    run = only(store)
    assert attempt(store, "only") == 0
    assert attempt(store, "only", "local-0002") == 0
    assert [path.name for path in run.attempts.iterdir()] == ["local-0001"]


def test_a_taken_lock_and_a_used_name_end_it_with_nothing_done(store: Store) -> None:
    run = only(store)
    lock = acquire_lock(run.lock)
    assert lock is not None
    assert attempt(store, "only") == ExitCode.TAKEN
    os.close(lock)
    run.locate_attempt("local-0001").root.mkdir(parents=True)
    assert attempt(store, "only") == ExitCode.TAKEN
    assert not run.job.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_stop_signal_reaches_the_stage_which_saves(store: Store, number: signal.Signals) -> None:
    run = only(store, steps=400, step_seconds=0.02)
    command = [sys.executable, "-m", "jobs.attempt", *arguments(store, "only", "local-0001")]
    process = subprocess.Popen(command, cwd=toy.ROOT)
    while not run.metrics.exists():
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(30) == ExitCode.SAVED
    end = AttemptExit.read(run.locate_attempt("local-0001").exit)
    assert end is not None
    assert end.failure is FailureClass.INTERRUPTED
    assert end.checkpoint_step > 0
    assert end.returncode == ExitCode.SAVED


def test_a_signal_to_the_stage_alone_counts_as_preemption(store: Store) -> None:
    run = only(store, fail="exit75")
    assert attempt(store, "only") == ExitCode.SAVED
    end = AttemptExit.read(run.locate_attempt("local-0001").exit)
    assert end is not None
    assert end.failure is FailureClass.PREEMPTED


def test_a_failure_is_recorded_with_its_class_message_and_digest(store: Store) -> None:
    run = only(store, fail="raise", fail_at=1)
    assert attempt(store, "only") == 1
    end = AttemptExit.read(run.locate_attempt("local-0001").exit)
    assert end is not None
    assert end.failure is FailureClass.UNKNOWN
    assert end.message == "RuntimeError: unexpected after 1 tries"
    assert end.traceback_digest
    assert end.checkpoint_step == 1


def test_code_0_without_a_result_is_a_failure(store: Store) -> None:
    run = only(store, fail="no_result")
    assert attempt(store, "only") == 1
    end = AttemptExit.read(run.locate_attempt("local-0001").exit)
    assert end is not None
    assert end.failure is FailureClass.CODE
    assert "without a valid result" in end.message


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("toy", "stranger", "true"), "it holds no such job"),
        (("nosweep", "only", "true"), "No such file"),
        (("toy", "only", "/no/such/program"), "cannot run /no/such/program"),
        (("../toy", "only", "true"), "not a safe name"),
        (("toy", "only", "true"), "has parents that are not in the manifest"),
    ],
)
def test_an_attempt_that_cannot_be_set_up_says_why(
    store: Store, capsys: pytest.CaptureFixture[str], given: tuple[str, str, str], words: str
) -> None:
    only(store)
    manifest = store.locate_sweep(toy.SWEEP).manifest
    if "parents" in words:
        manifest.write_text(manifest.read_text().replace('"parents":[]', '"parents":["gone"]'))
    sweep, key, program = given
    line = ["--store", str(store.root), "--sweep", sweep, "--key", key, "--attempt", "x", "--", program]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    try:
        assert main(line) == ExitCode.NOT_SET_UP
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert words in capsys.readouterr().err


def test_a_damaged_manifest_is_no_traceback(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    only(store)
    store.locate_sweep(toy.SWEEP).manifest.write_text("{\n")
    assert (
        main(["--store", str(store.root), "--sweep", "toy", "--key", "only", "--attempt", "x", "--", "true"])
        == ExitCode.NOT_SET_UP
    )
    assert "cannot read job only" in capsys.readouterr().err


def test_a_store_that_refuses_is_told_in_one_line(store: Store) -> None:
    run = only(store)
    run.root.mkdir(parents=True)
    run.attempts.write_text("a file where a folder belongs")
    command = [sys.executable, "-m", "jobs.attempt", *arguments(store, "only", "local-0001")]
    ended = subprocess.run(command, cwd=toy.ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == ExitCode.NOT_SET_UP
    assert ended.stderr.count("\n") == 1
    assert str(run.attempts) in ended.stderr


def test_files_that_may_not_grow_count_as_a_refusal_of_the_store(store: Store, tmp_path: Path) -> None:
    only(store)
    inner = [sys.executable, "-m", "jobs.attempt", *arguments(store, "only", "local-0001")]
    limit = "import os, resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limit += " resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)); os.execv(sys.argv[1], sys.argv[1:])"
    ended = subprocess.run(
        [sys.executable, "-S", "-c", limit, *inner], cwd=toy.ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == ExitCode.STORAGE
    assert "may not grow" in ended.stderr


def test_a_program_may_be_anything_that_takes_the_path_of_job_json(store: Store) -> None:
    run = only(store)
    script = "import json, sys; print('runs', json.load(open(sys.argv[1]))['key'])"
    assert attempt(store, "only", "local-0001", sys.executable, "-S", "-c", script) == 1
    assert run.locate_attempt("local-0001").log.read_text() == "runs only\n"
    assert read_record(run.job) is not None
