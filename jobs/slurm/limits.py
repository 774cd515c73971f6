"""A mirror of some of Slurm's rules: how many jobs the queue still takes, and which jobs could never run. Pure.

Slurm takes each kind of limit from the first place that sets it: the partition's QOS, the job's QOS, the user's
association (the job's QOS comes first with the flag OverPartQOS). Limits of accounts all hold, up to the root
(resource_limits.html of Slurm's documentation; the order was tried on a cluster).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from jobs.job import Job, Resources
from jobs.slurm.parsing import QueueRow
from jobs.slurm.site import Association, Partition, Qos, Site

CLUSTER = "cluster"


def describe_limit(name: str) -> str:
    """A limit of `compute_queue_capacity` in the words of a user; any other name as it is."""
    kind, _, rest = name.partition(":")
    whose, _, below = rest.partition("/")
    if name == CLUSTER:
        return "the number of jobs that the cluster holds (MaxJobCount)"
    if kind == "qos":
        account = below.removeprefix("account:")
        owner = "everybody's jobs" if below == "everybody" else f"jobs of account {account}" if below else "your jobs"
        return f"the limit of QOS {whose} on {owner}"
    if kind == "user":
        where = f" in partition {below}" if below not in {"", "all"} else ""
        return f"the limit on your jobs in account {whose}{where}"
    return f"the limit on all jobs of account {whose}" if kind == "account" else name


@dataclass(frozen=True, slots=True)
class SubmitLimit:
    """At most `most` jobs of the queue that `counts` is true of."""

    name: str
    most: int
    counts: Callable[[QueueRow], bool]


def compute_queue_capacity(site: Site, queue: Sequence[QueueRow], user: str) -> dict[str, int]:
    """How many more jobs of the user each limit lets in now; a pending array task counts one, as a job does.

    `queue` has the present use: where it leaves out jobs of other users, limits that are shared with them have
    less room than is said here, and Slurm refuses what is too much.
    """
    accounts = {each.account for each in site.associations or () if each.user == user}
    limits = chain(
        (build_cluster_limit(site),),
        *(
            (
                build_user_limit(rule, site, user),
                build_group_limit(rule, site),
                *(build_account_limit(rule, site, a) for a in accounts),
            )
            for rule in (site.qos or {}).values()
        ),
        (build_association_limit(each, user) for each in site.associations or () if each.user == user),
        *(iter_account_limits(each, site) for each in site.associations or () if each.user == user),
    )
    return {limit.name: max(0, limit.most - sum(map(limit.counts, queue))) for limit in limits if limit is not None}


def list_limit_names(job: Job, site: Site, user: str) -> tuple[str, ...]:
    """The limits on submitted jobs under which the job counts, by the names of `compute_queue_capacity`."""
    options = job.resources.options
    kind = (user, *(options.get(name, "") for name in ("partition", "account", "qos")))
    if kind not in site.known_limit_names:
        site.known_limit_names[kind] = tuple(limit.name for limit in iter_limits(job, site, user))
    return site.known_limit_names[kind]


def iter_limits(job: Job, site: Site, user: str) -> Iterator[SubmitLimit]:
    """All limits under which the job counts."""
    yield build_cluster_limit(site)
    if "limits" not in site.enforced:
        return
    association = find_association(job, site, user)
    account = association.account if association else job.resources.options.get("account", "") or site.default_account
    rules = sort_job_qos(job, site, user)
    by_kind = [
        [build_user_limit(rule, site, user) for rule in rules] + [build_association_limit(association, user)],
        [build_account_limit(rule, site, account) for rule in rules],
        [build_group_limit(rule, site) for rule in rules],
    ]
    for found in by_kind:
        yield from [limit for limit in found if limit is not None][:1]
    if all(rule.max_submit_group is None for rule in rules):
        yield from iter_account_limits(association, site)


def build_cluster_limit(site: Site) -> SubmitLimit:
    """MaxJobCount; a job is refused when it would fill the last place."""
    return SubmitLimit(CLUSTER, site.max_jobs - 1, lambda _row: True)


def build_user_limit(rule: Qos, site: Site, user: str) -> SubmitLimit | None:
    """MaxSubmitJobsPerUser."""
    counts = build_qos_filter(rule, site)
    most = rule.max_submit_user
    return None if most is None else SubmitLimit(f"qos:{rule.name}", most, lambda row: row.user == user and counts(row))


def build_account_limit(rule: Qos, site: Site, account: str) -> SubmitLimit | None:
    """MaxSubmitJobsPerAccount."""
    counts = build_qos_filter(rule, site)
    most = rule.max_submit_account
    name = f"qos:{rule.name}/account:{account}"
    return None if most is None else SubmitLimit(name, most, lambda row: row.account == account and counts(row))


def build_group_limit(rule: Qos, site: Site) -> SubmitLimit | None:
    """GrpSubmitJobs of a QOS."""
    most = rule.max_submit_group
    return None if most is None else SubmitLimit(f"qos:{rule.name}/everybody", most, build_qos_filter(rule, site))


def build_qos_filter(rule: Qos, site: Site) -> Callable[[QueueRow], bool]:
    """Whether a row counts in the QOS: as its own, or as its partition's."""
    partitions = {each.name for each in site.partitions or () if each.qos == rule.name}
    return lambda row: row.qos == rule.name or not partitions.isdisjoint(row.partition.split(","))


