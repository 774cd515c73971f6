"""A node that is at fault is told from a job that is, and nothing of the submitting shell enters a job."""

import json
import resource
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Resources
from sweep.report.explain import list_excluded_nodes
from sweep.stored_sweep import open_sweep
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.fakes import FOLDER
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import ToySweep

ON_A_GPU = Resources(gpus_per_node=1, gpu_type="a100", memory_gib=1.0)  # torch alone takes more than half of it
TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 7, in step\nRuntimeError: unexpected'


def gpu_stage(folder: Path, *gone: str) -> tuple[str, ...]:
    """A stage that needs a GPU, on a cluster whose nodes `gone` have lost theirs (tests.slurm_lab.fakes.gpu_stage)."""
    (folder / "gone").mkdir()
    for node in gone:
        (folder / "gone" / node).touch()
    program = folder / "gpu-stage"
    words = shlex.join([sys.executable, "-m", "tests.slurm_lab.fakes.gpu_stage", str(folder / "gone")])
    program.write_text(f'#!/bin/sh\nPYTHONPATH={toy.ROOT} exec {words} "$@"\n')
    program.chmod(0o755)
    return (str(program),)


def failing_stage(folder: Path, node: str) -> tuple[str, ...]:
    """A counting stage that dies on one node for no known reason, always at the same place."""
    program = folder / "failing-stage"
    stage = shlex.join(toy.COUNTING_STAGE)
    program.write_text(
        f"#!/bin/sh\n[ $SLURMD_NODENAME = {node} ] && echo '{TRACEBACK}' && exit 1\nexec {stage} \"$@\"\n"
    )
    program.chmod(0o755)
    return (str(program),)


