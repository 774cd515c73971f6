"""Whether a request can run is asked of a real cluster, told in plain English, and holds up no other jobs."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.job import Job, Resources
from jobs.reconcile.state import JobState
from jobs.slurm.refusals import read_refusals
from jobs.slurm.sbatch_errors import RefusalKind
from tests.jobs import toy
from tests.slurm_lab import Accounting, Lab, Options
from tests.slurm_lab.fakes.sbatch_wrapper import wrap_sbatch
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import ToySweep, drain, resume


def job_with(key: str, **resources: object) -> Job:
    return toy.toy_job(key, resources=Resources(**{"memory_gib": 0.25, "time_minutes": 1, **resources}))  # type: ignore[arg-type]


def test_what_slurm_refuses_is_told_and_kept_and_the_rest_runs(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job_with("a", options={"gres": "gpu:a100:9"}), job_with("b"), job_with("c", options={"qos": "nope"})]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    told = toys.sweep("submit")
    assert told.code == 1
    assert (
        "1 job was not sent: Slurm refuses it: partition main does not give a job the GPUs of its options" in told.err
    )
    assert "1 job was not sent: Slurm refuses it: the QOS does not exist or is not open to its account" in told.err
    assert "correct qos: yours: " in told.err
    kept = read_refusals(toys.store, toy.SWEEP)
    assert {key: each.kind for key, each in kept.items()} == dict.fromkeys("ac", RefusalKind.INVALID)
    assert "does not give a job the GPUs of its options" in toys.sweep("status", "--fresh").out
    toys.ticks_until(lambda report: report["states"]["done"] == 1)
    assert read_refusals(toys.store, toy.SWEEP).keys() == {"a", "c"}


def test_each_kind_of_request_is_asked_about_once_a_round_and_nothing_without_need(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job_with(f"a{number}", time_minutes=number + 1) for number in range(20)]
    jobs += [
        toy.toy_job(f"b{number}", f"a{number}", phase="finetune", resources=Resources(cpus=2)) for number in range(20)
    ]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    drain(slurm)
    sbatch = wrap_sbatch(tmp_path, monkeypatch)
    dry = toys.sweep("submit", "--dry-run")
    assert "Slurm was asked about 2 kinds of request (sbatch --test-only, which sends nothing)" in dry.err
    assert (dry.code, sbatch.questions, sbatch.calls, toys.queue()) == (0, 2, 0, {})
    assert toys.sent() == (40, sbatch.calls)
    assert sbatch.questions == 4
    assert toys.sent("tick") == (0, 0)
    assert sbatch.questions == 4


def test_nodes_that_are_drained_delay_and_do_not_refuse(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--test-only says of both that no node is configured so."""
    drain(slurm)
    toys = ToySweep(slurm, tmp_path, [job_with("a"), job_with("b", cpus=10_000)], monkeypatch)
    told = toys.sweep("submit")
    assert told.code == 1
    assert "partition main has not 1 node with 10000 CPUs" in told.err
    assert toys.states() == {"a": JobState.QUEUED, "b": JobState.READY}
    resume(slurm)
    toys.ticks_until(lambda report: report["states"]["done"] == 1)


def test_without_a_default_partition_one_has_to_be_named(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.conf("PartitionName=main Default=NO")
    toys = ToySweep(slurm, tmp_path, [job_with("a"), job_with("b", options={"partition": "main"})], monkeypatch)
    told = toys.sweep("submit")
    assert told.code == 1
    assert "no partition is the default" in told.err
    assert "name one: partition: main, short, urgent" in told.err
    assert "sent 1 job " in told.err


def test_accounts_and_qos_are_slurms_in_any_letters_and_partitions_are_not(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"account": "LAB", "qos": "Capped"}
    jobs = [job_with(f"a{number}", options=wanted) for number in range(7)]
    jobs.append(job_with("b", options={"partition": "MAIN"}))
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    told = toys.sweep("submit", "--json")
    assert told.json["sent"] == 5  # the limit of capped is known under its other spelling, too
    assert told.json["refused"].keys() == {"b"}
    assert "there is no such partition" in told.json["refused"]["b"]
    assert "correct partition: main, short, urgent" in told.json["refused"]["b"]


def test_a_job_is_sent_once_its_limit_is_raised_and_its_refusal_is_gone(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = ToySweep(slurm, tmp_path, [job_with("a", memory_gib=2), job_with("b")], monkeypatch)
    slurm.conf("MaxMemPerNode=1024")
    assert toys.sweep("submit", "--json").json["refused"].keys() == {"a"}
    assert toys.sweep("submit", "--only", "b", "--json").json["refused"] == {}
    assert read_refusals(toys.store, toy.SWEEP).keys() == {"a"}  # nobody has asked about it again
    slurm.conf("MaxMemPerNode=4096")
    toys.sweep("limits", "--only", "all")
    assert toys.tick()["sent"] == 1
    assert read_refusals(toys.store, toy.SWEEP) == {}
    toys.finish()


# Limits of nodes and partitions that sbatch refuses without a word on the resource, or takes and never starts.


@pytest.fixture
def make_site(
    make_lab: Callable[[str, Options], Lab], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, Options], Lab]]:
    """A cluster with settings of its own, which Slurm's programs find until the test ends."""
    made: list[Lab] = []

    def make(name: str, options: Options) -> Lab:
        lab = make_lab(name, options)
        made.append(lab)
        for variable, value in lab.env.items():
            monkeypatch.setenv(variable, value)
        return lab

    yield make
    for lab in made:
        lab.down()


