"""`sweep status`: every state, failures with message and log, time left, cost."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Estimate, Job, Resources
from jobs.local.runner import LocalRunner
from jobs.local.runner_lock import hold_runner_lock
from jobs.observation import ClusterState, Observation
from jobs.processes import read_boot_id
from jobs.reconcile.snapshot import ClusterReport, load_snapshot
from jobs.store.flock import acquire_lock
from jobs.store.ledger import Event, EventKind, Ledger
from jobs.store.paths import Store, write_json
from jobs.store.records import AttemptExit, AttemptStart, FailureClass
from sweep.cli import main
from sweep.report.status import build_status_json, format_status
from sweep.report.time_left import Capacity, TimeLeft, estimate_time_left, read_progress
from sweep.stored_sweep import open_sweep
from tests.jobs import toy
from tests.jobs.reconcile.executions import pending_ending

NOW = 1_800_000_000.0


def begin(store: Store, job: Job, **changes: Any) -> None:
    run = toy.run_of(store, job)
    content: dict[str, Any] = {
        "host": os.uname().nodename,
        "boot_id": read_boot_id(),
        "started_at": NOW - 600,
        **changes,
    }
    start = AttemptStart(
        attempt="local-0001", key=job.key, stage=job.stage, backend="local", pid=2**22 + 1, pid_started=1.0, **content
    )
    start.write(run.locate_attempt("local-0001").start)
    run.locate_attempt("local-0001").log.write_text("a line\n")


def end(store: Store, job: Job, failure: FailureClass, message: str) -> None:
    record = AttemptExit(
        attempt="local-0001", key=job.key, ended_at=NOW - 300, returncode=1, failure=failure, message=message
    )
    record.write(toy.run_of(store, job).locate_attempt("local-0001").exit)


def finish(store: Store, job: Job, seconds: float = 120.0) -> None:
    content = {"format": 1, "key": job.key, "stage": job.stage, "files": {}, "seconds": seconds, "finished_at": NOW}
    write_json(toy.run_of(store, job).result, content)


@pytest.fixture
def every_state(tmp_path: Path) -> Iterator[tuple[Store, list[Job]]]:
    """One job of every state, with a live runner that has one queued."""
    store = Store(tmp_path / "store")
    jobs = [
        toy.toy_job("done", phase="trunk"),
        toy.toy_job("running", "done", cells=["a"]),
        toy.toy_job("queued", "done", cells=["b"]),
        toy.toy_job("ready", "done", cells=["c"]),
        toy.toy_job("waiting", "ready", phase="finetune", cells=["c"]),
        toy.toy_job("interrupted", "done", cells=["d"]),
        toy.toy_job("failed", "done", cells=["e"]),
        toy.toy_job("blocked", "failed", phase="finetune", cells=["e"]),
        toy.toy_job("cancelled", "done", cells=["f"]),
        toy.toy_job("unknown", "done", cells=["g"]),
    ]
    by_key = {job.key: job for job in jobs}
    toy.plan(store, jobs)
    finish(store, by_key["done"])
    begin(store, by_key["running"])
    metrics = {"step": 50, "total_steps": 150, "loss": 2.5, "time": NOW - 100}
    toy.run_of(store, by_key["running"]).metrics.write_text(json.dumps(metrics) + '\n{"step": 51, "to')
    begin(store, by_key["interrupted"])
    end(store, by_key["interrupted"], FailureClass.INTERRUPTED, "stopped on request")
    begin(store, by_key["failed"])
    end(store, by_key["failed"], FailureClass.DIVERGED, "loss is NaN at step 7")
    begin(store, by_key["unknown"], host="elsewhere", boot_id="another")
    ledger = Ledger(store.locate_sweep(toy.SWEEP).ledger)
    ledger.append([Event(event=EventKind.CANCELLED, key="cancelled"), Event(event=EventKind.INTENT, key="queued")])
    lock = acquire_lock(toy.run_of(store, by_key["running"]).lock)
    assert lock is not None
    with hold_runner_lock(store, sweep=toy.SWEEP, writer=ledger.writer):
        yield store, jobs
    os.close(lock)


def report(store: Store, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    main(["status", toy.SWEEP, "--json", "--store", str(store.root)])
    return dict(json.loads(capsys.readouterr().out))


def test_one_job_of_every_state_is_shown(
    every_state: tuple[Store, list[Job]], capsys: pytest.CaptureFixture[str]
) -> None:
    store, jobs = every_state
    shown = report(store, capsys)
    assert shown["states"] == {job.key: 1 for job in jobs}  # each job is named for its state
    assert shown["jobs"] == 10
    assert shown["phases"]["finetune"]["blocked"] == 1
    assert toy.states(store, jobs) == {job.key: job.key for job in jobs}


def test_a_cancellation_of_a_job_that_lives_is_listed_as_asked_for(
    every_state: tuple[Store, list[Job]], capsys: pytest.CaptureFixture[str]
) -> None:
    store, _ = every_state
    Ledger(store.locate_sweep(toy.SWEEP).ledger).append(
        [Event(event=EventKind.CANCELLED, key=key, by="bob") for key in ("running", "queued")]
    )
    shown = report(store, capsys)
    assert (shown["states"]["running"], shown["states"]["queued"], shown["states"]["cancelled"]) == (1, 1, 1)
    wishes = {row["state"]: (row["asked"], row["by"], row["jobs"]) for row in shown["asked"]}
    assert wishes == {"running": ("cancel", "bob", 1), "queued": ("cancel", "bob", 1)}
    main(["status", toy.SWEEP, "--store", str(store.root)])
    assert "1 job: cancel asked by bob, still running: " in capsys.readouterr().out


def test_a_later_start_of_a_running_job_is_numbered(every_state: tuple[Store, list[Job]]) -> None:
    store, jobs = every_state
    run = toy.run_of(store, jobs[1])
    first = AttemptStart.read(run.locate_attempt("local-0001").start)
    assert first is not None
    replace(first, attempt="local-0002", order=2).write(run.locate_attempt("local-0002").start)
    shown = build_status_json(toy.SWEEP, load_snapshot(jobs, store, toy.SWEEP), TimeLeft(None, ""), NOW)
    assert [row["start"] for row in shown["running"]] == [2]
    assert "for 10 min  start 2\n" in format_status(shown, show_all=False)


def test_a_kept_answer_is_shown_with_its_age_and_without_why_a_job_that_runs_was_pending(
    every_state: tuple[Store, list[Job]],
) -> None:
    store, jobs = every_state
    pending = Observation(state=ClusterState.QUEUED, message="waits for the job before it")
    cluster = ClusterReport(observations={"running": pending, "queued": pending}, answer_age_seconds=44.0)
    snapshot = load_snapshot(jobs, store, toy.SWEEP, cluster)
    shown = build_status_json(toy.SWEEP, snapshot, TimeLeft(None, "no trunk has finished"), NOW)
    assert shown["waits"] == [{"state": "queued", "message": "waits for the job before it", "jobs": 1}]
    assert "\n\nSlurm as of 44 s ago; --fresh asks it again\n\n" in format_status(shown, show_all=False)
    fresh = format_status({**shown, "answer_age_seconds": 0.0}, show_all=False)
    assert "Slurm as of" not in fresh


def test_who_ended_a_job_with_scancel_is_named_and_sweep_cancel_needs_no_word(
    every_state: tuple[Store, list[Job]],
) -> None:
    store, jobs = every_state
    scancelled = pending_ending("CANCELLED", key="ready", failure=FailureClass.CANCELLED, cancelled_by_uid=0)
    snapshot = load_snapshot(jobs, store, toy.SWEEP, ClusterReport(accounting_records={"ready": [scancelled]}))
    shown = build_status_json(toy.SWEEP, snapshot, TimeLeft(None, ""), NOW)
    assert shown["states"]["cancelled"] == 2
    told = {row["key"]: (row["state"], row["class"], row["message"]) for row in shown["trouble"]}
    assert told["ready"] == ("cancelled", "cancelled", "cancelled with scancel by root")
    assert "cancelled" not in told
    assert "trouble\n  pretrain c ready  cancelled before it started\n" in format_status(shown, show_all=False)


def test_the_table_shows_states_failures_with_their_log_and_what_they_block(
    every_state: tuple[Store, list[Job]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = every_state
    monkeypatch.setattr(time, "time", lambda: NOW)
    assert main(["status", toy.SWEEP, "--store", str(store.root)]) == 1
    log = store.locate_run("pretrain", "failed").locate_attempt("local-0001").log
    other = store.locate_run("pretrain", "unknown").locate_attempt("local-0001").log
    assert capsys.readouterr().out == (
        "toy                                         jobs  done  running  queued  ready  waiting  interrupted  failed"
        "  blocked  cancelled  unknown\n"
        "trunk     [########################] 100 %     1     1        0       0      0        0            0       0"
        "        0          0        0\n"
        "pretrain  [........................]   0 %     7     0        1       1      1        0            1       1"
        "        0          1        1\n"
        "finetune  [........................]   0 %     2     0        0       0      0        1            0       0"
        "        1          0        0\n"
        "------------------------------------------------------------------------------------------------------------"
        "-----------------------------\n"
        "all       [##......................]  10 %    10     1        1       1      1        1            1       1"
        "        1          1        1\n"
        "\n"
        "running\n"
        "  pretrain a running  step 50 of 150  loss 2.500  for 10 min\n"
        "\n"
        "trouble\n"
        "  pretrain e failed  failed after 1 attempt\n"
        "    diverged: loss is NaN at step 7\n"
        f"    log: {log}\n"
        "  pretrain g unknown  unknown after 1 attempt\n"
        "    attempt local-0001 on elsewhere has no exit record, and it is not known here "
        "whether it still runs; if it does not: `sweep resume toy`\n"
        f"    log: {other}\n"
        "\n"
        "blocked\n"
        "  1 job waits for failed pretrain e failed\n"
        "\n"
        "no estimate yet: no fine-tune has finished\n"
    )


def test_a_long_list_is_cut_unless_all_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "store")
    jobs = [toy.toy_job(f"sick{number}") for number in range(15)]
    jobs += [toy.toy_job(f"child{number}", f"sick{number}") for number in range(15)]
    toy.plan(store, jobs)
    for job in jobs[:15]:
        begin(store, job)
        end(store, job, FailureClass.DATA, "bad shard")
    main(["status", toy.SWEEP, "--store", str(store.root)])
    short = capsys.readouterr().out
    assert short.count("bad shard") == 10
    assert "... 5 more (--all)" in short
    main(["status", toy.SWEEP, "--all", "--store", str(store.root)])
    whole = capsys.readouterr().out
    assert whole.count("bad shard") == whole.count("1 job waits for failed") == 15


def test_a_finished_sweep_has_nothing_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "store")
    jobs = toy.small_graph()
    toy.plan(store, jobs)
    for job in jobs:
        finish(store, job)
    assert main(["status", toy.SWEEP, "--store", str(store.root)]) == 0
    assert capsys.readouterr().out.endswith("\n\nnothing is left to run\n")


def planned(tmp_path: Path, jobs: list[Job]) -> Store:
    store = Store(tmp_path / "store")
    toy.plan(store, jobs)
    return store


def sized(key: str, *parents: str, flops: float = 1e9, gpu_hours: float = 0.0, cpu_hours: float = 0.0) -> Job:
    job = toy.toy_job(key, *parents)
    return Job(
        key=job.key,
        stage=job.stage,
        version=1,
        phase=job.phase,
        parents=parents,
        config=job.config,
        cells=(),
        resources=Resources(gpus_per_node=4) if gpu_hours else Resources(cpus=2),
        estimate=Estimate(flops=flops, gpu_hours=gpu_hours, cpu_hours=cpu_hours),
    )


def left(store: Store) -> TimeLeft:
    """On two cores, or four GPUs: one of the jobs that `sized` makes at once."""
    progress = read_progress(open_sweep(store.root, toy.SWEEP).load_snapshot(), {}, NOW)
    return estimate_time_left(progress, Capacity(cores=2, gpus=4, basis="2 cores"))


def eta_of(store: Store) -> float | None:
    return left(store).seconds


def test_time_left_comes_from_finished_jobs_scaled_by_their_flops(tmp_path: Path) -> None:
    jobs = [sized("a"), sized("b", flops=3e9), sized("c", "b", flops=2e9)]
    store = planned(tmp_path, jobs)
    finish(store, jobs[0], seconds=100.0)
    assert eta_of(store) == pytest.approx(500.0)


def test_a_running_job_is_timed_by_its_own_metrics(tmp_path: Path) -> None:
    job = sized("a")
    store = planned(tmp_path, [job])
    begin(store, job, checkpoint_step=40)
    run = toy.run_of(store, job)
    lines = [
        json.dumps({"step": step, "total_steps": 100, "time": NOW - ago}) + "\n"
        for step, ago in ((10, 9_000), (50, 350), (60, 100))  # the first is of an attempt before
    ]
    run.metrics.write_text("".join(lines))
    lock = acquire_lock(run.lock)
    assert lock is not None
    assert eta_of(store) == pytest.approx(40 * 250 / 10 - 100)  # 10 steps in 250 s, 100 s ago
    run.metrics.write_text(lines[1])  # what the attempt took before its first line is no pace
    assert eta_of(store) is None
    run.metrics.write_text("")
    assert eta_of(store) is None
    os.close(lock)


def test_without_a_finished_job_of_its_kind_nothing_is_said(tmp_path: Path) -> None:
    for name, job in (("gpu", sized("a", gpu_hours=8.0)), ("cpu", sized("a", cpu_hours=2.0)), ("none", sized("a"))):
        assert left(planned(tmp_path / name, [job])) == TimeLeft(None, "no image-text run has finished")


def test_the_local_run_and_the_status_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [toy.toy_job("a", fail="data", fail_at=1), toy.toy_job("b", "a"), toy.toy_job("c")]
    store = planned(tmp_path, jobs)
    run: LocalRunner = toy.local_run(store, jobs)
    from jobs.local.runner import StopRequest

    run.run(StopRequest())
    shown = report(store, capsys)
    assert {key: status.state for key, status in run.snapshot.statuses.items()} == toy.states(store, jobs)
    assert shown["trouble"][0]["message"] == "data at step 1 second line"
    assert shown["blocked"] == [{"key": "a", "phase": "pretrain", "cells": [], "state": "failed", "behind": 1}]
