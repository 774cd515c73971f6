"""What follows a failure on a real cluster: who is tried again, where, how often, and what becomes of the children."""

from pathlib import Path

import pytest

from jobs.job import Resources
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import ToySweep, ecc_fault_on

TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 7, in step\nRuntimeError: unexpected\n'


def test_children_of_a_failed_trunk_are_blocked_with_the_cause_and_revived_after_its_repair(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = toy.small_graph()
    jobs[0] = toy.toy_job("trunk1", phase="trunk", fail="code", fail_at=1, fail_times=1)
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    toys.sent()
    toys.ticks_until(lambda report: report["states"]["blocked"] == 11)
    toys.wait_until_queue_is_empty()
    status = toys.sweep("status", "--fresh", "--json")
    assert status.code == 1
    assert [(row["key"], row["state"], row["behind"]) for row in status.json["blocked"]] == [("trunk1", "failed", 11)]
    assert [(row["key"], row["class"]) for row in status.json["trouble"]] == [("trunk1", "code")]
    assert toys.sent() == (0, 0)  # nobody has repaired it

    assert "1 job has a new budget" in toys.sweep("resume").err
    toys.finish()
    toys.assert_as_undisturbed()
    assert toys.executions("trunk1")["step"] == 3  # it went on from its checkpoint


def test_each_kind_of_failure_gets_the_tries_that_it_deserves(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [
        toy.toy_job("nan", fail="diverged"),
        toy.toy_job("same-traceback", fail="unknown", traceback=TRACEBACK),
        toy.toy_job("no-traceback", fail="unknown"),
        toy.toy_job("killed-once", fail="kill", fail_times=1),
    ]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    toys.sent()
    toys.ticks_until(lambda report: (report["states"]["failed"], report["states"]["done"]) == (3, 1))
    assert toys.sent() == (0, 0)
    tries = {job.key: toys.executions(job.key)["begin"] for job in jobs}
    assert tries == {"nan": 1, "same-traceback": 2, "no-traceback": 3, "killed-once": 2}
    trouble = {row["key"]: row["class"] for row in toys.sweep("status", "--fresh", "--json").json["trouble"]}
    assert trouble == {"nan": "diverged", "same-traceback": "unknown", "no-traceback": "unknown"}


def test_a_job_that_ran_out_of_memory_is_tried_once_more_with_what_is_allowed(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, raised = Resources(memory_gib=1), Resources(memory_gib=1, retry_memory_gib=3)
    jobs = [
        toy.toy_job("raised", fail="out_of_memory", fail_times=1, resources=raised),
        toy.toy_job("too-big", fail="out_of_memory", resources=small),
    ]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    toys.sent()
    toys.ticks_until(lambda report: (report["states"]["failed"], report["states"]["done"]) == (1, 1))
    memory = {key: [requested_memory(slurm, task) for task in ids] for key, ids in toys.ids().items()}
    assert memory == {"raised": ["1G", "3G"], "too-big": ["1G", "1G"]}


def requested_memory(lab: Lab, task: str) -> str:
    """Memory a node, as long as the controller remembers the task."""
    return lab.output("squeue", "-h", "-r", "-t", "all", "-o", "%m", "-j", task)


def test_a_node_fault_is_retried_elsewhere_and_others_keep_away_from_the_node_too(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [toy.toy_job("first"), toy.toy_job("second", "first")]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch, stage=ecc_fault_on("n1", tmp_path))
    toys.sent()
    toys.finish()
    toys.assert_as_undisturbed()
    ends = {key: toys.ends(key) for key in ("first", "second")}
    assert ends["first"][0] == ("n1", "node_fault"), ends
    assert [len(each) for each in ends.values()] == [2, 1], ends
    assert all(node != "n1" and failure == "" for node, failure in (ends["first"][1], ends["second"][0])), ends


def test_the_fault_of_a_job_that_has_finished_elsewhere_since_keeps_others_away_from_its_node(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [toy.toy_job("first"), toy.toy_job("second", "first")]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch, stage=ecc_fault_on("n1", tmp_path))
    assert toys.sent("submit", "--max-queued", "1") == (1, 1)  # the second is sent when the first has finished
    toys.finish()
    toys.assert_as_undisturbed()
    assert [[failure for _, failure in toys.ends(key)] for key in ("first", "second")] == [["node_fault", ""], [""]]


def test_of_a_killed_job_explain_and_logs_say_how_much_memory_slurm_saw_it_use(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Resources(memory_gib=0.25)
    jobs = [
        toy.toy_job(
            "killed",
            fail="kill",
            fail_at=2,
            step_seconds=1.5,
            save_every=9,
            steps=9,
            resources=memory,
            cells=["hungry"],
        ),
        toy.toy_job("fine", cells=["sated"]),
    ]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    toys.sent()
    toys.ticks_until(lambda report: (report["states"]["failed"], report["states"]["done"]) == (1, 1))
    toys.wait_until_queue_is_empty()

    def list_peaks() -> list[float | None]:
        job = toys.sweep("explain", "hungry", "--json").json["jobs"][0]
        return [row["peak_memory_gib"] for row in job["history"]]

    wait_for("sacct to have the steps", lambda: len(peaks := list_peaks()) > 1 and all(peaks))
    for peak in list_peaks():
        assert peak is not None
        assert 0.001 < peak < 0.25, "an interpreter's few megabytes"
    words = f"Slurm saw at most {list_peaks()[-1]:.3g} GiB of memory in one of its tasks"
    assert "killed by SIGKILL (it had asked for 0.25 GiB of memory)" in toys.sweep("explain", "hungry").out
    assert f"; {words}; " in toys.sweep("explain", "hungry").out
    told = toys.sweep("logs", "hungry").err.splitlines()
    assert [line.startswith("killed by SIGKILL (") for line in told if line.endswith(f"; {words}")] == [True]
    assert "peak" not in toys.sweep("status", "--json").out
    assert "Slurm saw" not in toys.sweep("logs", "sated").err
