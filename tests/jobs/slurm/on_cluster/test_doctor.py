"""Limits, refusals and `sweep doctor`, on a real cluster."""

import getpass
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Job, Resources
from jobs.slurm.client import SlurmClient
from jobs.slurm.refusals import Refusal
from jobs.slurm.sbatch_errors import RefusalKind, SubmitRefusal, SubmittedJob
from jobs.slurm.sbatch_options import build_sbatch_options
from jobs.slurm.site.feasibility import FeasibilityChecker
from jobs.slurm.site.limits import compute_queue_capacity, list_limit_names
from jobs.slurm.site.site import Site, query_site
from sweep.cli import main
from tests.jobs.toy import toy_job
from tests.slurm_lab import Lab
from tests.sweep.commands.test_doctor import accept_inputs
from tests.sweep.small_sweep import edited, written

USER = getpass.getuser()
SLEEP = "#!/bin/bash\nexec sleep 60\n"


def a_job(partition: str = "", qos: str = "", account: str = "", **resources: Any) -> Job:
    given = {"partition": partition, "qos": qos, "account": account}
    options = {name: value for name, value in given.items() if value} | resources.pop("options", {})
    return toy_job("a", resources=Resources(**{"options": options, "memory_gib": 0.1, **resources}))


def site_of() -> Site:
    return query_site(SlurmClient(), USER)


def refusal_of(job: Job) -> Refusal | None:
    """What the round and `sweep doctor` say of it."""
    return FeasibilityChecker(client=SlurmClient(), site=site_of()).find_refusals([job]).get(job.key)


def submitted(job: Job, *more: str, script: str = SLEEP) -> SubmittedJob | SubmitRefusal:
    answer = SlurmClient().submit(["--output=/dev/null", *more, *build_sbatch_options(job.resources)], script)
    assert isinstance(answer, SubmittedJob | SubmitRefusal), answer
    return answer


def test_the_cluster_tells_all_of_itself(slurm: Lab) -> None:
    site = site_of()
    assert (site.problem, site.remarks) == ("", ())
    assert site.version.startswith("2")
    assert site.accounts_gpus
    assert site.default_account
    assert site.partitions
    assert all(partition.nodes == 4 for partition in site.partitions)
    assert all([shape.gpus for shape in partition.shapes] == [{"a100": 8}] for partition in site.partitions)
    assert site.qos is not None
    assert site.qos["capped"].max_submit_user == 5
    assert "limits" in site.enforced


def test_a_cluster_without_accounting_has_limits_of_its_own_alone(slurm_without_accounting: Lab) -> None:
    site = site_of()
    assert (site.problem, site.accounting_answers, site.qos) == ("", None, None)
    assert site.partitions
    assert list(compute_queue_capacity(site, (), USER)) == ["cluster"]


def test_what_is_asked_for_is_what_slurm_gives(slurm: Lab) -> None:
    job = a_job(nodes=2, gpus_per_node=4, gpu_type="a100", cpus=6, time_minutes=3, options={"nice": "5"})
    answer = submitted(job, "--array=0")
    assert isinstance(answer, SubmittedJob)
    record = slurm.output("scontrol", "--oneliner", "show", "job", f"{answer.id}_0")
    for part in ("NumNodes=2", "NumCPUs=12", "TimeLimit=00:03:00", "Nice=5", "MinMemoryNode=103M", "gres/gpu=8"):
        assert part in record, record


def test_one_task_a_node_leaves_room_for_a_process_for_each_gpu(slurm: Lab, tmp_path: Path) -> None:
    job = a_job(nodes=2, gpus_per_node=4, gpu_type="a100", cpus=8)
    log = tmp_path / "log"
    line = (
        "srun --ntasks=8 --ntasks-per-node=4 --cpus-per-task=2 bash -c 'echo \"$SLURM_PROCID $CUDA_VISIBLE_DEVICES\"'"
    )
    answer = submitted(job, f"--output={log}", script=f"#!/bin/bash\n{line}\n")
    assert isinstance(answer, SubmittedJob)
    slurm.wait_job(answer.id)
    assert sorted(log.read_text().split("\n")[:-1]) == [f"{rank} 0,1,2,3" for rank in range(8)]


HOPELESS: dict[str, Job] = {
    "partition": a_job("nope"),
    "qos": a_job(qos="nope"),
    "account": a_job(account="nope"),
    "GPU type": a_job(gpus_per_node=1, gpu_type="h100"),
    "GPUs": a_job(gpus_per_node=9, gpu_type="a100"),
    "CPUs": a_job(cpus=10_000),
    "memory": a_job(memory_gib=100_000),
    "nodes": a_job(nodes=5),
}


