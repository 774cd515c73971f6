"""Lanes and room of a cluster, and jobs that could never run there."""

from dataclasses import replace
from typing import Any

import pytest

from jobs.job import Job
from jobs.slurm.limits import (
    compute_queue_capacity,
    describe_limit,
    find_infeasible_reason,
    list_limit_names,
)
from jobs.slurm.site import Association, Site
from tests.jobs.slurm.site_case import NEW, OLD, a_job, rows


def test_the_partitions_qos_comes_before_the_jobs_unless_that_has_the_flag() -> None:
    assert list_limit_names(a_job("short", "capped"), OLD, "ann") == ("cluster", "qos:part3", "account:phys")
    assert list_limit_names(a_job("short", "over"), OLD, "ann") == ("cluster", "qos:over", "account:phys")
    assert list_limit_names(a_job("main", "capped"), OLD, "ann") == ("cluster", "qos:capped", "account:phys")
    assert list_limit_names(a_job("main"), OLD, "ann") == ("cluster", "user:sub", "account:phys")


def test_room_counts_each_array_task_and_only_what_the_limit_is_about() -> None:
    queue = [*rows(3, qos="capped"), *rows(2, user="bob", account="phys"), *rows(1, partition="short,main")]
    left = compute_queue_capacity(OLD, queue, "ann")
    assert left["qos:capped"] == 2
    assert left["qos:part3"] == 2
    assert left["user:sub"] == 16
    assert left["account:phys"] == 44
    assert left["cluster"] == 59_993
    assert compute_queue_capacity(OLD, rows(9, qos="capped"), "ann")["qos:capped"] == 0


def test_every_lane_of_a_job_has_a_number() -> None:
    for site, jobs in (
        (OLD, [a_job(), a_job("short", "over"), a_job(account="solo"), a_job(qos="capped")]),
        (NEW, [a_job("gpu"), a_job("cpu", "long"), a_job("gpu,cpu")]),
    ):
        left = compute_queue_capacity(site, (), "ann")
        for job in jobs:
            assert set(list_limit_names(job, site, "ann")) <= left.keys()


def test_group_and_account_limits_of_a_qos_hold_beside_each_other() -> None:
    # the QOS limits everybody, so that the accounts' own limits of the kind do not count
    assert list_limit_names(a_job("cpu"), NEW, "ann") == (
        "cluster",
        "qos:normal",
        "qos:normal/account:phys",
        "qos:normal/everybody",
    )
    assert list_limit_names(a_job("cpu", "long"), NEW, "ann") == ("cluster", "user:phys/all", "account:root")
    queue = rows(5, account="phys", qos="normal", partition="cpu", user="bob")
    left = compute_queue_capacity(NEW, queue, "ann")
    assert (left["qos:normal"], left["qos:normal/account:phys"], left["qos:normal/everybody"]) == (1024, 1995, 3995)
    assert (left["user:phys/all"], left["account:root"]) == (10, 8995)


def test_an_association_of_a_partition_goes_before_the_general_one() -> None:
    site = replace(
        OLD,
        associations=(
            Association(account="sub", user="ann", max_submit=20),
            Association(account="sub", user="ann", partition="short", max_submit=2),
        ),
        qos={},
    )
    assert list_limit_names(a_job("short"), site, "ann") == ("cluster", "user:sub/short")
    assert list_limit_names(a_job("main"), site, "ann") == ("cluster", "user:sub")
    assert compute_queue_capacity(site, rows(1, partition="short"), "ann") == {
        "cluster": 59_998,
        "user:sub": 19,
        "user:sub/short": 1,
    }


MISFITS: list[tuple[str, Job, str]] = [
    ("no such partition", a_job("gpux"), "partition gpux does not exist; there are main, short"),
    (
        "time",
        a_job("short", time_minutes=5),
        "partition short allows a job 1 min, and it asks for 5; lower time_minutes",
    ),
    ("time of the QOS", a_job(qos="deny", time_minutes=2), "QOS deny allows a job 1 min"),
    ("nodes of the cluster", a_job(nodes=5), "partition main has 4 nodes, and a job asks for 5"),
    ("nodes of a job", a_job("short", nodes=3, time_minutes=1), "gives a job 2 nodes, not 3"),
    ("CPUs", a_job(cpus=65), "up to 64 CPUs, not 65"),
    ("memory", a_job(memory_gib=501), "up to 500 GiB, and memory_gib is 501"),
    ("memory of a retry", a_job(retry_memory_gib=501), "retry_memory_gib is 501"),
    ("QOS", a_job(qos="nope"), "QOS nope does not exist; there are normal, high"),
    ("QOS of others", a_job(qos="part3"), "QOS part3 is not open to account sub"),
    ("account", a_job(account="chem"), "account chem is not one of user ann: solo, sub"),
    ("account elsewhere", a_job("main", account="solo"), "account solo may not use partition main"),
    ("GPUs of the QOS", a_job(qos="gpucap", nodes=2, gpus_per_node=8, gpu_type="a100"), "at most gres/gpu=8"),
    ("all of several", a_job("gpux,short", time_minutes=5), "partition gpux does not exist"),
]