def build_association_limit(association: Association | None, user: str) -> SubmitLimit | None:
    """MaxSubmitJobs of the user's association."""
    if association is None or association.max_submit is None:
        return None
    own = association
    return SubmitLimit(
        f"user:{own.account}{f'/{own.partition}' if own.partition else ''}",
        association.max_submit,
        lambda row: (
            row.user == user
            and row.account == own.account
            and (not own.partition or own.partition in row.partition.split(","))
        ),
    )


def iter_account_limits(association: Association | None, site: Site) -> Iterator[SubmitLimit]:
    """GrpSubmitJobs of the association, its account and the accounts above, each for all accounts below it."""
    if association is None:
        return
    if association.max_submit_group is not None:
        own = association
        yield SubmitLimit(
            f"user:{own.account}/all",
            association.max_submit_group,
            lambda row: row.user == own.user and row.account == own.account,
        )
    accounts = {each.account: each for each in site.associations or () if not each.user}
    name, seen = association.account, set[str]()
    while name in accounts and name not in seen:
        seen.add(name)
        most = accounts[name].max_submit_group
        if most is not None:
            below = list_accounts_below(name, accounts)
            yield SubmitLimit(f"account:{name}", most, build_account_filter(below))
        name = accounts[name].parent


def build_account_filter(names: frozenset[str]) -> Callable[[QueueRow], bool]:
    """Whether a row is charged to one of the accounts."""
    return lambda row: row.account in names


def list_accounts_below(name: str, accounts: dict[str, Association]) -> frozenset[str]:
    """The account and all accounts under it."""
    found = {name}
    while more := {each.account for each in accounts.values() if each.parent in found} - found:
        found |= more
    return frozenset(found)


def find_infeasible_reason(job: Job, site: Site) -> str | None:
    """Why the job could never run here, in one line with what would do; None if it could, or if nobody knows.

    Slurm accepts many such jobs and keeps them pending for ever (unless EnforcePartLimits is set), so they are refused
    before anything is sent. That nodes or a partition are busy, drained, down or reserved at present is no reason.
    """
    kind = id(job.resources)
    if kind not in site.known_infeasible_reasons:
        site.known_infeasible_reasons[kind] = (job.resources, next(iter_infeasible_reasons(job, site), None))
    return site.known_infeasible_reasons[kind][1]


def iter_infeasible_reasons(job: Job, site: Site) -> Iterator[str]:
    """All reasons, the plainest first."""
    yield from iter_account_reasons(job, site)
    association = find_association(job, site, site.user)
    rules = sort_job_qos(job, site, site.user)
    yield from iter_qos_reasons(job, site, association)
    if site.partitions is None:
        return
    known = {each.name: each for each in site.partitions}
    names = list_partition_names(job, site)
    if not names and known:
        yield f"no partition is the default; name one: partition, of {', '.join(known)}"
    complaints = []
    for name in names:
        if name not in known:
            complaints.append(f"partition {name} does not exist; there are {', '.join(known)}")
            continue
        found = next(iter_partition_reasons(job, known[name], rules, association, site), None)
        if found is None:
            complaints.clear()  # one of several partitions will do
            break
        complaints.append(found)
    yield from complaints
    yield from iter_tres_reasons(job.resources, rules)


def iter_account_reasons(job: Job, site: Site) -> Iterator[str]:
    """The account is not the user's."""
    own = sorted({each.account for each in site.associations or () if each.user == site.user})
    if site.associations is None or "associations" not in site.enforced:
        return
    asked = job.resources.options.get("account", "")
    if not own:
        yield f"user {site.user} has no account at this cluster; ask its administrators"
    elif asked and asked not in own:
        yield f"account {asked} is not one of user {site.user}: {', '.join(own)}"
    elif find_association(job, site, site.user) is None:
        where = ", ".join(list_partition_names(job, site))
        yield f"account {asked or site.default_account} may not use partition {where}; account, of {', '.join(own)}"


