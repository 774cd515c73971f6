"""`sweep status --watch` on a real terminal: what its screen shows, what keys do, and what is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.job import Job
from jobs.slurm.query import drop_answers
from jobs.store.paths import Store
from tests.jobs import toy
from tests.sweep.pretended_slurm import BATCH, TASK, pretend_slurm
from tests.sweep.watch.pty_screen import ROOT, PtyScreen, open_pty_screen
from tests.sweep.watch.watched_store import hold, make_jobs, open_watched_store, write_end, write_metrics, write_start

LEAVES_SCREEN, SHOWS_CURSOR = b"\x1b[?1049l", b"\x1b[?25h"
LARGE = (200, 60)


def words(root: Path) -> list[str]:
    return ["status", toy.SWEEP, "--watch", "--store", str(root)]


def check_left(view: PtyScreen) -> None:
    """The terminal is as it was."""
    assert view.attributes == view.before
    assert view.written.rfind(LEAVES_SCREEN) > view.written.rfind(b"\x1b[?1049h") >= 0
    assert view.written.rfind(SHOWS_CURSOR) > view.written.rfind(b"\x1b[?25l")


@pytest.mark.parametrize("count", [3, 72, 2_710, 20_000])
def test_the_view_fits_the_terminal_and_follows_its_size(count: int, tmp_path: Path) -> None:
    done, running = (1, 1) if count == 3 else (8, 5)
    with (
        open_watched_store(tmp_path, make_jobs(count), done=done, running=running) as store,
        open_pty_screen(*words(store.root)) as view,
    ):
        view.wait_for("q quit", "200/300", "█")
        assert view.lines[0].startswith(f" toy  {count:,} jobs: {done} done, {running} running")
        assert [line.split()[0] for line in view.lines[1:5]] == ["pretrain", "finetune", "evaluate", "all"]
        assert f"{done} of {count:,}" in view.lines[4]
        assert view.lines[5].startswith("time   ")
        assert any(line.startswith("hours  ") for line in view.lines[6:9])
        assert sum("running" in line and "200/300" in line for line in view.lines) == running
        assert view.lines[23].startswith(" q quit")
        view.resize(LARGE)
        view.wait_for("enter history", "r read again", "█▇")
        assert len(view.lines) == 60
        assert view.lines[59].startswith(" q quit")
        row = next(line for line in view.lines if "200/300" in line)
        assert "█▇" in row  # the loss falls
        assert "12.3k" in row
        assert row.endswith(" s")  # ten seconds left at ten steps a second
        view.resize((60, 12))
        view.wait_for("sort:state", f"{count:,} jobs:", "200/300", absent="r read again")
        assert view.lines[0].startswith(" toy  ")
        assert "200/300" in view.text
        for size in ((44, 12), (30, 10)):  # a part of a window
            view.resize(size)
            view.wait_for(" q", "runn")
        view.press(b"q")
        assert os.waitstatus_to_exitcode(view.wait_for_end()) == 0
        check_left(view)


def test_keys_sort_filter_find_and_open_history_and_log(tmp_path: Path) -> None:
    jobs = make_jobs(72)
    with (
        open_watched_store(tmp_path, jobs, done=5, running=2, failed="ValueError: no such column") as store,
        open_pty_screen(*words(store.root), size=(110, 30)) as view,
    ):
        view.wait_for("filter: active", "code: ValueError: no such column", "sweep resume toy")
        view.press(b"s")
        view.wait_for("sort: phase", "phase ^")
        view.press(b"S")
        view.wait_for("phase v")
        view.press(b"f")
        view.wait_for("filter: running", absent="ValueError")
        view.press(b"ff")
        view.wait_for("filter: all", "(72)")
        view.press(b"/ft00003")
        view.wait_for("/ft00003_", "(4)")
        view.press(b"\r")
        view.wait_for("/ find: ft00003")
        view.press(b"\x1b")
        view.wait_for("(72)")
        view.press(b"/trouble\x1b")
        view.wait_for("(72)")
        view.press(b"/failed\r")
        view.wait_for("(1)", "ValueError")
        view.press(b"\r")
        view.wait_for("history of", "failed", "code: ValueError: no such column", "log: ")
        view.press(b"\x1b")
        view.wait_for("(1)")
        view.press(b"\x1b")
        view.press(b"/running\r")
        view.wait_for("(2)")
        view.press(b"\x1b[B\x1b[B\x1b[Al")  # down, down, up, log
        view.wait_for("running for", "begins at step 0 of 300")
        with toy.run_of(store, jobs[6]).locate_attempt("local-0001").log.open("a") as log:
            log.write("".join(f"10:00:{number:02}Z  step {number} of 300\n" for number in range(60)))
        view.wait_for("step 59 of 300")  # it grows, and its end is kept on the screen
        view.press(b"\x1b[H")
        view.wait_for("begins at step 0", absent="step 59 of 300")
        view.press(b"\x1b[F")
        view.wait_for("step 59 of 300")
        view.press(b"?")
        view.wait_for("sort by the next column")
        view.press(b"\x1b")
        view.wait_for("(2)")
        view.press(b"q")
        assert os.waitstatus_to_exitcode(view.wait_for_end()) == 1  # a job has failed
        check_left(view)
        assert "toy: no longer watched; jobs are not touched by that. Next: " in view.text


def test_jobs_that_begin_go_on_and_end_are_seen_without_reading_all_again(tmp_path: Path) -> None:
    jobs = make_jobs(72)
    with (
        open_watched_store(tmp_path, jobs, done=4, running=1) as store,
        open_pty_screen(*words(store.root), size=(120, 30)) as view,
    ):
        view.wait_for("4 done, 1 running", "200/300")
        write_metrics(store, jobs[4], [250])
        view.wait_for("250/300")
        write_start(store, jobs[5])
        held = hold(store, jobs[5])
        view.wait_for("4 done, 2 running", jobs[5].key)
        write_end(store, jobs[5])
        os.close(held)
        view.wait_for("5 done, 1 running")
        held = hold(store, jobs[5])
        os.close(held)
        view.press(b"q")
        view.wait_for_end()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP), (signal.SIGINT, 130)]
)
def test_the_terminal_is_restored_however_the_view_ends(number: signal.Signals, code: int, tmp_path: Path) -> None:
    with (
        open_watched_store(tmp_path, make_jobs(3), done=1, running=1) as store,
        open_pty_screen(*words(store.root)) as view,
    ):
        view.wait_for("q quit")
        assert view.attributes != view.before
        if number is signal.SIGINT:
            view.press(b"\x03")  # as the key, which the terminal turns into the signal
        else:
            os.kill(view.pid, number)
        assert os.waitstatus_to_exitcode(view.wait_for_end()) == code
        check_left(view)
        assert "Traceback" not in view.text


def test_the_view_is_put_aside_by_ctrl_z_and_comes_back(tmp_path: Path) -> None:
    shell = ["bash", "--norc", "--noprofile", "-i"]
    with (
        open_watched_store(tmp_path, make_jobs(3), done=1, running=1) as store,
        open_pty_screen(program=shell, PS1="shell> ", size=(120, 24)) as view,
    ):
        view.wait_for("shell>")
        view.press(f"{sys.executable} -m sweep {' '.join(words(store.root))}\n".encode())
        view.wait_for("q quit", "200/300")
        view.press(b"\x1a")
        view.wait_for("Stopped")
        # the sum stands in what is printed alone: the keys that were pressed are shown at once, and keys that come
        # before the view is back are nobody's
        view.press(b"clear; stty -a | grep -o -e '-*icanon' -e '-*echo '; echo put aside $((40 + 2))\n")
        view.wait_for("icanon", "echo", "put aside 42", absent="q quit")
        assert "-icanon" not in view.text
        view.press(b"fg\n")
        view.wait_for("q quit", "200/300")
        view.press(b"q")
        view.wait_for("no longer watched", "shell>")
        view.press(b"exit\n")
        view.wait_for_end()


HOSTILE = "[red]\x1b[31m\x1b]0;owned\x07\u202egnp.exe\r\nnew line[/red]" + "x" * 300


def test_names_messages_and_logs_steer_neither_terminal_nor_view(tmp_path: Path) -> None:
    jobs = make_jobs(18)  # names of cells and keys are plain words: a manifest with others is refused
    with (
        open_watched_store(tmp_path, jobs, done=1, running=1, failed=HOSTILE) as store,
        open_pty_screen(*words(store.root), size=(140, 30)) as view,
    ):
        toy.run_of(store, jobs[1]).locate_attempt("local-0001").log.write_text(HOSTILE, newline="")
        write_start(store, jobs[2], host="[blue]\x1b[5mhost\u202e[/blue]")
        view.wait_for("q quit", r"code: [red]\u001b")
        view.press(b"l")
        view.wait_for(r"\u001b]0;owned\u0007\u202egnp.exe", "new line[/red]")
        view.press(b"\x1b")
        view.wait_for("filter")
        view.press(b"jh")
        view.wait_for("history of", r"[red]\u001b[31m\u001b]0;owned\u0007\u202egnp.exe")
        view.press(b"\x1br")
        view.read(3.0)
        view.press(b"l")
        view.wait_for(r"on [blue]\u001b[5mhost\u202e[/blue]")
        view.press(b"q")
        view.wait_for_end()
        assert b"\x1b]0;" not in view.written
        assert "\u202e".encode() not in view.written
        check_left(view)


def test_an_empty_a_new_and_a_finished_sweep_say_what_to_do(tmp_path: Path) -> None:
    for name, count, done, counts, step in (
        ("new", 9, 0, "1 ready, 8 waiting", "nothing runs: `sweep submit toy` starts what is missing"),
        ("finished", 9, 9, "9 done", "all is done: `sweep results toy` writes tables and figures"),
        ("empty", 0, 0, "none", "all is done"),
    ):
        with (
            open_watched_store(tmp_path / name, make_jobs(count), done=done, running=0) as store,
            open_pty_screen(*words(store.root)) as view,
        ):
            view.wait_for("q quit", f"next   {step}")
            assert view.lines[0].startswith(f" toy  {count} jobs: {counts}  read"), view.text
            view.press(b"f")
            view.press(b"q")
            assert os.waitstatus_to_exitcode(view.wait_for_end()) == 0


def test_where_there_is_no_terminal_one_line_says_what_would_do(tmp_path: Path) -> None:
    with open_watched_store(tmp_path, make_jobs(3), done=1, running=0) as store:
        command = [sys.executable, "-m", "sweep", *words(store.root)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr == (
            "sweep status: --watch needs a terminal, and standard input is not a terminal; `sweep status toy` prints "
            "the same once, and --json is for programs\n"
        )
        with open_pty_screen(*words(store.root), size=(120, 24), TERM="dumb") as view:
            assert os.waitstatus_to_exitcode(view.wait_for_end()) == 2
            assert "TERM is dumb" in view.text


def test_an_idle_view_takes_hardly_any_cpu(tmp_path: Path) -> None:
    with (
        open_watched_store(tmp_path, make_jobs(72), done=8, running=5) as store,
        open_pty_screen(*words(store.root)) as view,
    ):
        view.wait_for("q quit", "200/300")
        view.read(3.0)
        before, deadline = view.measure_cpu(), time.monotonic() + 8
        while time.monotonic() < deadline:
            view.read(0.5)
        assert view.measure_cpu() - before < 0.25  # docs/watch.md has a minute's; here a start-up would be seen
        view.press(b"q")
        view.wait_for_end()


def pretend_running(folder: Path, store: Store, job: Job) -> str:
    """A job at its 200th step by its files and by squeue; the PATH for it."""
    write_start(store, job, host="n1", attempt=f"slurm-{TASK}-r0-0000aa", batch=BATCH)
    write_metrics(store, job, range(10, 210, 10))
    return pretend_slurm(folder, store, job.key)


def test_slurm_is_asked_once_a_minute_at_most_whatever_is_pressed(tmp_path: Path) -> None:
    jobs = make_jobs(9)
    with open_watched_store(tmp_path / "store", jobs, done=0, running=0) as store:
        with open_pty_screen(*words(store.root), PATH=pretend_running(tmp_path, store, jobs[0])) as view:
            view.wait_for("q quit", "1 running", "200/300")
            for _ in range(4):
                view.press(b"r")
                view.read(1.0)
            view.press(b"l")
            view.wait_for("attempt slurm-7_0-r0-0000aa on n1: running for", "begins at step 0")
            view.press(b"q")
            view.wait_for_end()
        assert (tmp_path / "asked").read_text().split().count("squeue") == 1


def test_a_change_of_the_queue_by_a_round_elsewhere_is_seen_within_seconds(tmp_path: Path) -> None:
    jobs = make_jobs(9)
    with open_watched_store(tmp_path / "store", jobs, done=0, running=0) as store:
        path = pretend_running(tmp_path, store, jobs[0])
        with open_pty_screen(*words(store.root), PATH=path) as view:
            view.wait_for("q quit", "1 running")
            began = time.monotonic()
            pending = (tmp_path / "squeue").read_text().replace("RUNNING", "PENDING").replace("n1", "")
            (tmp_path / "squeue").write_text(pending)
            view.read(3.0)
            drop_answers(store, toy.SWEEP)  # as a round does at its beginning and its end
            view.wait_for("1 queued", absent="1 running")
            assert time.monotonic() - began < 45  # not at the next reading, after a minute
            view.press(b"q")
            view.wait_for_end()
        assert (tmp_path / "asked").read_text().split().count("squeue") == 2


def test_a_plan_that_was_made_anew_is_shown_and_one_that_is_gone_is_told(tmp_path: Path) -> None:
    with (
        open_watched_store(tmp_path, make_jobs(9), done=2, running=0) as store,
        open_pty_screen(*words(store.root), size=(120, 24)) as view,
    ):
        view.wait_for("9 jobs: 2 done")
        began = time.monotonic()
        toy.plan(store, make_jobs(18, cell="a-longer-name-b{}-i50"))
        view.wait_for("18 jobs: 2 done")
        assert time.monotonic() - began < 45
        view.press(b"fff")
        view.wait_for("a-longer-name-b0-i50")
        store.locate_sweep(toy.SWEEP).manifest.rename(tmp_path / "kept")
        view.wait_for("NOT READ", "has no planned sweep")
        (tmp_path / "kept").rename(store.locate_sweep(toy.SWEEP).manifest)
        view.wait_for("18 jobs: 2 done", absent="NOT READ")
        view.press(b"q")
        assert os.waitstatus_to_exitcode(view.wait_for_end()) == 0
