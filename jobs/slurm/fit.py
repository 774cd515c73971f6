"""Why a job could never run at a cluster. Pure.

Slurm accepts many such jobs and keeps them pending for ever (unless EnforcePartLimits is set), so that they are refused
before anything is sent. What is only busy now, drained or down, is no reason; neither is what cannot be known.
"""

import math
import re
from collections.abc import Iterator

from jobs.job import Job, Resources
from jobs.slurm.limits import association_of, partition_names, qos_in_order, qos_name
from jobs.slurm.sbatch_options import asks_for_gpus
from jobs.slurm.site import Site
from jobs.slurm.site_parts import Association, NodeShape, Partition, Qos


def misfit(job: Job, site: Site) -> str | None:
    """Why the job could never run here, in one line with what would do; None if it could, or if nobody knows."""
    kind = id(job.resources)
    if kind not in site.known_misfits:
        site.known_misfits[kind] = (job.resources, next(reasons(job, site), None))
    return site.known_misfits[kind][1]


def reasons(job: Job, site: Site) -> Iterator[str]:
    """All reasons, the plainest first."""
    yield from account_reasons(job, site)
    association = association_of(job, site, site.user)
    rules = qos_in_order(job, site, site.user)
    yield from qos_reasons(job, site, association)
    if site.partitions is None:
        return
    known = {each.name: each for each in site.partitions}
    names = partition_names(job, site)
    if not names and known:
        yield f"no partition is the default; name one: partition, of {', '.join(known)}"
    complaints = []
    for name in names:
        if name not in known:
            complaints.append(f"partition {name} does not exist; there are {', '.join(known)}")
            continue
        found = next(partition_reasons(job, known[name], rules, association, site), None)
        if found is None:
            complaints.clear()  # one of several partitions will do
            break
        complaints.append(found)
    yield from complaints
    yield from tres_reasons(job.resources, rules)


def account_reasons(job: Job, site: Site) -> Iterator[str]:
    """The account is not the user's."""
    own = sorted({each.account for each in site.associations or () if each.user == site.user})
    if site.associations is None or "associations" not in site.enforced:
        return
    asked = job.resources.options.get("account", "")
    if not own:
        yield f"user {site.user} has no account at this cluster; ask its administrators"
    elif asked and asked not in own:
        yield f"account {asked} is not one of user {site.user}: {', '.join(own)}"
    elif association_of(job, site, site.user) is None:
        where = ", ".join(partition_names(job, site))
        yield f"account {asked or site.default_account} may not use partition {where}; account, of {', '.join(own)}"


def qos_reasons(job: Job, site: Site, association: Association | None) -> Iterator[str]:
    """The QOS does not exist, or is not the user's."""
    asked = job.resources.options.get("qos", "")
    if not asked or site.qos is None:
        return
    if asked not in site.qos:
        yield f"QOS {asked} does not exist; there are {', '.join(site.qos)}"
    elif association is not None and "qos" in site.enforced and asked not in association.qos:
        yield f"QOS {asked} is not open to account {association.account}, which has {', '.join(association.qos)}"


def partition_reasons(
    job: Job, partition: Partition, rules: tuple[Qos, ...], association: Association | None, site: Site
) -> Iterator[str]:
    """What speaks against one partition."""
    asked = job.resources
    if partition.state not in {"UP", ""}:
        yield f"partition {partition.name} is {partition.state.lower()}; take another, or wait until it is up"
    yield from access_reasons(job, partition, association, site)
    yield from time_reasons(asked.time_minutes, partition, rules, association)
    free = any("PartitionMaxNodes" in rule.flags for rule in rules)
    if partition.max_nodes is not None and asked.nodes > partition.max_nodes and not free:
        yield f"partition {partition.name} gives a job {partition.max_nodes} nodes, not {asked.nodes}; lower nodes"
    elif partition.nodes and asked.nodes > partition.nodes:
        yield f"partition {partition.name} has {partition.nodes} nodes, and a job asks for {asked.nodes}; lower nodes"
    if partition.shapes:
        yield from node_reasons(asked, partition)


def access_reasons(job: Job, partition: Partition, association: Association | None, site: Site) -> Iterator[str]:
    """The partition is closed to the account or the QOS."""
    account = association.account if association else job.resources.options.get("account", "") or site.default_account
    for what, name, allowed, denied in (
        ("account", account, partition.allowed_accounts, partition.denied_accounts),
        ("QOS", qos_name(job, association), partition.allowed_qos, partition.denied_qos),
    ):
        if what == "QOS" and site.qos is None:
            continue
        if name and (name in denied or (allowed and name not in allowed)):
            open_to = f"; it is open to {', '.join(allowed)}" if allowed else ""
            yield f"partition {partition.name} is closed to {what} {name}{open_to}"


