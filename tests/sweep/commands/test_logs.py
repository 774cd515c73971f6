"""`sweep logs` as a user meets it, with real processes."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from jobs.local.runner_lock import hold_runner_lock
from jobs.store.ledger import Event, EventKind, Ledger
from jobs.store.paths import AttemptPaths, Store, write_json
from jobs.store.records import AttemptExit, AttemptStart, FailureClass
from tests.jobs import toy
from tests.sweep.pretended_slurm import BATCH, TASK, pretend_slurm
from tests.sweep.toy_commands import PATIENCE_SECONDS, beside, sweep, wait_until_it_works

pytestmark = pytest.mark.usefixtures("counting_stages")


def test_logs_shows_the_job_that_matters(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [
        toy.toy_job("a", cells=["x"]),
        toy.toy_job("b", cells=["y"], fail="raise"),
        toy.toy_job("c", "a", cells=["x"]),
    ]
    toy.plan(store, jobs)
    assert sweep(store, "logs") == 1
    said = capsys.readouterr().err
    assert "none of these 3 jobs has begun its log" in said
    assert "`sweep submit toy` starts them" in said
    sweep(store, "submit")
    capsys.readouterr()
    assert sweep(store, "logs") == 0  # the failed one
    printed = capsys.readouterr()
    assert "RuntimeError" in printed.out
    head, path, following = printed.err.splitlines()
    assert re.fullmatch(
        rf"y pretrain b, attempt local-0002 on {re.escape(os.uname().nodename)}: failed \(unknown\) after \d+ s", head
    )
    assert path == f"{toy.run_of(store, jobs[1]).locate_attempt('local-0002').log}"
    assert following.startswith("failed: ")
    assert following.endswith("repair that, then `sweep resume toy b`")
    assert sweep(store, "logs", "a", "-f") == 0
    printed = capsys.readouterr()
    assert printed.out == "starts at step 0\n"
    assert printed.err.splitlines()[-1] == "done; `sweep status toy` shows the rest of the sweep"
    assert sweep(store, "logs", "x", "--path") == 0  # the one that started last
    assert capsys.readouterr().out == f"{toy.run_of(store, jobs[2]).locate_attempt('local-0001').log}\n"


def test_an_unknown_phase_is_refused_with_the_known_ones(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    toy.plan(store, toy.small_graph())
    with pytest.raises(SystemExit, match="2"):
        sweep(store, "logs", "a", "--phase", "foo")
    told = capsys.readouterr().err
    assert "--phase" in told
    assert all(name in told for name in ("trunk", "pretrain", "finetune", "evaluate"))
    toy.plan(store, [*toy.small_graph(), toy.toy_job("lone", cells=["z"])])
    assert sweep(store, "logs", "z", "--phase", "evaluate") == 1
    assert "z: has no job of phase evaluate; its jobs are of pretrain" in capsys.readouterr().err


def test_the_trunk_of_a_cell_is_found_though_no_cell_owns_it(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = toy.small_graph()
    toy.submit(store, jobs)
    assert sweep(store, "logs", "b", "--phase", "trunk", "--path") == 0
    assert "/trunk2/" in capsys.readouterr().out  # of the two segments below it the newest
    assert sweep(store, "logs", "a", "--phase", "trunk", "--path") == 0
    assert "/trunk1/" in capsys.readouterr().out


def read_head(reader: "subprocess.Popen[str]") -> str:
    """The line that says whose log it is: when it is there, the reader follows."""
    assert reader.stderr is not None
    return reader.stderr.readline()


def test_logs_follows_a_live_attempt_to_its_end(store: Store) -> None:
    job = toy.toy_job("a", steps=6, gate_at=3, last_words="the last words")
    toy.plan(store, [job])
    with beside(store, "submit"):
        wait_until_it_works(store, job)
        with beside(store, "logs", "a", "--follow") as reader:
            head = read_head(reader)
            toy.open_gate(store, job)
            out, err = reader.communicate(timeout=PATIENCE_SECONDS)
    assert out == "starts at step 0\nthe last words\n"
    assert re.match(r"pretrain a, attempt local-0001 on \S+: running for \d+ s$", head)
    assert err.splitlines()[-1] == "done; `sweep status toy` shows the rest of the sweep"


def test_logs_follows_a_job_to_its_next_attempt_and_says_so(store: Store) -> None:
    job = toy.toy_job("a", steps=6, gate_at=3, last_words="the last words")
    toy.plan(store, [job])
    with beside(store, "submit"):
        wait_until_it_works(store, job)
        with beside(store, "logs", "a", "--follow") as reader:
            assert "attempt local-0001 on" in read_head(reader)
            start = AttemptStart.read(toy.run_of(store, job).locate_attempt("local-0001").start)
            assert start is not None
            os.killpg(start.pid, signal.SIGKILL)  # supervisor and stage: nothing is noted
            toy.open_gate(store, job)
            out, err = reader.communicate(timeout=PATIENCE_SECONDS)
    assert out.splitlines()[-1] == "the last words"
    assert "pretrain a, attempt local-0002 on" in err
    assert err.splitlines()[-1] == "done; `sweep status toy` shows the rest of the sweep"


def test_logs_waits_for_the_first_attempt_of_a_queued_job(store: Store) -> None:
    jobs = [toy.toy_job("a", steps=6, gate_at=3), toy.toy_job("b", last_words="b's words")]
    toy.plan(store, jobs)
    with beside(store, "submit", "--cpus", "1"):
        wait_until_it_works(store, jobs[0])
        with beside(store, "logs", "b", "--follow") as reader:
            assert read_head(reader) == "no log yet: waits for the job to start (Ctrl-C ends the wait)\n"
            toy.open_gate(store, jobs[0])
            out, _ = reader.communicate(timeout=PATIENCE_SECONDS)
    assert out.splitlines()[-1] == "b's words"


def test_a_job_that_was_just_started_runs_and_its_log_is_waited_for(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its folder is not there yet: the runner's ledger alone knows of it."""
    toy.plan(store, [toy.toy_job("a")])
    ledger = Ledger(store.locate_sweep(toy.SWEEP).ledger)
    with hold_runner_lock(store, sweep=toy.SWEEP, writer=ledger.writer):
        ledger.append(Event(event=kind, key="a") for kind in (EventKind.INTENT, EventKind.STARTED))
        assert sweep(store, "status", "--json") == 0
        assert json.loads(capsys.readouterr().out)["states"]["running"] == 1
        assert sweep(store, "logs", "a") == 1
    assert "this job has not begun its log; `sweep logs toy -f` waits for it" in capsys.readouterr().err


