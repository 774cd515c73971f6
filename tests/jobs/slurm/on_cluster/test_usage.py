"""GPU-seconds of a campaign with requeues, a preemption, a lost node, failures: ours against a sum over raw sacct."""

import sys
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Job, Resources
from jobs.reconcile import usage
from sweep.results.evidence import load_job_evidence
from sweep.results.write import WrittenTables, write_tables
from sweep.stored_sweep import open_sweep
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.fakes import FOLDER
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import ToySweep

GPUS = Resources(gpus_per_node=2, gpu_type="a100", memory_gib=0.25, time_minutes=10, options={"qos": "low"})
LONG: dict[str, Any] = {"resources": GPUS, "steps": 30, "step_seconds": 0.2, "gate_at": 10}
FIRST_RANK_STAGE = (sys.executable, "-S", str(FOLDER / "first_rank_stage.py"))
SHORT: dict[str, Any] = {"resources": GPUS, "steps": 2}


def campaign() -> list[Job]:
    """A trunk that two cells share, and jobs that something will happen to."""
    jobs = [toy.toy_job("trunk", phase="trunk", **SHORT)]
    for cell in ("a", "b"):
        jobs.append(toy.toy_job(f"{cell}-pre", "trunk", cells=[cell], **SHORT))
        jobs.append(toy.toy_job(f"{cell}-ft", f"{cell}-pre", phase="finetune", cells=[cell], **SHORT))
        jobs.append(toy.toy_job(f"{cell}-ev", f"{cell}-ft", phase="evaluate", cells=[cell], **SHORT))
    jobs += [toy.toy_job(name, cells=[name], **LONG) for name in ("requeued", "unlucky", "preempted")]
    jobs.append(toy.toy_job("killed", cells=["killed"], fail="kill", fail_at=1, fail_times=1, **SHORT))
    lost: dict[str, Any] = {"resources": GPUS, "step_seconds": 1.5, "save_every": 9}
    jobs.append(toy.toy_job("nan", cells=["nan"], fail="diverged", fail_at=1, **lost))
    return jobs


def seconds_by_sacct(lab: Lab, ids: Collection[str]) -> dict[str, int]:
    """GPU-seconds by task, by nothing but the text of sacct."""
    text = lab.output("sacct", "-n", "-P", "-D", "-X", "-j", ",".join(ids), "-o", "JobID,ElapsedRaw,AllocTRES")
    found: dict[str, int] = defaultdict(int)
    for line in text.splitlines():
        task, elapsed, resources = line.split("|")
        gpus = [int(part.removeprefix("gres/gpu=")) for part in resources.split(",") if part.startswith("gres/gpu=")]
        found[task] += int(elapsed) * sum(gpus)
    return dict(found)


def words_by_sacct(lab: Lab, task: str) -> list[str]:
    return lab.output("sacct", "-n", "-P", "-D", "-X", "-j", task, "-o", "State").splitlines()


def running(toys: ToySweep, key: str) -> str:
    """The task of a job whose stage is at work."""
    wait_for(f"{key} to be at work", lambda: toys.began(key), seconds=60)
    task = toys.ids()[key][-1]
    toys.lab.wait_job(task, "RUNNING", seconds=60)
    return task


def written(toys: ToySweep) -> WrittenTables:
    return write_tables(open_sweep(toys.store.root, toy.SWEEP))


def settled(toys: ToySweep) -> bool:
    """Every row of sacct is closed, as squeue is empty and nothing is told apart any more."""
    ids = [task for tasks in toys.ids().values() for task in tasks]
    text = toys.lab.output("sacct", "-n", "-P", "-D", "-X", "-j", ",".join(ids), "-o", "State")
    return not toys.queue() and not {"RUNNING", "PENDING", "COMPLETING"} & set(text.split())


