"""Limits on submitted jobs of a cluster, and its names for what a job asks for."""

from dataclasses import replace

import pytest

from jobs.slurm.site.limits import (
    compute_queue_capacity,
    describe_limit,
    list_limit_names,
)
from jobs.slurm.site.site import Association
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


def test_accounts_and_qos_are_compared_in_small_letters_and_partitions_as_they_are() -> None:
    assert list_limit_names(a_job("short", "OVER", "Sub"), OLD, "ann") == ("cluster", "qos:over", "account:phys")
    assert list_limit_names(a_job("SHORT"), OLD, "ann") == list_limit_names(a_job("nowhere"), OLD, "ann")


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
