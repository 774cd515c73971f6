"""`sweep.open` on toy sweeps of real processes."""

import asyncio
import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pytest

import sweep
from jobs.job import Resources
from jobs.store.paths import Store
from jobs.store.sharing import GROUP_UMASK
from tests.jobs import toy
from tests.sweep.synthetic_store import Grid, plan, write_manifest
from tests.sweep.toy_commands import PATIENCE_SECONDS

pytestmark = pytest.mark.usefixtures("counting_stages")


def opened(store: Store) -> sweep.SweepHandle:
    return sweep.open(store.root, toy.SWEEP)


def test_a_sweep_is_run_followed_and_read_and_nothing_is_printed(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.plan(store, toy.small_graph())
    study, lines = opened(store), list[str]()
    assert (study.status().done, study.status().jobs) == (0, 12)
    outcome = study.submit(cpus=2, progress=lines.append)
    assert outcome is not None
    assert outcome.is_complete
    assert repr(outcome) == "toy: 12 of 12 jobs done"
    assert len(lines) == 12
    status = study.wait()
    assert status.is_complete
    assert status.phases["evaluate"]["done"] == 4
    assert "toy" in repr(status)
    assert len(study.plan.done) == 12
    assert "12 jobs" in repr(study)
    assert capsys.readouterr() == ("", "")


def test_a_named_cell_alone_is_run(store: Store) -> None:
    toy.plan(store, toy.small_graph())
    study = opened(store)
    outcome = study.submit("a")
    assert outcome is not None
    assert (outcome.is_complete, study.status().done) == (True, 6)
    assert study.cells["a"].phases["trunk"] == ("trunk1",)
    assert study.cells["b"].phases["trunk"] == ("trunk1", "trunk2")


def test_a_failed_job_is_told_and_a_resumption_repairs_it(store: Store) -> None:
    toy.plan(store, [toy.toy_job("a", fail="data", fail_times=1, cells=["one"]), toy.toy_job("b", "a", cells=["one"])])
    study = opened(store)
    outcome = study.submit()
    assert outcome is not None
    assert not outcome.is_complete
    status = study.wait()  # over, though not complete: nothing goes on by itself
    assert (status.is_over, status.is_complete, len(status.trouble)) == (True, False, 1)
    assert study.logs("one") == "starts at step 0\n"
    again = study.resume("one")
    assert again is not None
    assert again.is_complete


def test_a_cancellation_lasts_until_a_resumption(store: Store) -> None:
    toy.plan(store, toy.small_graph())
    study = opened(store)
    assert study.cancel("a").cancelled == 5
    outcome = study.submit()
    assert outcome is not None
    assert (outcome.states["done"], outcome.states["cancelled"]) == (7, 5)
    assert study.resume(submit=False) is None
    assert study.submit() is not None
    assert study.status().is_complete


def test_a_submission_in_the_background_is_waited_for(store: Store) -> None:
    toy.plan(store, toy.small_graph(step_seconds=0.05))
    study, seen = opened(store), list[int]()
    assert study.submit(background=True) is None
    with pytest.raises(sweep.UsageError, match=r"is being submitted by this process; wait\(\) for it"):
        study.submit()
    status = study.wait(poll_seconds=0.2, progress=lambda status: seen.append(status.done))
    assert status.is_complete
    assert seen[-1] == 12


def test_a_background_submission_is_stopped_gently_and_goes_on_later(store: Store) -> None:
    jobs = [toy.toy_job("slow", steps=2_000, step_seconds=0.02, cells=["one"])]
    toy.plan(store, jobs)
    study = opened(store)
    study.submit(background=True)
    wait_for_steps(store, jobs[0])
    assert not study.wait(timeout=0.1).is_over
    study.stop()
    status = study.wait(poll_seconds=0.1)
    assert status.states["interrupted"] == 1


def wait_for_steps(store: Store, job: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not toy.count(store, job, "step"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_a_background_submission_raises_comes_out_of_wait(store: Store) -> None:
    toy.plan(store, [toy.toy_job("wide", resources=Resources(cpus=999), cells=["one"])])
    study = opened(store)
    study.submit(background=True)
    with pytest.raises(sweep.SweepError, match="can never run here"):
        study.wait(poll_seconds=0.05)


def test_ctrl_c_saves_the_jobs_and_the_handlers_of_before_are_back(store: Store) -> None:
    jobs = [toy.toy_job("slow", steps=2_000, step_seconds=0.02, cells=["one"])]
    toy.plan(store, jobs)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def interrupt() -> None:
        wait_for_steps(store, jobs[0])
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        opened(store).submit()
    thread.join()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert opened(store).status().states["interrupted"] == 1


def test_it_works_in_a_thread_and_under_a_running_event_loop(store: Store) -> None:
    toy.plan(store, toy.small_graph())
    study, found = opened(store), list[object]()
    thread = threading.Thread(target=lambda: found.append(study.submit("a")))
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert isinstance(found[0], sweep.SubmitReport)

    async def work() -> sweep.SubmitReport | None:
        before = signal.getsignal(signal.SIGINT)
        inside = await asyncio.to_thread(study.status)
        assert inside.done == 6
        outcome = study.submit()
        assert signal.getsignal(signal.SIGINT) == before
        return outcome

    outcome = asyncio.run(work())
    assert outcome is not None
    assert study.status().is_complete


def test_threads_that_end_in_another_order_leave_the_umask_as_it_was() -> None:
    before = os.umask(0o027)
    try:
        GROUP_UMASK.enter()
        GROUP_UMASK.enter()
        GROUP_UMASK.exit()
        assert read_umask() == 0o007
        GROUP_UMASK.exit()
        assert read_umask() == 0o027
    finally:
        os.umask(before)


def read_umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda study: study.cells["aa"], sweep.NotPlannedError, "has no cell 'aa'"),
        (lambda study: study.cells.select(size=1), sweep.NotPlannedError, "has no axis 'size'"),
        (lambda study: study.submit("zzz"), sweep.NotPlannedError, "has no cell or job 'zzz'"),
        (lambda study: study.submit(backend="cloud"), sweep.UsageError, "no back end 'cloud'; take local or slurm"),
        (lambda study: study.results("scores"), sweep.UsageError, "no table 'scores'; tables are results"),
        (lambda study: study.metrics("a", phase="x"), sweep.UsageError, "no phase 'x'; phases are trunk"),
        (lambda study: study.logs("a", phase="x"), sweep.UsageError, "no phase 'x'; phases are trunk"),
        (
            lambda study: study.submit(["a", "b"]),
            sweep.UsageError,
            r"one, and \"\['a', 'b'\]\" \(list\) is none",
        ),
        (lambda study: study.metrics(None), sweep.UsageError, "one by one, and 'None'"),
        (lambda study: study.cancel(""), sweep.UsageError, "an empty word names no cell"),
        (lambda study: study.logs("a"), sweep.NotPlannedError, "has started, so there is no log yet"),
        (
            lambda study: sweep.open(study.store, "other"),
            sweep.NotPlannedError,
            "no planned sweep 'other'; it holds toy",
        ),
        (lambda study: sweep.open(study.store, "../toy"), sweep.NotPlannedError, "not a safe name"),
        (lambda _study: sweep.open("/nowhere/store"), sweep.NotPlannedError, "has no only sweep; it holds none"),
    ],
)
def test_wrong_wishes_are_typed_errors(store: Store, call: Any, error: type[Exception], words: str) -> None:
    toy.plan(store, toy.small_graph())
    with pytest.raises(error, match=words):
        call(opened(store))


