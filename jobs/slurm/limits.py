"""Limits on how many jobs may be in the queue, and how much room each has. Pure.

Slurm takes each kind of limit from the first place that sets it: the partition's QOS, the job's QOS, the user's
association (the job's QOS comes first with the flag OverPartQOS). Limits of accounts all hold, up to the root
(resource_limits.html of Slurm's documentation; the order was tried on a cluster).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from jobs.job import Job
from jobs.slurm.rows import QueueRow
from jobs.slurm.site import Site
from jobs.slurm.site_parts import Association, Partition, Qos

CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `most` jobs of the queue that `counts` is true of."""

    name: str
    most: int
    counts: Callable[[QueueRow], bool]


def partition_names(job: Job, site: Site) -> tuple[str, ...]:
    """The partitions that the job may start in, the cluster's default where it names none."""
    given = job.resources.options.get("partition", "")
    if given:
        return tuple(filter(None, given.split(",")))
    return tuple(each.name for each in site.partitions or () if each.is_default)


def partitions_of_job(job: Job, site: Site) -> tuple[Partition, ...]:
    """Those of them that exist."""
    known = {each.name: each for each in site.partitions or ()}
    return tuple(known[name] for name in partition_names(job, site) if name in known)


def association_of(job: Job, site: Site, user: str) -> Association | None:
    """The one that the job is charged to: of its partition, if there is such a one, before the general one."""
    account = job.resources.options.get("account", "") or site.default_account
    names = partition_names(job, site)
    own = [
        each
        for each in site.associations or ()
        if each.user == user and each.account == account and (not each.partition or each.partition in names)
    ]
    return max(own, key=lambda each: bool(each.partition), default=None)


def qos_name(job: Job, association: Association | None) -> str:
    """The QOS that the job gets: its own, the association's default, the only one allowed, else `normal`."""
    asked = job.resources.options.get("qos", "")
    if asked or association is None:
        return asked or "normal"
    return association.default_qos or (association.qos[0] if len(association.qos) == 1 else "normal")


def qos_in_order(job: Job, site: Site, user: str) -> tuple[Qos, ...]:
    """The partition's QOS and the job's, the one whose limits come first ahead."""
    known = site.qos or {}
    own = known.get(qos_name(job, association_of(job, site, user)))
    first = next((known[each.qos] for each in partitions_of_job(job, site) if each.qos in known), None)
    found = (own, first) if own is not None and "OverPartQOS" in own.flags else (first, own)
    return tuple({each.name: each for each in found if each is not None}.values())


def lane_names(job: Job, site: Site, user: str) -> tuple[str, ...]:
    """The limits on submitted jobs under which the job counts, by the names that `room` gives them."""
    options = job.resources.options
    kind = (user, *(options.get(name, "") for name in ("partition", "account", "qos")))
    if kind not in site.known_lanes:
        site.known_lanes[kind] = tuple(limit.name for limit in limits_of(job, site, user))
    return site.known_lanes[kind]


def limits_of(job: Job, site: Site, user: str) -> Iterator[Limit]:
    """All limits under which the job counts."""
    yield cluster_limit(site)
    if "limits" not in site.enforced:
        return
    association = association_of(job, site, user)
    account = association.account if association else job.resources.options.get("account", "") or site.default_account
    rules = qos_in_order(job, site, user)
    by_kind = [
        [user_limit(rule, site, user) for rule in rules] + [own_limit(association, user)],
        [account_limit(rule, site, account) for rule in rules],
        [group_limit(rule, site) for rule in rules],
    ]
    for found in by_kind:
        yield from [limit for limit in found if limit is not None][:1]
    if all(rule.max_submit_group is None for rule in rules):
        yield from account_limits(association, site)


def measure_room(site: Site, queue: Sequence[QueueRow], user: str) -> dict[str, int]:
    """How many more jobs of the user each limit lets in now; a pending array task counts one, as a job does.

    `queue` tells the present use: where it leaves out jobs of other users, limits that are shared with them have
    less room than is said here, and Slurm refuses what is too much.
    """
    accounts = {each.account for each in site.associations or () if each.user == user}
    limits = chain(
        (cluster_limit(site),),
        *(
            (user_limit(rule, site, user), group_limit(rule, site), *(account_limit(rule, site, a) for a in accounts))
            for rule in (site.qos or {}).values()
        ),
        (own_limit(each, user) for each in site.associations or () if each.user == user),
        *(account_limits(each, site) for each in site.associations or () if each.user == user),
    )
    return {limit.name: max(0, limit.most - sum(map(limit.counts, queue))) for limit in limits if limit is not None}


def cluster_limit(site: Site) -> Limit:
    """MaxJobCount; a job is refused when it would fill the last place."""
    return Limit(CLUSTER, site.max_jobs - 1, lambda _row: True)


def in_qos(rule: Qos, site: Site) -> Callable[[QueueRow], bool]:
    """Whether a row counts in the QOS: as its own, or as its partition's."""
    partitions = {each.name for each in site.partitions or () if each.qos == rule.name}
    return lambda row: row.qos == rule.name or not partitions.isdisjoint(row.partition.split(","))


def user_limit(rule: Qos, site: Site, user: str) -> Limit | None:
    """MaxSubmitJobsPerUser."""
    counts = in_qos(rule, site)
    most = rule.max_submit_user
    return None if most is None else Limit(f"qos:{rule.name}", most, lambda row: row.user == user and counts(row))


def account_limit(rule: Qos, site: Site, account: str) -> Limit | None:
    """MaxSubmitJobsPerAccount."""
    counts = in_qos(rule, site)
    most = rule.max_submit_account
    name = f"qos:{rule.name}/account:{account}"
    return None if most is None else Limit(name, most, lambda row: row.account == account and counts(row))


def group_limit(rule: Qos, site: Site) -> Limit | None:
    """GrpSubmitJobs of a QOS."""
    most = rule.max_submit_group
    return None if most is None else Limit(f"qos:{rule.name}/everybody", most, in_qos(rule, site))


def own_limit(association: Association | None, user: str) -> Limit | None:
    """MaxSubmitJobs of the user's association."""
    if association is None or association.max_submit is None:
        return None
    own = association
    return Limit(
        f"user:{own.account}{f'/{own.partition}' if own.partition else ''}",
        association.max_submit,
        lambda row: (
            row.user == user
            and row.account == own.account
            and (not own.partition or own.partition in row.partition.split(","))
        ),
    )


def account_limits(association: Association | None, site: Site) -> Iterator[Limit]:
    """GrpSubmitJobs of the association, its account and the accounts above, each for all accounts below it."""
    if association is None:
        return
    if association.max_submit_group is not None:
        own = association
        yield Limit(
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
            below = accounts_below(name, accounts)
            yield Limit(f"account:{name}", most, in_accounts(below))
        name = accounts[name].parent


def in_accounts(names: frozenset[str]) -> Callable[[QueueRow], bool]:
    """Whether a row is charged to one of the accounts."""
    return lambda row: row.account in names


def accounts_below(name: str, accounts: dict[str, Association]) -> frozenset[str]:
    """The account and all accounts under it."""
    found = {name}
    while more := {each.account for each in accounts.values() if each.parent in found} - found:
        found |= more
    return frozenset(found)