def test_a_lone_trunk_whose_preferred_node_has_lost_its_gpu_ends_on_another(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = toy.toy_job("trunk1", phase="trunk", resources=ON_A_GPU)
    toys = ToySweep(slurm, tmp_path, [trunk], monkeypatch, stage=gpu_stage(tmp_path, "n1"))
    toys.sent()
    toys.finish()
    toys.assert_as_undisturbed()
    fault, success = toys.ends("trunk1")
    assert fault == ("n1", "node_fault")
    assert success[0] != "n1"
    assert success[1] == ""


def test_three_jobs_that_meet_a_node_without_gpu_finish_elsewhere_and_the_node_is_excluded_with_its_reason(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [toy.toy_job(name, resources=ON_A_GPU) for name in "abc"]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch, stage=gpu_stage(tmp_path, "n1"))
    toys.sent()
    wait_for("three faults", lambda: all([end for _, end in toys.ends(name)] == ["node_fault"] for name in "abc"))
    (node,) = list_excluded_nodes(open_sweep(toys.store.root, toy.SWEEP).load_snapshot(), time.time())
    assert node.node == "n1"
    assert node.reason.startswith("node fault: settings.device is cuda and torch finds no GPU on")
    toys.finish()
    toys.assert_as_undisturbed()
    ends = [toys.ends(job.key) for job in jobs]
    assert [each[0] for each in ends] == [("n1", "node_fault")] * 3
    assert all(len(each) == 2 and each[1][0] != "n1" for each in ends), ends
    last = toys.ids()["a"][-1]
    assert slurm.output("squeue", "-h", "-r", "-t", "all", "-o", "%x", "-j", last) == "n1"


def test_a_lone_job_that_fails_alike_on_one_node_is_tried_on_another_before_its_code_is_blamed(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = toy.toy_job("trunk1", phase="trunk")
    toys = ToySweep(slurm, tmp_path, [trunk], monkeypatch, stage=failing_stage(tmp_path, "n1"))
    toys.sent()
    toys.finish()
    fault, success = toys.ends("trunk1")
    assert fault == ("n1", "unknown")
    assert success[0] != "n1"
    assert success[1] == ""


def test_a_job_that_only_one_node_may_run_waits_after_a_fault_of_that_node_and_says_for_what(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent there again, it would use up its tries on a node that is known to be at fault."""
    slurm.conf("PartitionName=small Nodes=n1")
    job = toy.toy_job("k", fail="node_fault", fail_times=1, resources=Resources(options={"partition": "small"}))
    toys = ToySweep(slurm, tmp_path, [job], monkeypatch)
    toys.sent()
    wait_for("the fault", lambda: toys.ends("k") == [("n1", "node_fault")])
    why = "too few nodes are left without those that are excluded for their faults: n1"
    toys.ticks_until(lambda report: why in report["refused"].values() or why in " ".join(report["limits"]))
    assert [toys.tick()["sent"] for _ in range(3)] == [0, 0, 0]
    assert [row["message"] for row in toys.sweep("status", "--json").json["not_sent"]] == [why]
    assert toys.ends("k") == [("n1", "node_fault")]


LAUNCHED = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "elsewhere",
    "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "x", "PMI_RANK": "3", "PMIX_RANK": "3", "OMPI_COMM_WORLD_RANK": "3",
    "NCCL_COMM_ID": "10.0.0.1:1", "OMP_NUM_THREADS": "77", "CUDA_VISIBLE_DEVICES": "5", "TMPDIR": "/no/such/folder",
    "SWEEP_FENCE": "/no/such/claims/000001.json", "MY_OWN": "1",
}  # fmt: skip
"""What a login shell may have been left with."""


def inherited(toys: ToySweep, key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((toy.run_of(toys.store, toys.by_key[key]).root / "inherited.json").read_text())
    return found


def test_nothing_of_a_launcher_no_limit_and_no_current_folder_of_the_shell_enters_a_job(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = toy.toy_job("k", resources=Resources(setup=("export CHOSEN=yes",)))
    stage = (sys.executable, str(FOLDER / "recording_stage.py"))
    toys = ToySweep(slurm, tmp_path, [job], monkeypatch, stage=stage)
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    monkeypatch.setenv("PYTHONPATH", f":relative:{tmp_path}/mine:")
    (tmp_path / "random.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (321, limits[1]))
    try:
        toys.sent()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    toys.finish()
    seen = inherited(toys, "k")
    found = {name: seen["variables"].get(name) for name in LAUNCHED}
    of_the_job = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TMPDIR": "/tmp"}  # the last is Slurm's own
    fence = found.pop("SWEEP_FENCE")
    assert found == {**dict.fromkeys(found), **of_the_job}
    assert fence.startswith(str(toys.store.root))
    assert (seen["variables"]["CHOSEN"], seen["variables"]["NCCL_SOCKET_IFNAME"]) == ("yes", "ib0")
    assert f"{tmp_path}/mine" in seen["path"]
    assert not {str(tmp_path), str(toys.store.root), ""}.intersection(seen["path"])
    assert seen["open_files"] != 321


def test_two_jobs_of_several_processes_on_one_node_meet_at_ports_of_their_own(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = Resources(gpus_per_node=2, gpu_type="a100", cpus=2, memory_gib=0.5, options={"nodelist": "n2"})
    stage = (sys.executable, "-S", str(FOLDER / "meeting_stage.py"))
    jobs = [toy.toy_job(name, resources=two) for name in "ab"]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch, stage=stage)
    monkeypatch.setenv("MASTER_PORT", "29512")
    toys.sent()
    met = [toy.run_of(toys.store, job).root / "met.json" for job in jobs]
    wait_for("both jobs to have met", lambda: all(path.exists() for path in met), seconds=60)
    (toys.store.root / "go").touch()
    toys.finish()
    told = [json.loads(path.read_text()) for path in met]
    assert [each["with"] for each in told] == ["a", "b"]
    assert len({each["port"] for each in told} | {29512}) == 3
    toys.wait_until_queue_is_empty()  # an attempt notes its end after its result
    assert [toys.ends(job.key) for job in jobs] == [[("n2", "")]] * 2
