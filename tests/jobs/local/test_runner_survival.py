"""Runners, supervisors and stages die at any moment; submitting again gives the results of an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest

from jobs.job import Job
from jobs.processes import list_attempt_pids, read_process_stat
from jobs.reconcile.state import JobState
from jobs.store.flock import is_held
from jobs.store.paths import Store
from jobs.store.records import AttemptStart, FailureClass
from tests.jobs import toy

PATIENCE_SECONDS = 240


@contextmanager
def driver(store: Store, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`sweep submit` in its own process; ended with the block if it still runs."""
    command = [sys.executable, "-m", "tests.jobs.local.drive", str(store.root), *arguments]
    process = subprocess.Popen(
        command, cwd=toy.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(store: Store, *arguments: str) -> str:
    """Runs to the end; what it said on stderr."""
    with driver(store, *arguments) as process:
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, said
        return said


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def undisturbed(store: Store, jobs: Sequence[Job]) -> dict[str, str]:
    """The results of the same sweep in a store of its own."""
    other = Store(store.root.with_name("undisturbed"))
    toy.submit(other, jobs)
    return toy.results(other, jobs)


def newest_start(store: Store, job: Job) -> AttemptStart | None:
    starts = sorted(toy.run_of(store, job).attempts.glob("*/start.json"))
    return AttemptStart.read(starts[-1]) if starts else None


def stage_pids(store: Store, job: Job) -> list[int]:
    start = newest_start(store, job)
    return list_attempt_pids(toy.run_of(store, job).locate_attempt(start.attempt).root) if start else []


def live_pids(store: Store, jobs: Sequence[Job]) -> list[int]:
    """Every living process of any attempt."""
    found = [pid for job in jobs for pid in stage_pids(store, job)]
    starts = [start for job in jobs if (start := newest_start(store, job)) is not None]
    for start in starts:
        stat = read_process_stat(start.pid)
        if stat is not None and stat.alive and stat.started == start.pid_started:
            found.append(start.pid)
    return found


def test_killed_before_and_after_every_side_effect_it_goes_on_without_loss(store: Store) -> None:
    jobs = toy.small_graph(step_seconds=0.01)
    expected = undisturbed(store, jobs)
    toy.plan(store, jobs)
    for moment in range(1, 17):
        with driver(store, "--die-at", str(moment)) as process:
            process.communicate(timeout=PATIENCE_SECONDS)
            assert process.returncode in {-signal.SIGKILL, 0}
    finish(store)
    toy.assert_nothing_lost_or_doubled(store, jobs, expected)
    assert live_pids(store, jobs) == []


def test_random_kills_of_runner_supervisor_and_stage_change_nothing(store: Store) -> None:
    seeded = random.Random(20)
    jobs = toy.small_graph(step_seconds=0.06, steps=4)
    expected = undisturbed(store, jobs)
    toy.plan(store, jobs)
    kills = 0
    while kills < 12:
        with driver(store) as process:
            while process.poll() is None and kills < 12:
                time.sleep(seeded.uniform(0.1, 0.4))
                kills += kill_something(seeded, store, jobs, process.pid)
        if set(toy.states(store, jobs).values()) == {JobState.DONE}:
            break
    finish(store)
    assert kills >= 6
    toy.assert_nothing_lost_or_doubled(store, jobs, expected)
    assert live_pids(store, jobs) == []


def kill_something(seeded: random.Random, store: Store, jobs: Sequence[Job], runner: int) -> int:
    """SIGKILL to the runner, to a supervisor or to a stage's process; 1 if there was one."""
    kind = seeded.choice(["runner", "supervisor", "stage", "stage"])
    live = [job for job in jobs if is_held(toy.run_of(store, job).lock)]
    pids = {
        "runner": [runner],
        "supervisor": [start.pid for job in live if (start := newest_start(store, job)) is not None],
        "stage": [pid for job in live for pid in stage_pids(store, job)],
    }[kind]
    if not pids:
        return 0
    with suppress(ProcessLookupError):
        os.kill(seeded.choice(pids), signal.SIGKILL)
    return 1


def test_attempts_outlive_their_runner_and_are_adopted_not_repeated(store: Store) -> None:
    jobs = [toy.toy_job("long", steps=20, step_seconds=0.05), toy.toy_job("next", "long")]
    toy.plan(store, jobs)
    with driver(store) as process:
        wait_for(lambda: toy.count(store, jobs[0], "step") >= 2)
        process.kill()
        process.wait()
    assert toy.states(store, jobs) == {"long": JobState.RUNNING, "next": JobState.WAITING}
    finish(store)
    assert toy.count(store, jobs[0], "begin") == 1
    assert toy.states(store, jobs) == {"long": JobState.DONE, "next": JobState.DONE}


def test_an_orphaned_stage_keeps_the_lock_and_is_waited_for(store: Store) -> None:
    job = toy.toy_job("long", steps=15, step_seconds=0.05)
    toy.plan(store, [job])
    with driver(store) as process:
        wait_for(lambda: toy.count(store, job, "step") >= 2)
        start = newest_start(store, job)
        assert start is not None
        os.kill(start.pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0
    assert toy.count(store, job, "begin") == 1
    assert toy.states(store, [job]) == {"long": JobState.DONE}


def test_an_orphan_that_fails_without_a_witness_is_judged_by_its_own_words(store: Store) -> None:
    job = toy.toy_job("long", steps=15, step_seconds=0.05, fail="diverged", fail_at=10)
    toy.plan(store, [job])
    with driver(store) as process:
        wait_for(lambda: toy.count(store, job, "step") >= 2)
        start = newest_start(store, job)
        assert start is not None
        os.kill(start.pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE_SECONDS)
    seen = toy.picture(store, [job])
    assert seen.statuses["long"].state is JobState.FAILED
    assert seen.runs["long"].message == "diverged at step 10 second line"


def test_two_runners_race_and_one_says_so(store: Store) -> None:
    jobs = toy.small_graph(step_seconds=0.05)
    toy.plan(store, jobs)
    with driver(store) as first, driver(store) as second:
        said = [process.communicate(timeout=PATIENCE_SECONDS)[1] for process in (first, second)]
        codes = [first.returncode, second.returncode]
    assert sorted(codes) == [0, 1]
    assert "has a runner already (process" in said[codes.index(1)]
    assert set(toy.states(store, jobs).values()) == {JobState.DONE}
    assert all(toy.count(store, job, "begin") == 1 for job in jobs)


def test_two_supervisors_of_one_job_race_and_one_does_nothing(store: Store) -> None:
    job = toy.toy_job("only", step_seconds=0.7)  # longer than a supervisor's patience with the lock
    toy.plan(store, [job])
    command = [
        sys.executable,
        "-m",
        "jobs.attempt",
        "--store",
        str(store.root),
        "--sweep",
        toy.SWEEP,
        "--key",
        "only",
    ]
    processes = [
        subprocess.Popen([*command, "--attempt", name, "--", *toy.COUNTING_STAGE], cwd=toy.ROOT, stderr=subprocess.PIPE)
        for name in ("one", "one", "two")
    ]
    codes = sorted(process.wait(PATIENCE_SECONDS) for process in processes)
    for process in processes:
        process.communicate()
    assert codes == [0, 76, 76]
    assert toy.count(store, job, "begin") == 1


@pytest.mark.parametrize(("number", "gentle"), [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_stop_saves_and_leaves_nobody_behind(store: Store, number: signal.Signals, gentle: bool) -> None:
    step_seconds = 0.05 if gentle else 30.0
    jobs = [toy.toy_job(key, steps=400, step_seconds=step_seconds) for key in ("a", "b", "queued")]
    toy.plan(store, jobs)
    with driver(store) as process:
        wait_for(lambda: all(toy.count(store, job, "step") for job in jobs[:2]))
        process.send_signal(number)
        if not gentle:
            time.sleep(0.3)
            process.send_signal(number)
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 130
    assert json.loads(out)["stopped_by"] == number
    seen = toy.picture(store, jobs)
    assert [seen.statuses[job.key].state for job in jobs] == [
        JobState.INTERRUPTED,
        JobState.INTERRUPTED,
        JobState.READY,
    ]
    last = seen.runs["a"].last
    assert last is not None
    assert last.recorded
    assert last.failure is FailureClass.INTERRUPTED
    assert last.advanced is gentle
    assert live_pids(store, jobs) == []


def test_what_a_stage_leaves_behind_ends_with_it(store: Store) -> None:
    job = toy.toy_job("leaves", leave_behind=True)
    toy.submit(store, [job])
    assert toy.states(store, [job]) == {"leaves": JobState.DONE}
    left = [line["child"] for line in toy.executions(store, job) if line["event"] == "left"]
    stat = read_process_stat(left[0])
    assert stat is None or not stat.alive


def test_deleting_the_whole_ledger_loses_and_doubles_nothing(store: Store) -> None:
    jobs = toy.small_graph(step_seconds=0.03)
    expected = undisturbed(store, jobs)
    toy.plan(store, jobs)
    with driver(store) as process:
        wait_for(lambda: toy.count(store, jobs[2], "step") >= 1)
        process.kill()
        process.wait()
    for path in store.locate_sweep(toy.SWEEP).ledger.iterdir():
        path.unlink()
    finish(store)
    toy.assert_nothing_lost_or_doubled(store, jobs, expected)