def test_ctrl_c_ends_the_following_alone(store: Store) -> None:
    job = toy.toy_job("a", steps=6, gate_at=3)
    toy.plan(store, [job])
    with beside(store, "submit") as runner:
        wait_until_it_works(store, job)
        with beside(store, "logs", "a", "--follow") as reader:
            read_head(reader)
            reader.send_signal(signal.SIGINT)
            _, err = reader.communicate(timeout=PATIENCE_SECONDS)
        toy.open_gate(store, job)
        runner.communicate(timeout=PATIENCE_SECONDS)  # the job goes on to its end
    assert (reader.returncode, runner.returncode) == (130, 0)
    assert err.splitlines()[-1] == "no longer followed; a is not touched by that"


def test_a_log_of_another_machine_is_read_until_its_end_is_noted(store: Store) -> None:
    """As over a shared file system: the lock is not seen here, and the note of the end is."""
    job = toy.toy_job("a")
    toy.plan(store, [job])
    paths = toy.run_of(store, job).locate_attempt("slurm-7-r0-0000aa")
    AttemptStart(
        attempt=paths.root.name, key="a", stage="pretrain", backend="slurm", host="elsewhere", pid=1, pid_started=0.0,
        boot_id="x", started_at=time.time() - 60,
    ).write(paths.start)  # fmt: skip
    paths.log.write_text("12:00:00Z  step 1 of 3\n")
    from sweep.report.attempt_log import LogReader, describe_log, find_newest_log
    from sweep.stored_sweep import open_sweep

    stored = open_sweep(store.root, toy.SWEEP)
    log = find_newest_log(stored.load_snapshot(), stored.select_jobs([]), stored.paths)
    assert log is not None
    assert "attempt slurm-7-r0-0000aa on elsewhere: unknown" in describe_log(log, time.time())
    reader = LogReader(log.path)
    assert reader.read_new() == "12:00:00Z  step 1 of 3\n"
    with paths.log.open("ab") as file:
        file.write("l\u00e9".encode()[:2])  # half a letter
    assert reader.read_new() == "l"
    with paths.log.open("ab") as file:
        file.write("\u00e9".encode()[1:] + b"\n")
    assert reader.read_new() == "\u00e9\n"
    assert not log.has_successor()
    following = toy.run_of(store, job).locate_attempt("slurm-7-r1-0000aa")
    following.root.mkdir()
    assert not log.has_successor()  # it has not begun
    AttemptStart(
        attempt=following.root.name, key="a", stage="pretrain", backend="slurm", host="elsewhere", pid=1,
        pid_started=0.0, boot_id="x", started_at=time.time(),
    ).write(following.start)  # fmt: skip
    assert log.has_successor()
    AttemptExit(attempt=paths.root.name, key="a", ended_at=time.time(), returncode=0, failure=None).write(paths.exit)
    assert not log.can_grow()


def test_logs_follows_a_requeued_job_of_slurm_on_another_machine(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preempted on one node, started again on another: the files show it, and squeue has the job all the while."""
    job = toy.toy_job("a", cells=["x"])
    toy.plan(store, [job], backend="slurm")
    monkeypatch.setenv("PATH", pretend_slurm(tmp_path, store, job.key))

    def begin(attempt: str, node: str, restart: int) -> AttemptPaths:
        paths = toy.run_of(store, job).locate_attempt(attempt)
        paths.root.mkdir(parents=True)
        paths.log.write_text(f"begins on {node}\n")
        AttemptStart(
            attempt=attempt, key="a", stage="pretrain", backend="slurm", host=node, pid=1, pid_started=0.0, boot_id="x",
            started_at=time.time(), job_id=TASK, batch=BATCH, restart=restart, node=node,
        ).write(paths.start)  # fmt: skip
        return paths

    def end(paths: AttemptPaths, failure: FailureClass | None) -> None:
        AttemptExit(attempt=paths.root.name, key="a", ended_at=time.time(), returncode=75, failure=failure).write(
            paths.exit
        )

    first = begin("slurm-7_0-r0-0000aa", "n1", 0)
    with beside(store, "logs", "x", "-f") as reader:
        assert "x pretrain a, attempt slurm-7_0-r0-0000aa on n1: running for" in read_head(reader)
        end(first, FailureClass.PREEMPTED)
        second = begin("slurm-7_0-r1-0000aa", "n2", 1)
        write_json(toy.run_of(store, job).result, {
            "format": 1, "key": "a", "stage": "pretrain", "finished_at": time.time(), "seconds": 1.0, "files": {},
        })  # fmt: skip
        end(second, None)
        out, err = reader.communicate(timeout=PATIENCE_SECONDS)
    assert out == "begins on n1\nbegins on n2\n"
    assert "x pretrain a, attempt slurm-7_0-r1-0000aa on n2: done" in err
    assert err.splitlines()[-1] == "done; `sweep status toy` shows the rest of the sweep"