def iter_qos_reasons(job: Job, site: Site, association: Association | None) -> Iterator[str]:
    """The QOS does not exist, or is not the user's."""
    asked = job.resources.options.get("qos", "")
    if not asked or site.qos is None:
        return
    if asked not in site.qos:
        yield f"QOS {asked} does not exist; there are {', '.join(site.qos)}"
    elif association is not None and "qos" in site.enforced and asked not in association.qos:
        yield f"QOS {asked} is not open to account {association.account}, which has {', '.join(association.qos)}"


def iter_partition_reasons(
    job: Job, partition: Partition, rules: tuple[Qos, ...], association: Association | None, site: Site
) -> Iterator[str]:
    """What speaks against one partition."""
    asked = job.resources
    yield from iter_access_reasons(job, partition, association, site)
    yield from iter_time_reasons(asked.time_minutes, partition, rules, association)
    free = any("PartitionMaxNodes" in rule.flags for rule in rules)
    if partition.max_nodes is not None and asked.nodes > partition.max_nodes and not free:
        yield f"partition {partition.name} gives a job {partition.max_nodes} nodes, not {asked.nodes}; lower nodes"
    elif partition.nodes and asked.nodes > partition.nodes:
        yield f"partition {partition.name} has {partition.nodes} nodes, and a job asks for {asked.nodes}; lower nodes"
    if partition.shapes:
        yield from iter_node_reasons(asked, partition)


def iter_access_reasons(job: Job, partition: Partition, association: Association | None, site: Site) -> Iterator[str]:
    """The partition is closed to the account or the QOS."""
    account = association.account if association else job.resources.options.get("account", "") or site.default_account
    for what, name, allowed, denied in (
        ("account", account, partition.allowed_accounts, partition.denied_accounts),
        ("QOS", resolve_qos_name(job, association), partition.allowed_qos, partition.denied_qos),
    ):
        if what == "QOS" and site.qos is None:
            continue
        if name and (name in denied or (allowed and name not in allowed)):
            open_to = f"; it is open to {', '.join(allowed)}" if allowed else ""
            yield f"partition {partition.name} is closed to {what} {name}{open_to}"


def iter_time_reasons(
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


def iter_node_reasons(asked: Resources, partition: Partition) -> Iterator[str]:
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
    fitting = [shape for shape in shapes if shape.cpus >= asked.cpus and shape.memory_mib >= memory]
    if sum(shape.nodes for shape in fitting) < asked.nodes:
        yield (
            f"partition {partition.name} has {sum(shape.nodes for shape in fitting)} nodes with {asked.cpus} CPUs "
            f"and {memory / 1024:g} GiB each, and a job asks for {asked.nodes}"
        )


def iter_tres_reasons(asked: Resources, rules: tuple[Qos, ...]) -> Iterator[str]:
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


def list_partition_names(job: Job, site: Site) -> tuple[str, ...]:
    """The partitions that the job may start in, the cluster's default where it names none."""
    given = job.resources.options.get("partition", "")
    if given:
        return tuple(filter(None, given.split(",")))
    return tuple(each.name for each in site.partitions or () if each.is_default)


def find_job_partitions(job: Job, site: Site) -> tuple[Partition, ...]:
    """Those of them that exist."""
    known = {each.name: each for each in site.partitions or ()}
    return tuple(known[name] for name in list_partition_names(job, site) if name in known)


def find_association(job: Job, site: Site, user: str) -> Association | None:
    """The one that the job is charged to: of its partition, if there is such a one, before the general one."""
    account = job.resources.options.get("account", "") or site.default_account
    names = list_partition_names(job, site)
    own = [
        each
        for each in site.associations or ()
        if each.user == user and each.account == account and (not each.partition or each.partition in names)
    ]
    return max(own, key=lambda each: bool(each.partition), default=None)


def resolve_qos_name(job: Job, association: Association | None) -> str:
    """The QOS that the job gets: its own, the association's default, the only one allowed, else `normal`."""
    asked = job.resources.options.get("qos", "")
    if asked or association is None:
        return asked or "normal"
    return association.default_qos or (association.qos[0] if len(association.qos) == 1 else "normal")


def sort_job_qos(job: Job, site: Site, user: str) -> tuple[Qos, ...]:
    """The partition's QOS and the job's, the one whose limits come first ahead."""
    known = site.qos or {}
    own = known.get(resolve_qos_name(job, find_association(job, site, user)))
    first = next((known[each.qos] for each in find_job_partitions(job, site) if each.qos in known), None)
    found = (own, first) if own is not None and "OverPartQOS" in own.flags else (first, own)
    return tuple({each.name: each for each in found if each is not None}.values())