@pytest.fixture
def toys(slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToySweep:
    """The campaign, not yet sent."""
    return ToySweep(slurm, tmp_path, campaign(), monkeypatch, stage=FIRST_RANK_STAGE)


def go_through_it(toys: ToySweep) -> None:
    """A requeue, a node that is lost, a preemption; then to the end."""
    slurm = toys.lab
    told = toys.sweep("submit")
    assert told.code == 0, told.err
    requeued = running(toys, "requeued")
    slurm.output("scontrol", "requeue", requeued)
    toys.open_gate("requeued")
    slurm.wait_job(requeued, "PENDING")  # its node must not go down while it ends there: it would be launched twice
    unlucky = running(toys, "unlucky")
    slurm.set_node_state(slurm.output("squeue", "-h", "-r", "-o", "%N", "-j", unlucky), "down")
    wait_for("the unlucky job to have lost its node", lambda: "NODE_FAIL" in words_by_sacct(slurm, unlucky), seconds=30)
    toys.open_gate("unlucky")
    slurm.wait_ready()
    preempted = running(toys, "preempted")
    time.sleep(1.5)  # so that there is something to keep
    high = ("--qos=high", "--nodes=4", "--exclusive", "--gres=gpu:8", "--output=/dev/null", "--wrap=sleep 1")
    slurm.output("sbatch", *high)
    wait_for("the preemption", lambda: "PREEMPTED" in words_by_sacct(slurm, preempted), seconds=30)
    toys.open_gate("preempted")
    toys.ticks_until(lambda report: report["states"]["done"] == len(toys.jobs) - 1, seconds=120)
    wait_for("sacct to have heard of every end", lambda: settled(toys), seconds=30)
    words = {key: words_by_sacct(slurm, toys.ids()[key][0]) for key in ("requeued", "unlucky", "preempted")}
    assert "REQUEUED" in words["requeued"]
    assert "NODE_FAIL" in words["unlucky"]
    assert "PREEMPTED" in words["preempted"]


def test_gpu_seconds_are_those_of_sacct_for_every_job_whatever_happened_to_it(toys: ToySweep) -> None:
    go_through_it(toys)
    tables = written(toys)
    rows = {row["key"]: row for row in tables.jobs.to_pylist()}
    tasks = toys.ids()
    expected = seconds_by_sacct(toys.lab, [task for own in tasks.values() for task in own])
    for key, row in rows.items():
        used, wasted = (round(3600 * row[f"{kind}_gpu_hours"], 6) for kind in ("used", "wasted"))
        assert used + wasted == sum(expected.get(task, 0) for task in tasks[key]), key
        assert (row["hours_source"], row["used_a100_hours"]) == ("slurm", row["used_gpu_hours"])
        assert row["state"] == ("failed" if key == "nan" else "done")
        assert used > 0 if row["steps"] == LONG["steps"] else used >= 0  # a short job may have taken 0 s by sacct
    assert round(3600 * sum(gpu_hours(row) for row in rows.values()), 3) == sum(expected.values())
    assert rows["nan"]["used_gpu_hours"] == 0 < rows["nan"]["wasted_gpu_hours"]  # it saved nothing
    assert (rows["nan"]["attempts"], rows["nan"]["failure"]) == (1, "diverged")
    assert rows["killed"]["attempts"] == 2
    assert_trunk_is_charged_once(tables)
    assert toys.sweep("results", "--no-figures").out.splitlines()[-1].split()[:2] == ["all", "11/12"]


def gpu_hours(row: Mapping[str, Any]) -> float:
    return float(row["used_gpu_hours"] + row["wasted_gpu_hours"])


def assert_trunk_is_charged_once(tables: WrittenTables) -> None:
    """The rows of the two models hold their own jobs and half a trunk each."""
    chain = [row for row in tables.jobs.to_pylist() if row["models"]]
    assert [row["models"] for row in chain if row["phase"] == "trunk"] == [2]
    models = sum(row["gpu_hours_own"] + row["gpu_hours_shared"] for row in tables.results.to_pylist())
    assert models == pytest.approx(sum(gpu_hours(row) for row in chain))


@pytest.mark.timeout(2_500)
def test_an_outage_of_the_controller_that_makes_a_row_longer_is_flagged(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "OVERSTATED_SECONDS", 3.0)
    toys = ToySweep(
        slurm, tmp_path, [toy.toy_job("k", resources=GPUS, steps=10, step_seconds=0.2)], monkeypatch,
        stage=FIRST_RANK_STAGE,
    )  # fmt: skip
    toys.sweep("submit")
    node = slurm.output("squeue", "-h", "-r", "-o", "%N", "-j", running(toys, "k"))
    slurm.stop("ctld")
    result = toys.store.locate_run("pretrain", "k").result
    wait_for("the job's end by its own record", result.exists, seconds=30)
    time.sleep(6)
    slurm.start("ctld")
    task = toys.ids()["k"][0]  # slurmd tells of the end when it next tries
    wait_for("the row's end", lambda: words_by_sacct(slurm, task) == ["COMPLETED"], seconds=400, every=0.2)
    (row,) = written(toys).jobs.to_pylist()
    ended_at = float(slurm.output("env", "SLURM_TIME_FORMAT=%s", "sacct", "-n", "-X", "-P", "-o", "End", "-j", task))
    [outcome] = load_job_evidence(open_sweep(toys.store.root, toy.SWEEP).load_snapshot())["k"].outcomes
    assert outcome.end is not None
    late = ended_at - outcome.end.ended_at
    assert row["overstated_seconds"] == (int(late) if late > 3 else 0)
    if slurm.output("sbatch", "--version").split()[-1] < "25":  # 26.05 takes the end from slurmd
        assert late >= 4
    assert round(3600 * row["used_gpu_hours"], 3) == seconds_by_sacct(slurm, [task])[task]
    for action in (slurm.stop, slurm.start):  # or the next test waits a minute for the job to leave the node
        action(node)
