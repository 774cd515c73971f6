"""What users of other tools have reported, one test a thread: the naive way goes wrong on this cluster, ours does not.

The naive way is a few lines of what such tools do; it is not any tool's own code.
"""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.job import Resources
from jobs.reconcile.state import JobState
from sweep.results.evidence import load_job_evidence
from sweep.stored_sweep import open_sweep
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.fakes.sbatch_wrapper import SbatchWrapper, wrap_sbatch
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import ToySweep, drain, ecc_fault_on, resume, sbatch


def test_aiida_core_3404_and_nextflow_970_a_timed_out_sbatch_runs_the_work_once(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = wrap_sbatch(tmp_path, monkeypatch)
    work = tmp_path / "work"
    submit_naively_until_answered(wrapper, f"echo done >> {work}")
    wait_for("the naive jobs to end", lambda: slurm.output("squeue", "-h") == "", seconds=30)
    assert work.read_text().split() == ["done", "done"]

    toys = ToySweep(slurm, tmp_path, [toy.toy_job("only")], monkeypatch)
    monkeypatch.setenv("SWEEP_SLURM_PATIENCE", "call=20 submit=5 doubt=8 absent=4 look_again=1 cache=0 pace=0")
    wrapper.lose_the_next_answer()
    told = toys.sweep("submit")
    assert told.code == 1
    assert "sbatch gave no answer" in told.err
    toys.finish()
    assert (toys.executions("only")["begin"], wrapper.calls) == (1, 3)
    toys.assert_as_undisturbed()


def submit_naively_until_answered(wrapper: SbatchWrapper, work: str) -> None:
    """What timed out is taken for failed, and submitted again."""
    command = ["sbatch", "--parsable", "--output=/dev/null", f"--wrap={work}"]
    wrapper.lose_the_next_answer()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
        wait_for("Slurm to have the job", lambda: wrapper.answer, seconds=30)
        first.kill()  # the time-out
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def test_a_timed_out_sbatch_that_never_got_through_is_sent_again(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = wrap_sbatch(tmp_path, monkeypatch)
    wrapper.lose_the_next_request()
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["sbatch", "--hold", "--wrap=true"], timeout=1, check=True)
    assert slurm.output("squeue", "-h") == ""  # to take what timed out for sent is no better: the work is lost

    toys = ToySweep(slurm, tmp_path, [toy.toy_job("only")], monkeypatch)
    monkeypatch.setenv("SWEEP_SLURM_PATIENCE", "call=20 submit=1 doubt=4 absent=4 look_again=1 cache=0 pace=0")
    wrapper.lose_the_next_request()
    assert toys.sweep("submit").code == 1
    monkeypatch.setenv("SWEEP_SLURM_PATIENCE", "call=20 submit=20 doubt=4 absent=4 look_again=1 cache=0 pace=0")
    assert toys.sent() == (0, 0)  # it may still come
    toys.finish()
    assert (toys.executions("only")["begin"], wrapper.calls) == (1, 3)


def test_sisyphus_241_the_submit_limit_is_no_failure(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    naive = [slurm.run("sbatch", "--hold", "--qos=capped", "--wrap=true") for _ in range(7)]
    assert ["failed" if done.returncode else "queued" for done in naive] == ["queued"] * 5 + ["failed"] * 2
    slurm.reset()

    drain(slurm)
    asked = Resources(options={"qos": "capped"})
    toys = ToySweep(slurm, tmp_path, [toy.toy_job(f"j{index}", resources=asked) for index in range(7)], monkeypatch)
    told = toys.sweep("submit")
    assert told.code == 0
    assert "no room for more under the limit of QOS capped on your jobs" in told.err
    assert sorted(toys.states().values()) == [JobState.QUEUED] * 5 + [JobState.READY] * 2


def test_submitit_1624_arrays_are_split_at_the_greatest_index(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.conf("MaxArraySize=10")
    drain(slurm)
    naive = slurm.run("sbatch", "--array=0-11", "--wrap=true")
    assert "Invalid job array specification" in naive.stderr

    toys = ToySweep(slurm, tmp_path, [toy.toy_job(f"j{index}") for index in range(12)], monkeypatch)
    assert toys.sent() == (12, 2)
    assert len(toys.queue()) == 12


def test_desispec_2682_children_of_a_failed_job_do_not_pend_for_ever(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = sbatch(slurm, script="exit 1")
    child = sbatch(slurm, f"--dependency=afterok:{parent}")
    state = ["squeue", "-h", "-o", "%T %r", "-j", child]
    wait_for("the end of the parent", lambda: "Never" in slurm.output(*state), seconds=30)
    assert slurm.output(*state) == "PENDING DependencyNeverSatisfied"  # until somebody looks

    jobs = [toy.toy_job("trunk", phase="trunk", fail="diverged"), toy.toy_job("child", "trunk", cells=["a"])]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    toys.sent()
    toys.ticks_until(lambda report: report["states"]["blocked"] == 1)
    toys.wait_until_queue_is_empty()
    [row] = toys.sweep("status", "--fresh", "--json").json["blocked"]
    assert (row["key"], row["behind"]) == ("trunk", 1)


def test_snakemake_executor_plugin_slurm_207_an_accounting_outage_neither_hangs_nor_kills_a_sweep(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("first"), toy.toy_job("second", "first")], monkeypatch)
    slurm.stop("dbd")
    with pytest.raises(subprocess.CalledProcessError):  # and there the naive run ends
        subprocess.run(["sacct", "-X", "-n"], check=True, capture_output=True)

    assert toys.sent() == (2, 2)
    toys.finish()
    toys.assert_as_undisturbed()


def test_seml_90_status_does_not_call_a_live_job_dead(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("long", steps=1_000, step_seconds=0.1)], monkeypatch)
    toys.sent()
    wait_for("its first step", lambda: toys.executions("long")["step"], seconds=30)
    [task] = toys.ids()["long"]
    slurm.stop("ctld")
    assert slurm.run("squeue", "-h", "-j", task).stdout == ""  # not in the queue: dead, the naive way says
    steps = toys.executions("long")["step"]
    wait_for("its next step", lambda: toys.executions("long")["step"] > steps, seconds=30)

    status = toys.sweep("status", "--fresh", "--json")
    assert status.code == 0
    assert status.json["states"]["failed"] == status.json["states"]["interrupted"] == 0
    assert status.json["states"]["running"] + status.json["states"]["unknown"] == 1


def test_submitit_1660_a_job_id_that_was_given_again_is_not_taken_for_ours(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("only")], monkeypatch)
    drain(slurm)
    saved = keep_state(slurm, tmp_path / "saved")
    toys.sent()
    [task] = toys.ids()["only"]
    naive = sbatch(slurm, "--job-name=mine")
    crash_back_to(slurm, saved)
    assert toys.queue() == {}
    while int(last := sbatch(slurm, "--array=0", "--job-name=foreign")) < int(naive):
        pass
    assert last == naive
    assert slurm.output("squeue", "-h", "-o", "%T", "-j", naive) == "PENDING"  # lives, the naive way says
    assert slurm.output("squeue", "-h", "-r", "-o", "%j", "-j", task) == "foreign"

    assert toys.states()["only"] is not JobState.QUEUED
    slurm.wait_ready()
    toys.finish()
    assert len(toys.ids()["only"]) == 2
    assert toys.executions("only")["begin"] == 1


def keep_state(lab: Lab, folder: Path) -> Path:
    """A copy of what the controller has saved by now."""
    lab.stop("ctld")
    shutil.copytree(lab.layout.state, folder)
    lab.start("ctld")
    return folder


def crash_back_to(lab: Lab, saved: Path) -> None:
    """A crash of the controller ahead of its next save, which follows a submission by up to five seconds.

    The jobs that it has acknowledged since are lost, and it gives their ids once more.
    """
    lab.stop("ctld", signal.SIGKILL)
    shutil.rmtree(lab.layout.state)
    shutil.copytree(saved, lab.layout.state)
    lab.start("ctld")


def test_toil_5452_one_bad_node_does_not_eat_all_retries(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = []
    for _ in range(3):
        attempt = sbatch(slurm, script="[ $SLURMD_NODENAME != n1 ]")
        slurm.wait_job(attempt, "FAILED")
        nodes.append(slurm.output("squeue", "-h", "-t", "all", "-o", "%N", "-j", attempt))
    assert nodes == ["n1", "n1", "n1"]  # it is free at once, as it fails at once

    toys = ToySweep(slurm, tmp_path, [toy.toy_job("only")], monkeypatch, stage=ecc_fault_on("n1", tmp_path))
    toys.sent()
    toys.finish()
    fault, (node, failure) = toys.ends("only")
    assert fault == ("n1", "node_fault")
    assert (node != "n1", failure) == (True, "")


def test_requeued_gpu_time_does_not_vanish(slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Resources(gpus_per_node=4, gpu_type="a100")
    job = toy.toy_job("only", steps=25, step_seconds=0.1, gate_at=20, resources=asked)
    toys = ToySweep(slurm, tmp_path, [job], monkeypatch)
    toys.sent()
    [task] = toys.ids()["only"]
    wait_for("two seconds of work", lambda: toys.executions("only")["step"] >= 20, seconds=30)
    slurm.output("scontrol", "requeue", task)
    slurm.wait_job(task, "PENDING")
    toys.open_gate("only")
    slurm.output("scontrol", "update", f"jobid={task}", "starttime=now")
    toys.finish()
    rows = ["sacct", "-X", "-n", "-P", "-j", task, "-o", "State,ElapsedRaw"]
    wait_for("its last row", lambda: "COMPLETED" in slurm.output(*rows), seconds=30)
    naive = 4 * sum(int(line.split("|")[1]) for line in slurm.output(*rows).splitlines())
    whole = 4 * sum(int(line.split("|")[1]) for line in slurm.output(*rows, "-D").splitlines())
    assert naive < whole

    picture = open_sweep(toys.store.root, toy.SWEEP).load_snapshot()
    assert round(load_job_evidence(picture)["only"].costs.total.gpu_hours * 3600) == whole


def test_submitit_1717_code_that_is_edited_while_jobs_wait_does_not_run(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    for package in ("sweep", "jobs", "stages"):
        shutil.copytree(toy.ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("only")], monkeypatch)
    drain(slurm)
    naive = sbatch(slurm, f"--chdir={checkout}", script=f"{sys.executable} -m jobs.attempt --help")
    submit = [sys.executable, "-m", "sweep", "submit", toy.SWEEP, "--store", str(toys.store.root)]
    subprocess.run(submit, cwd=checkout, check=True, capture_output=True)
    (checkout / "jobs" / "attempt" / "__main__.py").write_text("raise SystemExit('edited')\n")
    resume(slurm)
    slurm.wait_job(naive, "FAILED")

    toys.finish()
    toys.assert_as_undisturbed()
