"""An attempt as a batch script starts it: parents, records, stops."""

import json
import os
import signal

import pytest

from jobs.slurm.batch_ledger import BatchLedger
from jobs.store.flock import acquire_lock
from jobs.store.ledger import Event, EventKind, Ledger
from jobs.store.paths import Store
from jobs.store.records import AttemptStart, FailureClass
from tests.jobs import toy
from tests.jobs.attempt.slurm_attempts import (
    BATCH,
    claim_number,
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


def test_a_cancelled_job_does_not_start_until_it_is_resumed(store: Store) -> None:
    run = planned(store)
    ledger = Ledger(store.locate_sweep(toy.SWEEP).ledger)
    ledger.append([Event(event=EventKind.CANCELLED, key="only")])
    code, said = finish(start(store))
    assert (code, said.count("\n"), run.attempts.exists(), claim_number(run)) == (79, 1, False, 0)
    assert "not started: it is cancelled; `sweep resume toy` puts it back" in said
    ledger.append([Event(event=EventKind.RESUMED, key="only")])
    assert finish(start(store, restart=1))[0] == 0


def test_a_copy_that_was_taken_out_of_the_queue_does_not_start_unless_it_stayed_there(store: Store) -> None:
    run = planned(store)
    ledger = BatchLedger(Ledger(store.locate_sweep(toy.SWEEP).ledger))
    ledger.write_withdrawn({BATCH: ["only", "other"], "sw-aaaaaabbbbbc-pretrain-toy": ["only"]})
    code, said = finish(start(store))
    assert (code, run.attempts.exists()) == (79, False)
    assert "this copy of it was taken out of the queue" in said
    ledger.write_kept({BATCH: ["only"]})
    assert finish(start(store, restart=1))[0] == 0


def test_a_job_that_has_failed_for_good_is_not_repeated_by_a_restart(store: Store) -> None:
    run = planned(store, fail="diverged", fail_times=1)
    assert finish(start(store))[0] == 1
    code, said = finish(start(store, restart=1))
    assert (code, [path.name for path in run.attempts.iterdir()]) == (79, [paths_of(run).root.name])
    assert "it has failed for good (diverged: diverged at step 0 second line)" in said
    Ledger(store.locate_sweep(toy.SWEEP).ledger).append([Event(event=EventKind.RESUMED, key="only")])
    assert finish(start(store, restart=2))[0] == 0


def test_a_job_that_was_killed_often_may_start_as_only_accounting_knows_the_cause(store: Store) -> None:
    run = planned(store, fail="kill", fail_times=4)
    codes = [finish(start(store, restart=restart))[0] for restart in range(5)]
    assert (codes, end_of(run, 3).failure) == ([1, 1, 1, 1, 0], FailureClass.KILLED)


def test_a_local_attempt_that_lives_is_left_alone(store: Store) -> None:
    run = planned(store)
    lock = acquire_lock(run.lock)
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