def test_the_only_sweep_of_a_store_needs_no_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.plan(store, toy.small_graph())
    assert sweep.open(store.root).name == toy.SWEEP
    monkeypatch.setenv("SWEEP_STORE", str(store.root))
    assert sweep.open().name == toy.SWEEP


def test_a_handle_means_the_same_store_from_every_folder(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.plan(store, toy.small_graph())
    monkeypatch.chdir(store.root.parent)
    study = sweep.open(store.root.name, toy.SWEEP)
    monkeypatch.chdir("/")
    assert study.status().jobs == len(toy.small_graph())
    monkeypatch.setenv("HOME", str(store.root.parent))
    assert sweep.open(f"~/{store.root.name}").store == store.root


def test_the_store_of_a_folder_above_is_found_as_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.plan(Store(tmp_path / "store"), toy.small_graph())
    (tmp_path / "notebooks").mkdir()
    monkeypatch.delenv("SWEEP_STORE", raising=False)
    monkeypatch.chdir(tmp_path / "notebooks")
    assert sweep.open().store == (tmp_path / "store").resolve()


def test_cells_go_to_other_processes_and_into_sets_and_loops(tmp_path: Path) -> None:
    plan(Store(tmp_path), Grid("toy", branches=(0, 50), shares=(0.1,), epochs=(1, 2)))
    study = sweep.open(tmp_path, "toy")
    cells = study.cells
    for copied in (pickle.loads(pickle.dumps(cells)), copy.deepcopy(cells)):  # noqa: S301 - our own bytes
        assert list(copied) == list(cells)
        with pytest.raises(TypeError):
            copied[0].axes["branch"] = 1  # type: ignore[index]
    assert len({*cells, *cells}) == 2
    assert pickle.loads(pickle.dumps(study)).cells.names == cells.names  # noqa: S301
    assert [len(study.metrics(cell)) for cell in cells] == [0, 0]
    assert cells[np.int64(1)] is cells[1]
    with pytest.raises(sweep.NotPlannedError, match="none of 1 job has started"):
        study.logs(cells[1], phase="trunk")  # the trunk that it needs, which is no cell's own


def test_what_a_notebook_shows_is_no_markup_of_a_stranger(store: Store) -> None:
    evil = "<script>alert(1)</script>\x1b[2J"
    toy.plan(store, [toy.toy_job("a", fail="data", cells=["one"])])
    study = opened(store)
    study.submit()
    record = {**study.status().record, "remarks": [evil]}
    shown = sweep.SweepStatus(record)
    assert "<script>" not in shown._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u001b[2J" in shown._repr_html_()
    assert "\x1b" not in repr(shown)
    cell = sweep.PlannedCell(name=evil, axes={evil: evil}, block="", jobs=(), phases={}, epochs=())
    for page in (cell._repr_html_(), sweep.CellList("s", [cell])._repr_html_()):
        assert "<script>" not in page
        assert "\x1b" not in page


def test_metrics_and_results_are_frames(store: Store) -> None:
    toy.plan(store, toy.small_graph())
    study = opened(store)
    study.submit("a")
    jobs = study.results("jobs")
    assert sorted(jobs[jobs.state == "done"].key) == ["a-ev1", "a-ev2", "a-ft1", "a-ft2", "a-pre", "trunk1"]
    metrics = study.metrics("a")
    assert set(metrics.columns) == {"key", "phase", "cells", "step", "tokens", "name", "value"}
    assert set(metrics.phase) <= {"trunk", "pretrain", "finetune", "evaluate"}
    assert not (store.locate_sweep(toy.SWEEP).results / "results.parquet").exists()
    assert len(study.results()) == 4


def test_the_import_costs_nothing_and_loads_what_is_asked_for() -> None:
    program = """
import sys
before = set(sys.modules)
import sweep
print(len(set(sys.modules) - before))
assert "sweep.interface.handle" not in sys.modules and "typing" not in set(sys.modules) - before
assert sorted(sweep.__all__) == sweep.__all__ and set(sweep.__all__) <= set(dir(sweep))
import sweep.plan.manifest  # the package's name is taken by its own function's
assert callable(sweep.plan) and sweep.plan.manifest.FORMAT == 1
for name in sweep.__all__:
    getattr(sweep, name)
from sweep import open, plan
assert not {"torch", "pandas", "pyarrow", "numpy"} & set(sys.modules)
try:
    sweep.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, cwd=toy.ROOT, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\nmodule 'sweep' has no attribute 'nothing'\n"


def test_type_checkers_see_the_interface(store: Store) -> None:
    """mypy reads this file as any other."""
    toy.plan(store, toy.small_graph())
    study = assert_type(sweep.open(store.root, toy.SWEEP), sweep.SweepHandle)
    assert_type(study.status().states, Mapping[str, int])
    assert_type(study.cells["a"], sweep.PlannedCell)
    assert_type(study.plan.cells[:1], sweep.CellList)
    with pytest.raises(TypeError):
        sweep.open(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        sweep.plan(3, store=store.root)  # type: ignore[arg-type]


def test_an_override_is_a_column_of_the_results_frame(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), Grid(branches=(0, 50), shares=(0.5,), epochs=(1,)))
    written.cells[0]["axes"] |= {"finetune.peak_lr": 2e-5}
    write_manifest(written)
    frame = sweep.open(tmp_path, "toy").results()
    assert frame["finetune.peak_lr"].dropna().to_dict() == {0: 2e-5}
