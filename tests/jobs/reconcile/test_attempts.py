"""What execution reads back from a run's folder, whole or damaged."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from jobs.processes import read_boot_id
from jobs.reconcile.attempts import read_attempts, read_tail
from jobs.reconcile.snapshot import RunReader, collect_facts
from jobs.reconcile.state import JobState, compute_job_state
from jobs.reconcile.usage import compute_execution_usage
from jobs.store.ledger import Resumption, UserRequests
from jobs.store.paths import RunPaths, Store
from jobs.store.records import AttemptExit, AttemptStart, FailureClass, NewestCheckpoint, find_newest_checkpoint
from tests.jobs import toy


@pytest.fixture
def run(store: Store) -> RunPaths:
    paths = store.locate_run("pretrain", "k")
    paths.checkpoints.mkdir(parents=True)
    (paths.checkpoints / "m").write_text("abc")
    return paths


def checkpoint(run: RunPaths, step: int, *, saved_at: float = 50.0, size: int = 3) -> None:
    folder = run.checkpoints / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "model").write_text("abc")
    record = folder / "record.json"
    record.write_text(json.dumps({"files": {"model": {"bytes": size, "sha256": ""}}}))
    os.utime(record, (saved_at, saved_at))


def begin(run: RunPaths, number: int, **changes: Any) -> AttemptStart:
    name = f"local-{number:04d}"
    content = {"host": socket.gethostname(), "boot_id": read_boot_id(), "started_at": 100.0 * number, **changes}
    start = AttemptStart(
        attempt=name,
        key="k",
        stage="pretrain",
        backend="local",
        pid=2**22 + 1,
        pid_started=1.0,
        cpus=2,
        gpus=1,
        **content,
    )
    start.write(path := run.locate_attempt(name).start)
    os.utime(path, (start.started_at, start.started_at))
    return start


def end(run: RunPaths, number: int, failure: FailureClass | None, **changes: Any) -> None:
    content = {"ended_at": 100.0 * number + 60, "message": "why", **changes}
    exit_record = AttemptExit(attempt=f"local-{number:04d}", key="k", returncode=1, failure=failure, **content)
    exit_record.write(run.locate_attempt(f"local-{number:04d}").exit)


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(run: RunPaths) -> None:
    assert find_newest_checkpoint(run) == NewestCheckpoint()
    checkpoint(run, 10, saved_at=50.0)
    checkpoint(run, 20, size=4)
    (run.checkpoints / "step-00000030").mkdir()
    (run.checkpoints / ".step-00000040.1").mkdir()
    (run.checkpoints / "step-00000050").mkdir()
    (run.checkpoints / "step-00000050" / "record.json").write_text('{"files": {"model": 3}}')
    assert find_newest_checkpoint(run) == NewestCheckpoint(10, 50.0)


def test_attempts_come_in_the_order_of_their_start(run: RunPaths) -> None:
    begin(run, 2)
    begin(run, 1, checkpoint_step=-1)
    end(run, 1, FailureClass.KILLED, checkpoint_step=5)
    end(run, 2, None)
    (run.attempts / "local-0003").mkdir()  # never began
    outcomes = read_attempts(run, live=False)
    assert [outcome.start.attempt for outcome in outcomes] == ["local-0001", "local-0002"]
    assert [outcome.failure for outcome in outcomes] == [FailureClass.KILLED, None]
    assert [outcome.advanced for outcome in outcomes] == [True, False]


@pytest.mark.parametrize("torn", [None, "", '{"attempt": "local'])
def test_a_lost_or_torn_exit_record_is_made_up_from_the_rest(run: RunPaths, torn: str | None) -> None:
    begin(run, 1)
    begin(run, 2, checkpoint_step=10)
    paths = run.locate_attempt("local-0001")
    paths.log.write_text("Traceback (most recent call last):\nOSError: [Errno 28] No space left on device\n")
    os.utime(paths.log, (170.0, 170.0))
    if torn is not None:
        paths.exit.write_text(torn)
    checkpoint(run, 30, saved_at=240.0)
    first, second = read_attempts(run, live=False)
    assert (first.failure, first.recorded, first.advanced) == (FailureClass.STORAGE, False, True)
    assert first.end is not None
    assert (first.end.ended_at, first.end.checkpoint_step) == (170.0, 10)
    assert second.end is not None
    assert (second.failure, second.end.checkpoint_step, second.end.checkpoint_at) == (FailureClass.KILLED, 30, 240.0)


def test_the_last_attempt_of_a_live_run_has_not_ended(run: RunPaths) -> None:
    begin(run, 1)
    begin(run, 2)
    first, second = read_attempts(run, live=True)
    assert first.failure is FailureClass.KILLED
    assert second.end is None
    assert compute_execution_usage([second]) == []


def test_work_that_no_checkpoint_kept_is_wasted(run: RunPaths) -> None:
    begin(run, 1)
    end(run, 1, FailureClass.KILLED, checkpoint_at=136.0)
    begin(run, 2)
    end(run, 2, FailureClass.CODE, checkpoint_at=136.0)  # an older attempt's checkpoint
    begin(run, 3)
    end(run, 3, None, checkpoint_at=310.0)
    executions = compute_execution_usage(read_attempts(run, live=False))
    assert [execution.used.seconds for execution in executions] == [36.0, 0.0, 60.0]
    assert [execution.wasted.seconds for execution in executions] == [24.0, 60.0, 0.0]
    total = executions[0].total
    assert (total.seconds, total.gpu_hours, total.cpu_hours) == (60.0, 60 / 3600, 120 / 3600)


def judged(store: Store, wishes: UserRequests) -> JobState:
    evidence = RunReader(store).read_one(toy.toy_job("k"))
    return compute_job_state(collect_facts("k", evidence, wishes))


def test_an_attempt_of_another_machine_without_an_exit_record_may_live(store: Store, run: RunPaths) -> None:
    begin(run, 1, host="elsewhere", boot_id="another")
    assert judged(store, UserRequests()) is JobState.UNKNOWN
    named = Resumption(attempts=frozenset({read_attempts(run, live=False)[0].start.attempt}))
    assert judged(store, UserRequests(resumed={"k": named})) is JobState.INTERRUPTED  # a person says that it is gone
    assert judged(store, UserRequests(resumed={"k": Resumption(before=150.0)})) is JobState.INTERRUPTED
    end(run, 1, FailureClass.INTERRUPTED)
    assert judged(store, UserRequests()) is JobState.INTERRUPTED


@pytest.mark.parametrize("same", ["host", "boot_id"])
def test_an_attempt_of_this_machine_without_an_exit_record_is_gone(store: Store, run: RunPaths, same: str) -> None:
    begin(
        run,
        1,
        **{"host": "elsewhere", "boot_id": "another", same: socket.gethostname() if same == "host" else read_boot_id()},
    )
    assert judged(store, UserRequests()) is JobState.INTERRUPTED


def test_jobs_without_a_folder_are_new(store: Store) -> None:
    jobs = toy.small_graph()
    found = RunReader(store).read_all(jobs)
    assert all(not evidence.done and not evidence.outcomes for evidence in found.values())
    assert found["trunk1"].message == ""


def test_a_tail_is_the_last_bytes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert read_tail(path) == ""
    path.write_text("abcdef")
    assert read_tail(path, 3) == "def"


@pytest.mark.parametrize("hours", [-3.0, 3.0])
def test_the_order_of_attempts_is_that_of_their_numbers_whatever_their_clocks_say(run: RunPaths, hours: float) -> None:
    begin(run, 1, order=1, started_at=20_000.0 + hours * 3600)
    begin(run, 2, order=2, started_at=20_000.0)
    begin(run, 3, order=3, started_at=20_010.0 + hours * 3600)
    assert [attempt.start.order for attempt in read_attempts(run, live=False)] == [1, 2, 3]


def test_attempts_of_an_earlier_version_stand_among_the_numbered_ones_by_their_start(run: RunPaths) -> None:
    begin(run, 1)
    begin(run, 2, order=1)
    begin(run, 3)
    begin(run, 4, order=2)
    assert [attempt.start.attempt[-1] for attempt in read_attempts(run, live=False)] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("hours", [-3.0, 3.0])
def test_seconds_of_a_killed_attempt_do_not_depend_on_its_machines_clock(run: RunPaths, hours: float) -> None:
    """The file server stamped the log 70 s, and the checkpoint 40 s, after the attempt's own first file."""
    start = begin(run, 1, started_at=1e9 + 100.0 + hours * 3600)
    paths = run.locate_attempt(start.attempt)
    paths.log.write_text("")
    os.utime(paths.start, (1e9 + 100.0, 1e9 + 100.0))
    os.utime(paths.log, (1e9 + 170.0, 1e9 + 170.0))
    checkpoint(run, 30, saved_at=1e9 + 140.0)
    [execution] = compute_execution_usage(read_attempts(run, live=False))
    assert (execution.used.seconds, execution.wasted.seconds) == pytest.approx((40.0, 30.0))
