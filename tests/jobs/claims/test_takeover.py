"""Two incarnations of one job, or two jobs with one key: only the newest may write."""

import json
import os
import signal
import time

import pytest

from jobs.claims.claims import ClaimOwner, create_claim, find_newest_claim
from jobs.claims.takeover import ClaimTimeouts, acquire_run_claim
from jobs.store.paths import Store
from jobs.store.records import AttemptStart, FailureClass
from tests.jobs import toy
from tests.jobs.attempt.slurm_attempts import (
    TAKEOVER_SECONDS,
    claim_number,
    end_of,
    finish,
    paths_of,
    planned,
    saved_steps,
    start,
    wait_until,
)
from tests.jobs.fake_clock import FakeClock

ONLY = toy.toy_job("only")


def undisturbed(store: Store, **config: object) -> str:
    """The value that an undisturbed run of this job arrives at."""
    other = Store(store.root.parent / "undisturbed")
    planned(other, **config)
    assert finish(start(other))[0] == 0
    return toy.results(other, [ONLY])["only"]


def test_the_newer_incarnation_takes_over_and_the_older_writes_no_more(store: Store) -> None:
    run = planned(store, steps=500, step_seconds=0.02)
    older = start(store)
    wait_until(lambda: saved_steps(run) > 3)
    newer = start(store, restart=1)
    assert finish(older)[0] == 76
    assert finish(newer)[0] == 0
    end = end_of(run)
    assert (end.failure, end.message) == (FailureClass.KILLED, "fenced: a newer incarnation took over")
    assert end.returncode == -signal.SIGKILL
    assert end_of(run, 1).failure is None
    toy.assert_nothing_lost_or_doubled(store, [ONLY], {"only": undisturbed(store, steps=500)})
    following = AttemptStart.read(paths_of(run, 1).start)
    assert following is not None
    assert following.checkpoint_step > 0
    steps = [line["step"] for line in toy.executions(store, ONLY) if line["event"] == "step"]
    assert len(steps) <= 502  # at most the step that was under way was taken twice


def test_an_older_incarnation_that_comes_late_does_nothing(store: Store) -> None:
    run = planned(store, steps=500, step_seconds=0.02)
    newer = start(store, restart=1)
    wait_until(lambda: saved_steps(run) > 1)
    assert finish(start(store))[0] == 76
    assert not paths_of(run).root.exists()
    newer.terminate()
    assert finish(newer)[0] == 75
    assert claim_number(run) == 1


def test_a_stranger_leaves_a_holder_alone_that_shows_signs_of_life(store: Store) -> None:
    run = planned(store, steps=1_000, step_seconds=0.02)
    holder = start(store)
    wait_until(lambda: saved_steps(run) > 1)
    assert finish(start(store, job_id="8_0"))[0] == 76
    assert not paths_of(run, job_id="8_0").root.exists()
    assert claim_number(run) == 1
    holder.terminate()
    assert finish(holder)[0] == 75
    assert toy.count(store, ONLY, "begin") == 1


def test_a_stage_whose_supervisor_was_killed_is_killed_before_a_stranger_goes_on(store: Store) -> None:
    run = planned(store, steps=1_000, step_seconds=0.02)
    holder = start(store)
    wait_until(lambda: saved_steps(run) > 1)
    holder.kill()
    finish(holder)
    before = saved_steps(run)
    stranger = start(store, job_id="8_0")
    wait_until(paths_of(run, job_id="8_0").start.exists)
    assert saved_steps(run) > before  # nobody knew that it was fenced until the silence was long enough
    assert claim_number(run) == 2
    reached = saved_steps(run)
    wait_until(lambda: saved_steps(run) > reached + 5)
    stranger.terminate()
    assert finish(stranger)[0] == 75
    taken = [line["pid"] for line in toy.executions(store, ONLY) if line["event"] == "step"]
    assert len(set(taken)) == 2
    assert taken == sorted(taken, key=taken.index)  # not one step of the first after the second began
    assert toy.count(store, ONLY, "overlap") == 0


def test_a_frozen_incarnation_of_this_machine_is_killed_and_ends_as_fenced(store: Store) -> None:
    run = planned(store, steps=200, step_seconds=0.02)
    older = start(store)
    wait_until(lambda: saved_steps(run) > 1)
    older.send_signal(signal.SIGSTOP)
    newer = start(store, restart=1)
    wait_until(paths_of(run, 1).start.exists)
    older.send_signal(signal.SIGCONT)
    assert finish(older)[0] == 76
    assert end_of(run).message == "fenced: a newer incarnation took over"
    assert finish(newer)[0] == 0
    assert toy.count(store, ONLY, "overlap") == 0


