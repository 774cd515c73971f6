"""What running jobs share on a Slurm cluster: the nodes of its partitions, and its limits on what runs at once. Pure.

Nodes are counted whole, whoever uses them today: how much of a shared cluster this sweep gets is shown by its own
waits, or said by its user.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from jobs.job import Job, Resources
from jobs.slurm.site.limits import find_job_partitions, sort_job_qos
from jobs.slurm.site.site import NodeShape, Partition, Qos, Site
from sweep.forecast.campaign import Pool

OWNERS = {"user": "your", "account": "your account's", "everybody": "everybody's"}
"""Whose running jobs a limit counts, in words."""
RESOURCES = {"gres/gpu": "GPUs", "cpu": "cores", "node": "nodes"}
"""What a limit on running jobs counts besides the jobs, and its name for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePools:
    """The pools, and what the jobs of each kind of resources take of them: by `id` of the resources, which the jobs of
    a plan share."""

    pools: Sequence[Pool]
    takes: dict[int, tuple[tuple[int, float], ...]]
    gpus: int = 0
    """Of all partitions that the jobs may use, no node counted twice."""
    cores: int = 0


def build_site_pools(jobs: Collection[Job], site: Site, user: str) -> SitePools:
    """Of the partitions and QOS that the jobs use."""
    pools: dict[str, Pool] = {}
    takes: dict[int, tuple[tuple[int, float], ...]] = {}
    homes: dict[str, Partition] = {}
    for job in jobs:
        if id(job.resources) in takes:
            continue
        found: list[tuple[int, float]] = []
        partition = max(find_job_partitions(job, site), key=lambda each: each.nodes, default=None)
        if partition is not None:
            home = homes.setdefault(partition.node_list or partition.name, partition)
            taken = [*iter_node_pools(home, job.resources), *iter_running_limits(job, site, user)]
        else:
            taken = [*iter_running_limits(job, site, user)]
        for pool, amount in taken:
            pools.setdefault(pool.name, pool)
            found.append((list(pools).index(pool.name), amount))
        takes[id(job.resources)] = tuple(found)
    counts = [count_devices(partition) for partition in homes.values()]
    return SitePools(
        pools=list(pools.values()),
        takes=takes,
        gpus=int(sum(gpus for gpus, _ in counts)),
        cores=int(sum(cores for _, cores in counts)),
    )


def iter_node_pools(partition: Partition, resources: Resources) -> Iterator[tuple[Pool, float]]:
    """GPUs and cores of a partition, and what a job takes of them: its part of what fits at once, so that cores that
    nobody can use beside it, for want of memory or as the last of a node, count as its own."""
    fits = count_fitting(partition.shapes, resources) * find_part_in_service(partition)
    if fits < 1:
        return  # it waits for ever, which its refusal tells, or the nodes are not known
    gpus, cores = count_devices(partition)
    whose = f"of partition {partition.name}"
    if resources.gpus:
        yield Pool(name=f"GPUs {whose}", most=gpus, holds_back=True), gpus / fits
        yield Pool(name=f"cores {whose}", most=cores, holds_back=True), float(resources.cores)
    else:
        yield Pool(name=f"cores {whose}", most=cores, holds_back=True), cores / fits


def find_part_in_service(partition: Partition) -> float:
    """Of its nodes."""
    return 1.0 - min(1.0, partition.nodes_out / partition.nodes) if partition.nodes else 1.0


def count_devices(partition: Partition) -> tuple[float, float]:
    """GPUs and cores of the nodes in service; GPUs of all types."""
    part = find_part_in_service(partition)
    gpus = sum(shape.nodes * sum(shape.gpus.values()) for shape in partition.shapes)
    return part * gpus, part * sum(shape.nodes * shape.cpus for shape in partition.shapes)


def count_fitting(shapes: Sequence[NodeShape], resources: Resources) -> int:
    """How many such jobs the nodes hold at once, if nothing else runs."""
    on_nodes = sum(shape.nodes * count_fitting_on_node(shape, resources) for shape in shapes)
    return on_nodes // max(1, resources.nodes)


def count_fitting_on_node(shape: NodeShape, resources: Resources) -> int:
    """Parts of such jobs that one node holds at once."""
    most = [shape.cpus // max(1, resources.cpus)]
    if resources.gpus_per_node:
        most.append(sum(shape.gpus.values()) // resources.gpus_per_node)
    if shape.memory_mib > 1 and resources.memory_gib > 0:
        most.append(int(shape.memory_mib / 1024 / resources.memory_gib))
    return min(most)


def iter_running_limits(job: Job, site: Site, user: str) -> Iterator[tuple[Pool, float]]:
    """The QOS limits under which the job runs, each taken from the first QOS that sets it."""
    if "limits" not in site.enforced:
        return
    rules = sort_job_qos(job, site, user)
    for whose in OWNERS:
        if rule := next((each for each in rules if whose in each.max_running), None):
            yield Pool(name=name_limit(rule, whose, "running jobs"), most=rule.max_running[whose]), 1.0
        for resource, words in RESOURCES.items():
            amount = count_resource(job.resources, resource)
            limited = [each for each in rules if resource in each.running_tres.get(whose, {})]
            if amount and limited:
                most = limited[0].running_tres[whose][resource]
                yield Pool(name=name_limit(limited[0], whose, words), most=most), amount


def count_resource(resources: Resources, name: str) -> float:
    """What a running job holds of it."""
    return float({"gres/gpu": resources.gpus, "cpu": resources.cores, "node": resources.nodes}[name])


def name_limit(rule: Qos, whose: str, what: str) -> str:
    """`the limit of QOS long on your running jobs`."""
    return f"the limit of QOS {rule.name} on {OWNERS[whose]} {what}"
