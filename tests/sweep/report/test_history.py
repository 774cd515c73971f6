"""`sweep explain`: what happened to the jobs of a cell, by the attempts' records and the cluster's account."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Job, Resources
from jobs.observation import ClusterState, Observation
from jobs.reconcile.accounting import LOST, AccountingRecord
from jobs.reconcile.snapshot import ClusterReport, load_snapshot
from jobs.store.ledger import Event, EventKind, Ledger
from jobs.store.paths import RunPaths, Store, write_json
from jobs.store.records import FailureClass as F
from sweep.cli import main
from sweep.plan.manifest import Manifest
from sweep.report.explain import Explanation, build_explanation_json, explain_cell, format_explanation
from sweep.report.history import build_history, format_history, format_time
from sweep.stored_sweep import StoredSweep
from tests.jobs.reconcile.executions import begin, end, ending, pending_ending
from tests.jobs.toy import toy_job
from tests.sweep.small_sweep import SMALL, planned, written

RESOURCES = Resources(memory_gib=32, retry_memory_gib=64)
FAULT: dict[str, Any] = {"failure": F.NODE_FAULT, "message": "node failure (n2)", "nodes": "n2"}


def lines_of(store: Store, endings: Sequence[AccountingRecord] = (), job: Job | None = None) -> list[str]:
    """The history of one job for a reader, without its times."""
    job = job or toy_job("k", resources=RESOURCES)
    picture = load_snapshot([job], store, "toy", ClusterReport(accounting_records={"k": endings}))
    lines = format_history(job, build_history(job, picture))
    return [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ +", "", line.strip()) for line in lines]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def run(store: Store) -> RunPaths:
    return store.locate_run("pretrain", "k")


def test_nothing_that_happened_is_no_history(store: Store) -> None:
    assert lines_of(store) == []


def test_what_the_cluster_cannot_say_is_told_with_its_reason(store: Store) -> None:
    job = toy_job("k", resources=RESOURCES)
    words = "the controller has forgotten how it ended, and there is no accounting on this cluster"
    seen = Observation(state=ClusterState.ENDED, doubt=words, vouched_from=100.0)
    picture = load_snapshot([job], store, "toy", ClusterReport(observations={"k": seen}))
    assert format_history(job, build_history(job, picture)) == ["  pretrain k, unknown", f"    not known: {words}"]


def test_executions_are_told_in_the_order_of_time_with_what_followed(store: Store, run: RunPaths) -> None:
    end(run, begin(run), F.PREEMPTED, 158.0, checkpoint_step=1_200, checkpoint_at=150.0)
    end(run, begin(run, 2, 303.0, checkpoint_step=1_200), F.OUT_OF_MEMORY, 363.0, message="CUDA out of memory")
    begin(run, 3, 503.0, checkpoint_step=-1)
    rows = [
        ending("PREEMPTED", failure=F.PREEMPTED),
        ending("NODE_FAIL", 200.0, 30, **FAULT),
        ending("FAILED", 300.0, 65, exit_code=1),
        ending("TIMEOUT", 500.0, failure=F.WALL_CLOCK, message="ran into its time limit"),
        ending("FAILED", 700.0, 1, exit_code=76),
        pending_ending("CANCELLED", 800.0),
        AccountingRecord(id="9_1", batch="other", key="k", state=LOST, submitted_at=900.0),
    ]
    assert lines_of(store, rows) == [
        "pretrain k, interrupted",
        "on n1 slurm-12_3-r0  for 57 s  preempted: own words; went on from step 1,200",
        "on n2 12_3  for 30 s  node_fault: node failure (n2); went on from step 1,200",
        "on n1 slurm-12_3-r2  for 60 s  out_of_memory: CUDA out of memory; "
        "tried again from the start, with 64 GiB a node",
        "on n1 slurm-12_3-r3  for 57 s  wall_clock: ran into its time limit; goes on at the next `sweep submit`",
        "on n1 12_3  for 1 s  nothing done: another attempt was at work",
        "12_3  for 0 s  taken out of the queue",
        "9_1  for 0 s  never started, or forgotten by the cluster",
        "memory raised from 32 to 64 GiB a node",
    ]


def test_a_job_that_stopped_says_how_it_goes_on(store: Store, run: RunPaths) -> None:
    end(run, begin(run), F.DIVERGED, 158.0, message="loss is NaN at step 7")
    assert lines_of(store)[1] == (
        "on n1 slurm-12_3-r0  for 57 s  diverged: loss is NaN at step 7; "
        "is not tried again; `sweep resume` gives it a new budget"
    )
    Ledger(store.locate_sweep("toy").ledger).append([Event(event=EventKind.RESUMED, key="k", time=500.0)])
    again = lines_of(store)
    assert again[1].endswith("; goes on at the next `sweep submit`")
    assert again[2] == "`sweep resume` gave it a new budget"


def test_a_finished_job_has_its_history_too(store: Store, run: RunPaths) -> None:
    end(run, begin(run), F.KILLED, 158.0)
    end(run, begin(run, 1, 203.0), None, 258.0)
    write_json(run.result, {"format": 1, "key": "k", "files": {}, "finished_at": 257.0})
    rows = [ending("FAILED", signal=9), ending("COMPLETED", 200.0), ending("COMPLETED", 400.0, 2)]
    assert lines_of(store, rows) == [
        "pretrain k, done",
        "on n1 slurm-12_3-r0  for 57 s  killed: own words; tried again from the start",
        "on n1 slurm-12_3-r1  for 55 s  done",
        "on n1 12_3  for 2 s  nothing to do: the job was done",
    ]


def test_an_execution_that_began_nothing_is_tried_again(store: Store) -> None:
    rows = [ending("NODE_FAIL", 200.0, 30, **FAULT), ending("NODE_FAIL", 300.0, 30, **FAULT)]
    assert [line.rpartition("; ")[2] for line in lines_of(store, rows)[1:]] == [
        "tried again",
        "goes on at the next `sweep submit`",
    ]


def test_what_ran_out_of_memory_twice_is_not_tried_with_more(store: Store) -> None:
    job = toy_job("k", resources=RESOURCES)
    rows = [ending("OUT_OF_MEMORY", at, 30, failure=F.OUT_OF_MEMORY) for at in (100.0, 300.0)]
    last = lines_of(store, rows, job)
    assert last[1].endswith("tried again, with 64 GiB a node")
    assert last[2].endswith("; is not tried again; `sweep resume` gives it a new budget")


def explained(folder: Path) -> tuple[Manifest, Store, Explanation]:
    """The last cell of the small sweep, whose trunk lost its node once and runs out of memory."""
    manifest, store = planned(folder), Store(folder / "store")
    jobs = tuple(replace(job, resources=RESOURCES) if job.phase == "trunk" else job for job in manifest.jobs)
    manifest = replace(manifest, jobs=jobs)
    key = next(job.key for job in jobs if job.phase == "trunk")
    rows = [
        ending("NODE_FAIL", 200.0, 30, key=key, **FAULT),
        ending("OUT_OF_MEMORY", 300.0, 30, key=key, failure=F.OUT_OF_MEMORY),
    ]
    picture = load_snapshot(jobs, store, manifest.sweep, ClusterReport(accounting_records={key: rows}))
    return manifest, store, explain_cell(StoredSweep(store, manifest), manifest.cells[-1], picture, 1_000.0)


def test_history_and_excluded_nodes_stand_below_the_chain(tmp_path: Path) -> None:
    text = format_explanation(explained(tmp_path)[2])
    history = text.partition("\nhistory:\n")[2].splitlines()
    assert history[0].startswith("  trunk ")
    assert history[1].startswith(f"    {format_time(200.0)}  on n2 12_3  for 30 s  node_fault: node failure (n2)")
    assert history[3] == "    memory raised from 32 to 64 GiB a node"
    assert history[-2:] == [
        "nodes that the next attempts avoid:",
        f"  n2 until {format_time(230.0 + 24 * 3600)}: node fault: node failure (n2)",
    ]


def test_json_tells_the_same_and_the_document_names_every_field(tmp_path: Path) -> None:
    report = build_explanation_json(explained(tmp_path)[2])
    trunk = report["jobs"][0]
    assert [row["ended"] for row in trunk["history"]] == ["node_fault", "out_of_memory"]
    assert (trunk["status"], trunk["memory_gib"], trunk["memory_raised"]) == ("interrupted", 64, True)
    assert report["excluded_nodes"][0]["node"] == "n2"
    text = (Path(__file__).parents[3] / "docs" / "json.md").read_text()
    section = re.split(r"^## ", text.split("## explain\n")[1], flags=re.MULTILINE)[0]
    names = {*report, *trunk, *trunk["history"][0], *report["excluded_nodes"][0]}
    assert [name for name in sorted(names) if f"`{name}`" not in section] == []


def test_the_command_reads_the_attempts_of_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(written(tmp_path, SMALL)), "--store", str(tmp_path / "store")]) == 0
    manifest = planned(tmp_path)
    cell = manifest.cells[0]
    run = Store(tmp_path / "store").locate_run("pretrain", cell.pretrain)
    start = begin(run, key=cell.pretrain, job_id="", batch="", backend="local")
    end(run, start, F.DATA, 158.0, message="too many bad samples")
    capsys.readouterr()
    assert main(["explain", cell.name, "--store", str(tmp_path / "store"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    job = next(job for job in report["jobs"] if job["key"] == cell.pretrain)
    assert (job["status"], job["history"][0]["message"]) == ("failed", "too many bad samples")
    assert report["excluded_nodes"] == []