@pytest.mark.parametrize(
    ("silent_seconds", "takeover_seconds", "least", "most"),
    [(0.0, 75.0, 75.0, 77.0), (1000.0, 75.0, 10.0, 12.0)],
    ids=["fresh", "long silent"],
)
def test_a_holder_of_another_machine_is_given_its_time(
    store: Store, silent_seconds: float, takeover_seconds: float, least: float, most: float
) -> None:
    run = planned(store)
    holder = ClaimOwner(host="far", boot_id="other", pid=1, attempt="slurm-6_0-r0-aaaaaa", job_id="6_0", batch="sw-x")
    made = create_claim(run.claims, holder, after=None)
    assert made is not None
    os.utime(made.path, (made.heartbeat_at - silent_seconds,) * 2)
    clock = FakeClock()
    mine = ClaimOwner.from_this_process(attempt="slurm-7_0-r0-aaaaaa", job_id="7_0", batch="sw-y")
    taken = acquire_run_claim(run, mine, ClaimTimeouts(takeover_seconds), lambda: False, clock)
    assert taken is not None
    assert taken.from_silent
    assert least <= sum(clock.slept) < most
    assert claim_number(run) == 2
    taken.heartbeat.release()


def test_a_silent_holder_of_another_machine_with_the_same_job_is_waited_for_too(store: Store) -> None:
    run = planned(store)
    holder = ClaimOwner(
        boot_id="other", attempt="slurm-7_0-r0-aaaaaa", job_id="7_0", batch="sw-aaaaaabbbbbb-pretrain-toy"
    )
    assert create_claim(run.claims, holder, after=None)
    began = time.time()
    process = start(store, restart=1)
    wait_until(lambda: claim_number(run) == 2)  # at once, so that the older learns of it
    assert finish(process)[0] == 0
    [attempt] = run.attempts.glob("*/start.json")
    record = AttemptStart.read(attempt)
    assert record is not None
    assert record.started_at - began > TAKEOVER_SECONDS


def test_an_exit_record_or_a_release_ends_the_wait(store: Store) -> None:
    run = planned(store)
    holder = ClaimOwner(boot_id="other", attempt="slurm-6_0-r0-aaaaaa", job_id="6_0", batch="sw-x")
    first = create_claim(run.claims, holder, after=None)
    exit_record = run.locate_attempt(holder.attempt).exit
    exit_record.parent.mkdir(parents=True)
    exit_record.write_text("{}")
    second = create_claim(run.claims, ClaimOwner(boot_id="other"), after=first)
    assert second is not None
    second.release()
    began = time.monotonic()
    assert finish(start(store, SWEEP_TAKEOVER_SECONDS="600"))[0] == 0
    assert time.monotonic() - began < 100


def test_a_stop_ends_the_wait_with_the_claim_released(store: Store) -> None:
    run = planned(store)
    assert create_claim(
        run.claims, ClaimOwner(boot_id="other", job_id="7_0", batch="sw-aaaaaabbbbbb-pretrain-toy"), after=None
    )
    waiting = start(store, restart=1, SWEEP_TAKEOVER_SECONDS="600")
    wait_until(lambda: claim_number(run) == 2)
    waiting.terminate()
    assert finish(waiting)[0] == 75
    found = find_newest_claim(run.claims)
    assert found is not None
    assert found.released
    assert not run.attempts.exists()


def test_a_third_incarnation_waits_for_the_first_though_the_second_let_go(store: Store) -> None:
    run = planned(store)
    same = {"job_id": "7_0", "batch": "sw-aaaaaabbbbbb-pretrain-toy", "boot_id": "other"}
    first = create_claim(run.claims, ClaimOwner(**same), after=None)  # type: ignore[arg-type]  # all of them are texts
    second = create_claim(run.claims, ClaimOwner(**same, restart=1), after=first)  # type: ignore[arg-type]
    assert second is not None
    second.release()
    third = start(store, restart=2)
    wait_until(lambda: claim_number(run) == 3)
    time.sleep(TAKEOVER_SECONDS / 3)
    assert not run.attempts.exists()
    assert finish(third)[0] == 0
    assert sorted(path.name for path in run.claims.iterdir()) == ["000002.json", "000003.json"]


def test_claims_are_released_at_the_end(store: Store) -> None:
    run = planned(store, fail="raise")
    assert finish(start(store))[0] == 1
    found = find_newest_claim(run.claims)
    assert found is not None
    assert found.released
    assert json.loads(found.path.read_text())["job_id"] == "7_0"
    assert finish(start(store, job_id="8_0", SWEEP_TAKEOVER_SECONDS="600"))[0] == 1