@pytest.mark.parametrize("job", HOPELESS.values(), ids=HOPELESS)
def test_what_we_refuse_slurm_refuses_too_or_never_starts(slurm: Lab, job: Job) -> None:
    refusal = refusal_of(job)
    assert refusal is not None
    assert (refusal.kind, bool(refusal.advice)) == (RefusalKind.INVALID, True)
    answer = submitted(job)
    if isinstance(answer, SubmittedJob):
        wait_reason(slurm, answer.id, "PartitionNodeLimit", "PartitionConfig")  # more CPUs than there are in all


def wait_reason(slurm: Lab, job: str, *reasons: str) -> None:
    deadline = time.monotonic() + 20
    while (said := slurm.output("squeue", "-h", "-o", "%r", "-j", job)) not in reasons:
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


@pytest.fixture
def short_partition(slurm: Lab) -> Iterator[str]:
    """A partition with a limit of two minutes and a QOS that lets three jobs in."""
    slurm.run("sacctmgr", "-i", "add", "qos", "inthree", "set", "MaxSubmitJobsPerUser=3")
    slurm.output("scontrol", "create", "PartitionName=brief", "Nodes=n1", "MaxTime=2", "QoS=inthree")
    yield "brief"
    slurm.run("scancel", "--partition=brief")
    slurm.run("scontrol", "delete", "PartitionName=brief")
    slurm.run("sacctmgr", "-i", "delete", "qos", "inthree")


def test_a_time_above_the_partitions_limit_is_refused_before_it_waits_for_ever(
    slurm: Lab, short_partition: str
) -> None:
    job = a_job(short_partition, time_minutes=5)
    assert "partition brief allows a job 2 min, and it asks for 5" in str(refusal_of(job))
    answer = submitted(job)
    assert isinstance(answer, SubmittedJob)  # Slurm takes it
    wait_reason(slurm, answer.id, "PartitionTimeLimit")


@pytest.mark.parametrize("qos", ["normal", "capped"])
def test_the_room_that_we_see_is_the_room_that_slurm_has(slurm: Lab, short_partition: str, qos: str) -> None:
    site, client = site_of(), SlurmClient()
    job = a_job(short_partition, qos, time_minutes=1)
    lanes = list_limit_names(job, site, USER)
    for taken in range(3):
        left = compute_queue_capacity(site, client.query_queue([USER]).rows, USER)
        assert min(left[lane] for lane in lanes) == 3 - taken
        assert isinstance(submitted(job, "--hold", "--array=4"), SubmittedJob)
    left = compute_queue_capacity(site, client.query_queue([USER]).rows, USER)
    assert min(left[lane] for lane in lanes) == 0
    assert isinstance(submitted(job, "--hold", "--array=4"), SubmitRefusal)


def plan(tmp_path: Path, resources: str) -> str:
    store = str(tmp_path / "store")
    path = written(tmp_path, edited(("backend: local", "backend: slurm")) + resources)
    assert main(["plan", str(path), "--store", store]) == 0
    return store


def test_doctor_finds_a_good_plan_good_also_from_a_node(
    slurm: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = plan(tmp_path, "resources: {memory_gib: 0.5, setup: ['export A=1']}\n")
    accept_inputs(Path(store))  # the small sweep has no data; tests/sweep/preflight tests what is read of them
    capsys.readouterr()
    assert main(["doctor", "small", "--store", store, "--node-test", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    checks = {each["check"]: each for each in report["checks"]}
    assert report["problems"] == 0
    assert checks["plan"]["text"].startswith("all 32 jobs can run in ")
    assert all(checks[name]["verdict"] == "ok" for name in ("node", "node's Python", "node's scontrol", "accounting"))
    assert slurm.output("squeue", "-h") == ""
    assert [path.name for path in Path(store).iterdir()] == ["sweeps"]


def test_doctor_names_what_would_stop_a_plan(slurm: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = plan(tmp_path, "resources: {qos: capped, phases: {trunk: {nodes: 8}}}\n")
    capsys.readouterr()
    assert main(["doctor", "small", "--store", store]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("2 of 32 jobs: it can never run here" in line and "4 nodes" in line for line in lines)
    assert any("may be in the queue at once (the limit of QOS capped on your jobs)" in line for line in lines)


def test_doctor_says_so_when_the_controller_is_down(
    slurm: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.stop("ctld")
    assert main(["doctor", "--store", str(tmp_path)]) == 1
    assert "Unable to contact slurm controller" in capsys.readouterr().out


def test_a_test_job_that_cannot_start_leaves_nothing_behind(slurm: Lab, tmp_path: Path) -> None:
    for node in ("n1", "n2", "n3", "n4"):
        slurm.set_node_state(node, "drain")
    done = subprocess.run(
        [sys.executable, "-m", "sweep", "doctor", "--store", str(tmp_path), "--node-test", "--wait", "2"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "the test job still waits after 2 s" in done.stdout
    assert slurm.output("squeue", "-h", "-t", "PD,R") == ""
    assert list(tmp_path.iterdir()) == []