BARE = {"accounting": Accounting.NONE, "nodes": 2, "cpus": 8, "gpus": 2, "memory_mb": 8192}
LIMITS: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
    "MaxMemPerNode": ({"extra": "MaxMemPerNode=1024"}, {"memory_gib": 2}, "1 GiB on a node (MaxMemPerNode)"),
    "MaxMemPerNode of the partition": (
        {"extra": "PartitionName=main Default=YES MaxMemPerNode=1024"},
        {"memory_gib": 2},
        "1 GiB on a node (MaxMemPerNode)",
    ),
    "MaxMemPerNode, enforced": (
        {"extra": "MaxMemPerNode=1024\nEnforcePartLimits=ALL"},
        {"memory_gib": 2},
        "memory_gib",
    ),
    "MaxCPUsPerNode": (
        {"extra": "PartitionName=main Default=YES MaxCPUsPerNode=4"},
        {"cpus": 6},
        "does not give a job 6 CPUs on a node",
    ),
    "CoreSpecCount": ({"node_extra": "CoreSpecCount=4"}, {"cpus": 6}, "does not give a job 6 CPUs on a node"),
    "no GRES": ({"gpus": 0}, {"options": {"gres": "gpu:1"}}, "no node has such GPUs"),
    "MemSpecLimit": ({"node_extra": "MemSpecLimit=4096"}, {"memory_gib": 6}, "does not give a job 6 GiB on a node"),
}


def takes_on_trial(*options: str) -> bool:
    """What sbatch itself says of such a job, which it does not send."""
    command = ["sbatch", "--test-only", "--mem=256", *options, "--wrap=true"]
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_on_a_resource_is_told_with_the_resource_before_anything_waits_for_ever(
    make_site: Callable[[str, Options], Lab],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
) -> None:
    settings, too_much, told = LIMITS[limit]
    lab = make_site("limit", Options(**{**BARE, **settings}))  # type: ignore[arg-type]
    if limit == "CoreSpecCount":
        # Slurm knows of them some time after its nodes have registered, and until then takes a job with more
        wait_for("Slurm to know the nodes' cores", lambda: not takes_on_trial("--cpus-per-task=6"), seconds=60)
        assert takes_on_trial("--cpus-per-task=4")
    toys = ToySweep(lab, tmp_path, [job_with("a", **too_much), job_with("b")], monkeypatch)
    said = toys.sweep("submit")
    assert said.code == 1
    assert told in said.err
    assert "sent 1 job " in said.err
    assert toys.states()["a"] is JobState.READY
    assert told in toys.sweep("status", "--fresh").out
    examined = toys.sweep("doctor")
    assert examined.code == 1
    assert told in examined.out


# Sites that lack what others have.

SITES: dict[str, tuple[dict[str, object], str]] = {
    "memory not tracked": (
        {"memory_mb": 1, "extra": "SelectTypeParameters=CR_Core\nDefMemPerNode=0"},
        "jobs are sent without --mem",
    ),
    "select/linear": ({"extra": "SelectType=select/linear\nSelectTypeParameters=CR_Memory"}, ""),
    "no GRES": ({"gpus": 0}, ""),
    "arrays of one": ({"max_array_size": 1}, ""),
    "no arrays": (
        {"accounting": Accounting.SLURMDBD, "max_array_size": 0},
        "this cluster takes no arrays (MaxArraySize 0)",
    ),
}


@pytest.mark.parametrize("site", SITES)
def test_a_site_without_a_feature_runs_a_sweep(
    make_site: Callable[[str, Options], Lab],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    site: str,
) -> None:
    settings, line = SITES[site]
    lab = make_site("site", Options(**{**BARE, **settings}))  # type: ignore[arg-type]
    jobs = [
        job_with("a"),
        job_with("b"),
        toy.toy_job("c", "a", "b", phase="finetune", resources=Resources(memory_gib=0.25)),
    ]
    toys = ToySweep(lab, tmp_path, jobs, monkeypatch)
    told = toys.sweep("submit")
    assert told.code == 0, told.err
    assert told.err.count(line) == (1 if line else len(told.err) + 1)
    toys.finish()
    toys.assert_as_undisturbed()
    assert "problem" not in toys.sweep("doctor", "--node-test").out


def test_limits_that_a_site_does_not_enforce_keep_no_job_back(
    make_site: Callable[[str, Options], Lab], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"accounting": Accounting.SLURMDBD, "extra": "AccountingStorageEnforce=associations"}
    lab = make_site("lenient", Options(**{**BARE, **settings}))  # type: ignore[arg-type]
    jobs = [job_with("a", time_minutes=2, options={"qos": "deny"})]  # of one minute
    toys = ToySweep(lab, tmp_path, jobs, monkeypatch)
    assert toys.sent() == (1, 1)
    toys.finish()
