"""What running jobs share on a cluster: its nodes, and its limits on what runs at once."""

from dataclasses import replace
from math import isclose
from typing import Any

import pytest

from jobs.job import Job
from jobs.slurm.site.site import NodeShape, Partition, Qos, Site, parse_qos
from sweep.forecast.site_pools import SitePools, build_site_pools, count_fitting
from tests.jobs.slurm.site_case import OLD, a_job

NODES = NodeShape(nodes=4, cpus=64, memory_mib=512 * 1024, gpus={"a100": 8})
MAIN = Partition(name="main", is_default=True, nodes=4, shapes=(NODES,), node_list="n[1-4]")
URGENT = replace(MAIN, name="urgent", is_default=False)
SITE = Site(user="ann", partitions=(MAIN, URGENT), enforced=frozenset({"limits", "qos", "associations"}))


def taken(found: SitePools, job: Job) -> dict[str, float]:
    return {found.pools[place].name: amount for place, amount in found.takes[id(job.resources)]}


def test_jobs_with_gpus_take_gpus_and_cores_and_others_cores_alone() -> None:
    training, counting = a_job(gpus_per_node=2, cpus=8), a_job(cpus=4, memory_gib=1.0)
    found = build_site_pools([training, counting], SITE, "ann")
    assert {pool.name: pool.most for pool in found.pools} == {
        "GPUs of partition main": 32,
        "cores of partition main": 256,
    }
    assert all(pool.holds_back for pool in found.pools)
    assert taken(found, training) == {"GPUs of partition main": 2, "cores of partition main": 8}
    assert taken(found, counting) == {"cores of partition main": 4}
    assert (found.gpus, found.cores) == (32, 256)


def test_what_nobody_can_use_beside_a_job_counts_as_its_own() -> None:
    wide = a_job(cpus=48)  # one fits on a node of 64
    hungry = a_job(cpus=1, memory_gib=256.0)
    found = build_site_pools([wide, hungry], SITE, "ann")
    assert taken(found, wide) == {"cores of partition main": 64}
    assert taken(found, hungry) == {"cores of partition main": 32}


@pytest.mark.parametrize(
    ("resources", "jobs"),
    [
        ({"cpus": 64}, 4), ({"cpus": 33}, 4), ({"cpus": 32}, 8), ({"cpus": 65}, 0),
        ({"cpus": 1, "gpus_per_node": 8}, 4),
        ({"cpus": 1, "gpus_per_node": 3}, 8), ({"cpus": 64, "nodes": 2}, 2), ({"cpus": 64, "nodes": 3}, 1),
        ({"cpus": 1, "nodes": 5, "memory_gib": 512.0}, 0), ({"cpus": 1, "memory_gib": 100.0}, 20),
    ],
)  # fmt: skip
def test_so_many_jobs_fit_on_the_nodes(resources: dict[str, Any], jobs: int) -> None:
    assert count_fitting([NODES], a_job(**resources).resources) == jobs


def test_partitions_of_the_same_nodes_are_one_pool() -> None:
    jobs = [a_job(cpus=2), a_job(partition="urgent", cpus=4)]
    found = build_site_pools(jobs, SITE, "ann")
    assert [pool.name for pool in found.pools] == ["cores of partition main"]
    assert found.cores == 256


def test_nodes_out_of_service_count_for_nothing() -> None:
    site = replace(SITE, partitions=(replace(MAIN, nodes_out=1),))
    job = a_job(gpus_per_node=8, cpus=64)
    found = build_site_pools([job], site, "ann")
    assert {pool.most for pool in found.pools} == {24, 192}
    assert isclose(taken(found, job)["GPUs of partition main"], 8)


def test_a_job_that_fits_nowhere_or_whose_nodes_are_not_known_takes_of_no_pool() -> None:
    unknown = replace(SITE, partitions=None)
    for site, job in ((SITE, a_job(cpus=100)), (unknown, a_job(cpus=1)), (SITE, a_job(partition="none"))):
        assert build_site_pools([job], site, "ann").pools == []


def test_limits_of_a_qos_on_running_jobs_are_pools_of_their_own() -> None:
    table = "Name|MaxTRESPU|MaxJobsPU|GrpTRES|GrpJobs\nlong|gres/gpu=16|3|node=2|\nnormal||||\n"
    site = replace(SITE, qos=parse_qos(table))
    job = a_job(qos="long", gpus_per_node=8, cpus=4, nodes=2)
    found = build_site_pools([job], site, "ann")
    limits = {name: amount for name, amount in taken(found, job).items() if "QOS" in name}
    assert limits == {
        "the limit of QOS long on your running jobs": 1,
        "the limit of QOS long on your GPUs": 16,
        "the limit of QOS long on everybody's nodes": 2,
    }
    assert {pool.name: pool.most for pool in found.pools if "QOS" in pool.name} == {
        "the limit of QOS long on your running jobs": 3,
        "the limit of QOS long on your GPUs": 16,
        "the limit of QOS long on everybody's nodes": 2,
    }
    assert not any(pool.holds_back for pool in found.pools if "QOS" in pool.name)
    assert build_site_pools([job], replace(site, enforced=frozenset()), "ann").pools == found.pools[:2]


def test_a_partitions_qos_comes_before_the_jobs() -> None:
    qos = {name: Qos(name=name, max_running={"user": most}) for name, most in (("part", 2), ("own", 9))}
    site = replace(SITE, qos=qos, partitions=(replace(MAIN, qos="part"),))
    job = a_job(qos="own")
    assert "the limit of QOS part on your running jobs" in taken(build_site_pools([job], site, "ann"), job)


def test_a_sites_own_words_are_read() -> None:
    job = a_job()
    assert build_site_pools([job], OLD, "ann").pools
    assert OLD.requeue_seconds == 121
