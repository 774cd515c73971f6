"""One job's trouble is its own: what is down, drained, gone or too large on a real cluster holds up nothing else."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.job import Job, Resources
from jobs.processes import read_boot_id
from jobs.reconcile.state import JobState
from jobs.store.records import AttemptExit, AttemptStart, FailureClass
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.slurm_toy import ToySweep, drain, resume

GONE_USER = "left-last-year"


def job_in(key: str, partition: str, minutes: int = 1) -> Job:
    return toy.toy_job(
        key, resources=Resources(memory_gib=0.25, time_minutes=minutes, options={"partition": partition})
    )


@pytest.fixture
def short_partition(slurm: Lab) -> Iterator[None]:
    """Is up again when the test is over."""
    yield
    set_partition(slurm, "up")


def set_partition(lab: Lab, state: str) -> None:
    lab.output("scontrol", "update", "partitionname=short", f"state={state}")


@pytest.mark.usefixtures("short_partition")
def test_a_partition_that_is_down_takes_jobs_which_wait_and_holds_up_no_others(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_partition(slurm, "down")
    toys = ToySweep(slurm, tmp_path, [job_in("a", "short"), job_in("b", "main")], monkeypatch)
    assert toys.sent()[0] == 2
    assert "the partition is down" in toys.sweep("status", "--fresh").out
    assert "could never run" not in toys.sweep("doctor").out
    set_partition(slurm, "up")
    toys.finish()
    toys.assert_as_undisturbed()


@pytest.mark.usefixtures("short_partition")
def test_a_partition_that_is_drained_delays_its_own_jobs_alone(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(slurm)
    set_partition(slurm, "drain")
    toys = ToySweep(slurm, tmp_path, [job_in("a", "short"), job_in("b", "main"), job_in("c", "main")], monkeypatch)
    told = toys.sweep("submit", "--json")
    assert (told.code, told.json["sent"]) == (0, 2)
    assert ["1 job cannot be queued now" in limit for limit in told.json["limits"]] == [True]
    assert toys.states() == {"a": JobState.READY, "b": JobState.QUEUED, "c": JobState.QUEUED}
    set_partition(slurm, "up")
    assert toys.tick()["sent"] == 1


def test_nodes_that_are_reserved_are_waited_for(slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = f"starttime=now duration=60 nodes=ALL flags=maint,ignore_jobs users={slurm.submit_user}"
    slurm.output("scontrol", "create", "reservation", "reservationname=upkeep", *words.split())
    try:
        toys = ToySweep(slurm, tmp_path, [toy.toy_job("a")], monkeypatch)
        assert toys.sent()[0] == 1
        assert toys.states() == {"a": JobState.QUEUED}
        assert "reserved" in toys.sweep("status", "--fresh").out.lower()
    finally:
        slurm.output("scontrol", "delete", "reservationname=upkeep")
    toys.finish()


def test_a_job_that_can_never_run_is_listed_and_the_rest_is_sent(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(slurm)
    jobs = [job_in("a", "short", minutes=5), job_in("b", "main"), toy.toy_job("behind-a", "a", phase="finetune")]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    told = toys.sweep("submit", "--json")
    assert (told.code, told.json["sent"]) == (1, 1)
    assert told.json["refused"].keys() == {"a"}
    assert "partition short allows a job 1 min, and it asks for 5" in told.json["refused"]["a"]
    status = toys.sweep("status", "--fresh")
    assert "not sent\n  1 it can never run here: partition short allows a job 1 min" in status.out
    assert status.code == 0
    assert "1 job would not be sent: it can never run here" in toys.sweep("submit", "--dry-run").err


def test_a_node_that_left_the_cluster_is_excluded_no_more(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(slurm)
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("a"), toy.toy_job("b")], monkeypatch)
    note_node_fault(toys, "a", "n9", seconds_ago=1)  # the newest, so that it takes the only place
    note_node_fault(toys, "b", "n2", seconds_ago=60)
    assert toys.sent()[0] == 2
    assert set(re.findall(r"ExcNodeList=(\S+)", slurm.output("scontrol", "--oneliner", "show", "job"))) >= {"n2"}
    assert all(state == "PENDING" for state, _ in toys.queue().values())


def note_node_fault(toys: ToySweep, key: str, node: str, *, seconds_ago: float) -> None:
    """As if the job had run on that node until then, and the node had failed."""
    run = toy.run_of(toys.store, toys.by_key[key])
    attempt = run.locate_attempt(f"slurm-7_{node[1:]}-r0-abcdef")
    attempt.root.mkdir(parents=True)
    AttemptStart(
        attempt=attempt.root.name,
        key=key,
        stage="pretrain",
        backend="slurm",
        host="host",
        pid=1,
        pid_started=1.0,
        boot_id=read_boot_id(),
        started_at=1.0,
        node=node,
    ).write(attempt.start)
    ended_at = run.root.stat().st_mtime - seconds_ago
    AttemptExit(
        attempt=attempt.root.name,
        key=key,
        ended_at=ended_at,
        returncode=1,
        failure=FailureClass.NODE_FAULT,
        message="uncorrectable ECC error",
        traceback_digest="",
        damaged_key="",
        checkpoint_step=-1,
        checkpoint_at=0.0,
        stop_signal="",
    ).write(attempt.exit)


def test_a_user_who_left_stops_nobody_and_their_queued_jobs_are_still_seen(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(slurm)
    toys = ToySweep(slurm, tmp_path, [toy.toy_job(name) for name in "ab"], monkeypatch)
    toy.plan(toys.store, toys.jobs[:1], backend="slurm")
    assert toys.sent()[0] == 1
    toy.plan(toys.store, toys.jobs, backend="slurm")
    forget_the_sender(toys)
    assert toys.sent()[0] == 1  # b; what the other one sent is queued and not sent again
    assert set(toys.states().values()) == {JobState.QUEUED}
    resume(slurm)
    toys.finish()
    assert toys.sent() == (0, 0)
    assert toys.sweep("cancel").code == 0
    toys.assert_as_undisturbed()


def forget_the_sender(toys: ToySweep) -> None:
    """As if what was sent so far had been sent by somebody whose account was deleted since."""
    changed = 0
    for path in toys.store.locate_sweep(toy.SWEEP).ledger.glob("*.jsonl"):
        text = path.read_text()
        changed += text.count('"user": "')
        own = text.partition('"user": "')[2].partition('"')[0]
        path.write_text(text.replace(f'"user": "{own}"', f'"user": "{GONE_USER}"'))
    assert changed