@pytest.mark.parametrize(("job", "part"), [case[1:] for case in MISFITS], ids=[case[0] for case in MISFITS])
def test_what_could_never_run_is_told_in_one_line(job: Job, part: str) -> None:
    reason = find_infeasible_reason(job, OLD)
    assert reason is not None
    assert part in reason
    assert "\n" not in reason


def test_a_newer_clusters_doors() -> None:
    assert find_infeasible_reason(a_job(), NEW) is None  # its partition is down today
    assert find_infeasible_reason(a_job("gpu"), NEW) is None
    assert "closed to QOS long" in str(find_infeasible_reason(a_job("cpu", "long"), replace(NEW, partitions=up(NEW))))
    assert "closed to account guest" in str(find_infeasible_reason(a_job("cpu", account="guest"), guest(NEW)))
    assert "closed to account guest; it is open to phys, chem" in str(
        find_infeasible_reason(a_job("gpu", account="guest"), guest(NEW))
    )
    assert find_infeasible_reason(a_job("gpu", "long", time_minutes=5_000), NEW) is None  # PartitionTimeLimit
    assert "QOS long allows a job 10080 min" in str(
        find_infeasible_reason(a_job("gpu", "long", time_minutes=10_081), NEW)
    )
    assert "partition gpu allows a job 2880 min" in str(find_infeasible_reason(a_job("gpu", time_minutes=3_000), NEW))
    assert "2 nodes with 100 CPUs" in str(find_infeasible_reason(a_job("gpu", nodes=3, cpus=100), NEW))
    assert "gres/gpu=16" in str(find_infeasible_reason(a_job("gpu", nodes=5, gpus_per_node=4, gpu_type="a100"), NEW))


def up(site: Site) -> tuple[Any, ...]:
    return tuple(replace(each, state="UP") for each in site.partitions or ())


def guest(site: Site) -> Site:
    own = Association(account="guest", user="ann", qos=("normal",))
    return replace(site, partitions=up(site), associations=(*(site.associations or ()), own))


def test_a_user_without_an_account_is_told_so_only_where_accounts_are_enforced() -> None:
    stranger = replace(OLD, user="bob")
    assert (
        find_infeasible_reason(a_job(), stranger) == "user bob has no account at this cluster; ask its administrators"
    )
    assert find_infeasible_reason(a_job(), replace(stranger, enforced=frozenset(), qos=None)) is None


def test_one_of_several_partitions_is_enough() -> None:
    assert find_infeasible_reason(a_job("short,main", time_minutes=5), OLD) is None
    assert find_infeasible_reason(a_job("gpux,main", time_minutes=5), OLD) is None


def test_without_a_default_partition_one_has_to_be_named() -> None:
    site = replace(NEW, partitions=tuple(replace(each, is_default=False) for each in NEW.partitions or ()))
    assert "no partition is the default; name one: partition, of gpu, cpu" in str(find_infeasible_reason(a_job(), site))


def test_gpus_that_the_user_asks_for_by_other_words_are_not_judged() -> None:
    asked = a_job(gpus_per_node=1, gpu_type="h100", options={"gpus-per-node": "h100:1"})
    assert find_infeasible_reason(asked, OLD) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cluster", "the number of jobs that the cluster holds (MaxJobCount)"),
        ("qos:long", "the limit of QOS long on your jobs"),
        ("qos:long/everybody", "the limit of QOS long on everybody's jobs"),
        ("qos:long/account:lab", "the limit of QOS long on jobs of account lab"),
        ("user:lab", "the limit on your jobs in account lab"),
        ("user:lab/gpu", "the limit on your jobs in account lab in partition gpu"),
        ("user:lab/all", "the limit on your jobs in account lab"),
        ("account:lab", "the limit on all jobs of account lab"),
        ("--max-queued", "--max-queued"),
    ],
)
def test_a_limit_has_a_name_that_a_user_knows(name: str, words: str) -> None:
    assert describe_limit(name) == words
