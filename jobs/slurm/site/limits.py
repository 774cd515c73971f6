"""How many jobs Slurm's queue still takes, and what a job's partition, account, QOS and GPUs are to Slurm. Pure.

Slurm takes each kind of limit from the first place that sets it: the partition's QOS, the job's QOS, the user's
association (the job's QOS comes first with the flag OverPartQOS). Limits of accounts all hold, up to the root
(resource_limits.html of Slurm's documentation; the order was tried on a cluster).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from jobs.job import Job
from jobs.slurm.parsing import QueueRow
from jobs.slurm.site.site import Association, Partition, Qos, Site

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
    kind = (user, *(read_name(job, name) for name in ("partition", "account", "qos")))
    if kind not in site.known_limit_names:
        site.known_limit_names[kind] = tuple(limit.name for limit in iter_limits(job, site, user))
    return site.known_limit_names[kind]


def iter_limits(job: Job, site: Site, user: str) -> Iterator[SubmitLimit]:
    """All limits under which the job counts."""
    yield build_cluster_limit(site)
    if "limits" not in site.enforced:
        return
    association = find_association(job, site, user)
    account = association.account if association else read_name(job, "account") or site.default_account
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


def read_name(job: Job, option: str) -> str:
    """The job's partition, account or QOS as Slurm compares it: accounts and QOS in small letters, partitions not."""
    given = job.resources.options.get(option, "")
    return given if option == "partition" else given.lower()


def list_partition_names(job: Job, site: Site) -> tuple[str, ...]:
    """The partitions that the job may start in, the cluster's default where it names none."""
    given = read_name(job, "partition")
    if given:
        return tuple(filter(None, given.split(",")))
    return tuple(each.name for each in site.partitions or () if each.is_default)


def find_job_partitions(job: Job, site: Site) -> tuple[Partition, ...]:
    """Those of them that exist."""
    known = {each.name: each for each in site.partitions or ()}
    return tuple(known[name] for name in list_partition_names(job, site) if name in known)


def can_ask_memory(job: Job, site: Site) -> bool:
    """Whether `--mem` can be asked for where the job runs."""
    partitions = find_job_partitions(job, site)
    return not partitions or any(each.knows_memory for each in partitions)


def find_association(job: Job, site: Site, user: str) -> Association | None:
    """The one that the job is charged to: of its partition, if there is such a one, before the general one."""
    account = read_name(job, "account") or site.default_account
    names = list_partition_names(job, site)
    own = [
        each
        for each in site.associations or ()
        if each.user == user and each.account == account and (not each.partition or each.partition in names)
    ]
    return max(own, key=lambda each: bool(each.partition), default=None)


def resolve_qos_name(job: Job, association: Association | None) -> str:
    """The QOS that the job gets: its own, the association's default, the only one allowed, else `normal`."""
    asked = read_name(job, "qos")
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