def time_reasons(
    minutes: int, partition: Partition, rules: tuple[Qos, ...], association: Association | None
) -> Iterator[str]:
    """Longer than the partition, the QOS or the association allow."""
    given = [(f"QOS {rule.name}", rule.max_minutes) for rule in rules]
    given += [(f"account {association.account}", association.max_minutes)] if association else []
    limits = [(name, most) for name, most in given if most is not None][:1]  # the first that is set holds
    if partition.max_minutes is not None and not any("PartitionTimeLimit" in rule.flags for rule in rules):
        limits.insert(0, (f"partition {partition.name}", partition.max_minutes))
    for name, most in limits:
        if minutes > most:
            yield (
                f"{name} allows a job {most} min, and it asks for {minutes}; lower time_minutes, or set "
                f"limit_minutes: {most} so that longer jobs are planned with restarts"
            )


def node_reasons(asked: Resources, partition: Partition) -> Iterator[str]:
    """No node, or too few of them, hold what the job wants of each."""
    shapes = partition.shapes
    memory = max(asked.memory_gib, asked.retry_memory_gib) * 1024
    most_cpus, most_memory = max(shape.cpus for shape in shapes), max(shape.memory_mib for shape in shapes)
    if asked.cpus > most_cpus:
        yield f"nodes of partition {partition.name} have up to {most_cpus} CPUs, not {asked.cpus}; lower cpus"
    if memory > most_memory:
        field = (
            "retry_memory_gib"
            if asked.retry_memory_gib * 1024 > most_memory >= asked.memory_gib * 1024
            else "memory_gib"
        )
        most = math.floor(most_memory / 102.4) / 10
        yield f"nodes of partition {partition.name} have up to {most:g} GiB, and {field} is {memory / 1024:g}"
    own = asks_for_gpus(asked.options)
    if asked.gpus_per_node and not own and all(gpu_type_at(asked, shape) is None for shape in shapes):
        yield gpu_reason(asked, partition)
    fitting = [
        shape
        for shape in shapes
        if shape.cpus >= asked.cpus
        and shape.memory_mib >= memory
        and (own or not asked.gpus_per_node or gpu_type_at(asked, shape) is not None)
    ]
    if sum(shape.nodes for shape in fitting) < asked.nodes:
        yield (
            f"partition {partition.name} has {sum(shape.nodes for shape in fitting)} nodes with {asked.cpus} CPUs, "
            f"{memory / 1024:g} GiB and {asked.gpus_per_node} GPUs each, and a job asks for {asked.nodes}"
        )


def gpu_reason(asked: Resources, partition: Partition) -> str:
    """The GPUs that are there instead."""
    there = sorted({f"{kind or 'gpu'}:{count}" for shape in partition.shapes for kind, count in shape.gpus.items()})
    has = f"has {', '.join(there)} a node" if there else "has no GPUs"
    return f"partition {partition.name} {has}, and a job asks for {asked.gpu_type or 'gpu'}:{asked.gpus_per_node}"


def gpu_type_at(asked: Resources, shape: NodeShape) -> str | None:
    """What these nodes call the GPU type of the job, where they have enough of it; None where they have not.

    Their type may be our name, our name in other letters, or longer (`nvidia_a100-sxm4-80gb`); nodes may have GPUs
    without a type, which then count as any.
    """
    wanted = asked.gpu_type.lower()
    named = re.compile(rf"(?:.*[^a-z0-9])?{re.escape(wanted)}(?:[^a-z0-9].*)?")  # a10 is no part of a100
    enough = [kind for kind, count in shape.gpus.items() if count >= asked.gpus_per_node]
    ranked = sorted(enough, key=lambda kind: (kind != asked.gpu_type, kind.lower() != wanted, kind))
    return next((kind for kind in ranked if not kind or not wanted or named.fullmatch(kind.lower())), None)


def tres_reasons(asked: Resources, rules: tuple[Qos, ...]) -> Iterator[str]:
    """More than a QOS gives one job, or one user or account in all."""
    wants: dict[str, float] = {
        "node": asked.nodes,
        "cpu": asked.nodes * asked.cpus,
        "mem": asked.nodes * asked.memory_gib * 1024,
        "gres/gpu": asked.gpus,
        f"gres/gpu:{asked.gpu_type}": asked.gpus,
    }
    for rule in rules:
        for limits in rule.max_tres:
            for name, most in limits.items():
                if wants.get(name, 0) > most:
                    yield f"QOS {rule.name} gives at most {name}={most:g}, and a job asks for {wants[name]:g}"


def gpu_type_for(job: Job, site: Site) -> str:
    """The cluster's own name of the job's GPU type, to ask sbatch with; ours where the cluster did not tell."""
    known = {each.name: each for each in site.partitions or ()}
    for name in partition_names(job, site):
        for shape in known[name].shapes if name in known else ():
            found = gpu_type_at(job.resources, shape)
            if found is not None:
                return found
    return job.resources.gpu_type
