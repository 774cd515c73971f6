"""Whether Slurm would ever run a job: asked by `sbatch --test-only`, once for each distinct request and round.

Own rules hold only for what Slurm takes and would keep pending for ever. What it refuses itself is not judged here.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.counted import format_counted
from jobs.job import Job, Resources
from jobs.slurm.refusals import REFUSED, Refusal, explain_few_nodes, explain_refusal, list_choices
from jobs.slurm.sbatch_errors import POLICY, RefusalKind, SubmitRefusal, UnknownSubmit
from jobs.slurm.sbatch_options import build_sbatch_options, drop_gpu_options, has_gpu_options
from jobs.slurm.site.gpu_choice import choose_gpus
from jobs.slurm.site.limits import (
    can_ask_memory,
    find_association,
    find_job_partitions,
    list_partition_names,
    read_name,
    resolve_qos_name,
    sort_job_qos,
)
from jobs.slurm.site.site import Association, Partition, Qos, Site

logger = logging.getLogger(__name__)

NEVER = "it can never run here"
OF_TODAY = (
    "Requested node configuration is not available",
    "Required nodes lack available resources",
    "No available nodes in topology",
    "Insufficient resources in topology unit",
)
"""Slurm's words for what no node has, and also for what only nodes have that are down or drained at present."""
MOST_UNKNOWN = 2
"""Calls without a clear answer after which nothing more is asked in the round: each may take its whole time limit."""
CLOSED = "Required partition not available"
"""Of the answers that pass by themselves, the one that sbatch gives as well. Others are of --test-only alone."""
MOST_KINDS = 3
"""Of nodes, named in a message."""
SAME_REASON = (
    ("Requested time limit is invalid", "allows a job"),
    ("Node count specification invalid", "nodes"),
    ("Memory required by task is not available", "MaxMemPerNode"),
    ("Invalid account", "closed to account"),
    ("Invalid qos", "closed to QOS"),
    (POLICY, "QOS "),
    (OF_TODAY[0], "nodes"),
)
"""Beginnings of Slurm's words, and what is in a misfit's text that says the same."""
ABOUT_TIME = ("Requested time limit is invalid", "MaxWall")


class Misfit(NamedTuple):
    """Why Slurm would keep a job pending for ever, and what would do."""

    text: str
    advice: str


RequestKind = tuple[int, str | None, str]
"""Identity of a job's resources, and which GPUs are asked for or why none can be: thousands of jobs have few kinds."""


class RequestTester(Protocol):
    """What is needed of `jobs.slurm.client.SlurmClient`."""

    def query_request(self, options: Sequence[str]) -> SubmitRefusal | UnknownSubmit | None:
        """None: Slurm would take it."""
        ...


@dataclass(slots=True)
class ShapeAnswer:
    """What Slurm said of requests that differ in their time alone."""

    taken_up_to: int = 0
    """Minutes."""
    refused_from: float = math.inf
    refusal: Refusal | None = None
    is_unknown: bool = False
    """It gave no clear answer, which counts as yes."""


# Why: docs/decisions.md, D106
@dataclass(slots=True, kw_only=True)
class FeasibilityChecker:
    """Asks about the requests of one round, and keeps the answers as long as it lives.

    An answer that does not come, or that says nothing of the request (a full queue), counts as yes: sbatch decides.
    """

    client: RequestTester
    site: Site
    exclude: tuple[str, ...] = ()
    """Nodes that this round keeps away from."""
    clock: Clock = SYSTEM_CLOCK
    asked: int = 0
    """Calls of `sbatch --test-only`."""
    shapes: int = 0
    """Distinct requests among them; the others find the time or the resource that is too much."""
    silent: str = ""
    """Why Slurm gave no clear answer to some question; empty if it did to all."""
    moment: float = field(init=False)
    """Unix seconds at which all its refusals are dated, so that those of one reason are equal."""
    _unknown: int = 0
    _answers: dict[tuple[str, ...], ShapeAnswer] = field(default_factory=dict)
    _shapes: dict[RequestKind, tuple[Resources, tuple[str, ...]]] = field(default_factory=dict)
    _endless: dict[RequestKind, Refusal | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.moment = self.clock.now()

    def find_refusals(self, jobs: Iterable[Job]) -> dict[str, Refusal]:
        """The refusal of each job that Slurm would refuse or never start, by key. Asks about what is not known yet."""
        open_jobs: dict[tuple[str, ...], list[Job]] = {}
        jobs = list(jobs)
        for job in jobs:
            if self._find_endless(job) is None and not self._is_answered(job):
                open_jobs.setdefault(self._find_shape(job), []).append(job)
        for shape, alike in open_jobs.items():
            by_time = {job.resources.time_minutes: job for job in alike}
            self._ask_times(shape, [by_time[minutes] for minutes in sorted(by_time)])
        return self.find_known(jobs)

    def find_known(self, jobs: Iterable[Job]) -> dict[str, Refusal]:
        """The same as far as it is known without asking anything."""
        found = ((job.key, self._find_known(job)) for job in jobs)
        return {key: refusal for key, refusal in found if refusal is not None}

    def select_taken(self, jobs: Iterable[Job]) -> set[str]:
        """Keys of the jobs that Slurm said in this round it would take."""
        clear = (job for job in jobs if self._is_answered(job) and self._find_known(job) is None)
        return {job.key for job in clear if not self._answers[self._find_shape(job)].is_unknown}

    def _find_known(self, job: Job) -> Refusal | None:
        if (endless := self._find_endless(job)) is not None:
            return endless
        answer = self._answers.get(self._find_shape(job))
        return answer.refusal if answer and job.resources.time_minutes >= answer.refused_from else None

    def _is_answered(self, job: Job) -> bool:
        answer = self._answers.get(self._find_shape(job), ShapeAnswer())
        return not answer.taken_up_to < job.resources.time_minutes < answer.refused_from

    def _find_endless(self, job: Job) -> Refusal | None:
        kind = self._find_kind(job)
        if kind not in self._endless:
            self._find_shape(job)  # keeps the resources alive
            misfit = next(iter_misfits(job, self.site), None)
            unclear, _, what_to_write = choose_gpus(job, self.site).problem.partition("; ")
            text = f"{NEVER}: {misfit.text}" if misfit else f"it cannot be sent as it is: {unclear}" if unclear else ""
            advice = misfit.advice if misfit else what_to_write
            refusal = Refusal(text=text, advice=advice, when=self.moment, kind=RefusalKind.INVALID)
            self._endless[kind] = refusal if text else None
        return self._endless[kind]

    def _find_kind(self, job: Job) -> RequestKind:
        choice = choose_gpus(job, self.site)
        return id(job.resources), choice.kind, choice.problem

    def _find_shape(self, job: Job) -> tuple[str, ...]:
        kind = self._find_kind(job)
        if kind not in self._shapes:
            words = self._build_options(job, self._build_request(job))
            self._shapes[kind] = (job.resources, tuple(word for word in words if not word.startswith("--time=")))
        return self._shapes[kind][1]

    def _build_request(self, job: Job) -> Resources:
        """As of a retry after it ran out of memory, which must not be refused later."""
        asked = job.resources
        return replace(asked, memory_gib=max(asked.memory_gib, asked.retry_memory_gib))

    def _build_options(self, job: Job, asked: Resources, exclude: Iterable[str] | None = None) -> list[str]:
        return build_sbatch_options(
            asked,
            gpu_type=choose_gpus(job, self.site).kind,
            memory_tracked=can_ask_memory(job, self.site),
            exclude=self.exclude if exclude is None else exclude,
        )

    def _ask_times(self, shape: tuple[str, ...], jobs: Sequence[Job]) -> None:
        """`jobs`: one for each time limit, the shortest first. The longest is asked about, which settles all others,
        unless Slurm refuses its time: then the longest that it takes is searched for."""
        self.shapes += 1
        before = self._unknown
        refusal = self._ask(jobs[-1])
        answer = self._answers.setdefault(shape, ShapeAnswer())
        answer.is_unknown = self._unknown > before
        if refusal is None:
            answer.taken_up_to = max(answer.taken_up_to, jobs[-1].resources.time_minutes)
            return
        answer.refusal = refusal
        if not any(sign in refusal.text for sign in ABOUT_TIME):
            answer.refused_from = 0
            return
        low, high = -1, len(jobs) - 1  # taken, refused
        while high - low > 1:
            middle = (low + high) // 2
            if self._ask(jobs[middle]) is None:
                low = middle
            else:
                high = middle
        answer.taken_up_to = jobs[low].resources.time_minutes if low >= 0 else 0
        answer.refused_from = jobs[high].resources.time_minutes

    def _ask(self, job: Job) -> Refusal | None:
        asked = self._build_request(job)
        answer = self._call(self._build_options(job, asked))
        if answer is None or isinstance(answer, UnknownSubmit):
            return None
        if answer.kind is RefusalKind.DELAYED and answer.reason.startswith(CLOSED):
            where = ", ".join(list_partition_names(job, self.site))
            text = f"partition {where} takes no jobs at present ({answer.reason})"
            return Refusal(text=text, when=self.moment, kind=answer.kind)
        if answer.reason.startswith(OF_TODAY):
            return self._judge_nodes(job, asked, answer)
        if answer.kind is not RefusalKind.INVALID:
            return None
        if "node" in answer.reason.lower() and (delay := self._find_delay(job, asked)):
            return delay  # the user's `nodelist` may name one that is excluded
        return self._explain(job, answer)

    def _find_delay(self, job: Job, asked: Resources) -> Refusal | None:
        """Why it waits, if Slurm would take it on the nodes that are excluded for their faults."""
        if not self.exclude or not self._takes(self._build_options(job, asked, exclude=())):
            return None
        return Refusal(text=explain_few_nodes(self.exclude), when=self.moment, kind=RefusalKind.DELAYED)

    def _call(self, options: Sequence[str]) -> SubmitRefusal | UnknownSubmit | None:
        if self._unknown >= MOST_UNKNOWN:
            self._unknown += 1
            return UnknownSubmit(self.silent)
        self.asked += 1
        answer = self.client.query_request(options)
        logger.debug("sbatch --test-only %s: %s", " ".join(options), answer or "would be taken")
        if isinstance(answer, UnknownSubmit):
            logger.info("sbatch --test-only gives no clear answer, sbatch itself decides: %s", answer.reason)
            self.silent = answer.reason
            self._unknown += 1
        return answer

    def _takes(self, options: Sequence[str]) -> bool:
        return self._call(options) is None

    def _explain(self, job: Job, answer: SubmitRefusal) -> Refusal:
        """With our own numbers where they say the same."""
        refusal = explain_refusal(answer, self.moment, list_choices(self.site))
        wanted = next((part for begin, part in SAME_REASON if answer.reason.startswith(begin)), None)
        misfits = iter_misfits(job, self.site, also_refused=True)
        misfit = next((each for each in misfits if wanted is not None and wanted in each.text), None)
        if misfit is None:
            return refusal
        return replace(refusal, text=f"{REFUSED}: {misfit.text} ({answer.reason})", advice=misfit.advice)

    # Why: docs/decisions.md, D107
    def _judge_nodes(self, job: Job, asked: Resources, answer: SubmitRefusal) -> Refusal | None:
        """Tells what no nodes have from what nodes have that are down or drained today. None: it may run later."""
        partitions = find_job_partitions(job, self.site)
        if not partitions or not all(each.shapes for each in partitions):
            return None  # nobody knows: sbatch decides
        enough = any(count_fitting_nodes(asked, each) >= asked.nodes for each in partitions)
        if enough and (answer.kind is not RefusalKind.INVALID or any(each.nodes_out for each in partitions)):
            return None
        if enough:
            return self._name_resource(job, asked, answer)
        where = ", ".join(each.name for each in partitions)
        refusal = self._explain(job, replace(answer, kind=RefusalKind.INVALID))
        what = f"{asked.cpus} CPUs and {asked.memory_gib:g} GiB"
        text = (
            f"{REFUSED}: partition {where} has not {format_counted(asked.nodes, 'node')} with {what} ({answer.reason})"
        )
        advice = f"lower what is too much; its nodes have {'; or '.join(map(describe_nodes, partitions))}"
        return replace(refusal, text=text, advice=advice)

    def _name_resource(self, job: Job, asked: Resources, answer: SubmitRefusal) -> Refusal | None:
        """Asks with less of one resource at a time: Slurm's words name none."""
        if delay := self._find_delay(job, asked):
            return delay
        refusal = self._explain(job, answer)
        partitions = find_job_partitions(job, self.site)
        where = ", ".join(each.name for each in partitions)
        for what, less in iter_smaller_requests(asked):
            if self._takes(self._build_options(job, less)):
                amount, name = what
                text = f"{REFUSED}: partition {where} does not give a job {amount} ({answer.reason})"
                there = "; or ".join(map(describe_nodes, partitions))
                advice = f"change {name}: with less Slurm would take the job (nodes there have {there})"
                return replace(refusal, text=text, advice=advice)
        return refusal


def iter_smaller_requests(asked: Resources) -> Iterator[tuple[tuple[str, str], Resources]]:
    """The request without one of its demands, with that demand in words and the field that makes it."""
    if asked.gpus_per_node or has_gpu_options(asked.options):
        words = "".join(describe_gpus(asked)) or "the GPUs of its options"
        less = replace(asked, gpus_per_node=0, options=drop_gpu_options(asked.options))
        yield (f"{words} on a node", "gpus_per_node or gpu_type"), less
    if asked.cpus > 1:
        yield (f"{asked.cpus} CPUs on a node", "cpus"), replace(asked, cpus=1)
    yield (f"{asked.memory_gib:g} GiB on a node", "memory_gib or retry_memory_gib"), replace(asked, memory_gib=1 / 1024)
    if asked.nodes > 1:
        yield (format_counted(asked.nodes, "node"), "nodes"), replace(asked, nodes=1)
    for name, value in asked.options.items():
        if name in {"constraint", "exclude", "nodelist", "reservation"}:
            rest = {each: other for each, other in asked.options.items() if each != name}
            yield (f"nodes with {name} {value}", name), replace(asked, options=rest)


def describe_gpus(asked: Resources) -> list[str]:
    """`8 GPUs a100`, or nothing."""
    return [f"{format_counted(asked.gpus_per_node, 'GPU')} {asked.gpu_type}".strip()] if asked.gpus_per_node else []


def describe_nodes(partition: Partition) -> str:
    """What each kind of its nodes has: `64 CPUs, 500 GiB, 8 a100`."""
    kinds = [
        ", ".join(
            [
                f"{shape.cpus} CPUs",
                f"{math.floor(shape.memory_mib / 102.4) / 10:g} GiB",
                *(f"{count} {kind or 'GPUs'}" for kind, count in shape.gpus.items()),
            ]
        )
        for shape in partition.shapes
    ]
    distinct = list(dict.fromkeys(kinds))
    more = f" or {len(distinct) - MOST_KINDS} other kinds" if len(distinct) > MOST_KINDS else ""
    return " or ".join(distinct[:MOST_KINDS]) + more


def count_fitting_nodes(asked: Resources, partition: Partition) -> int:
    """Nodes whose CPUs and memory could hold the job when they are empty, whatever their state is today."""
    # GPUs are left out: no release takes a job for GPUs that no node has
    return sum(
        shape.nodes
        for shape in partition.shapes
        if shape.cpus >= asked.cpus and (shape.memory_mib >= asked.memory_gib * 1024 or not partition.knows_memory)
    )


# What Slurm takes and would keep pending for ever: partition limits where EnforcePartLimits is NO, and limits of a QOS
# or account without DenyOnLimit.


def iter_misfits(job: Job, site: Site, *, also_refused: bool = False) -> Iterator[Misfit]:
    """All reasons, the plainest first. `also_refused`: with those for which this site's Slurm refuses a job itself."""
    association = find_association(job, site, site.user)
    rules = sort_job_qos(job, site, site.user)
    if also_refused or not site.enforces_partition_limits:
        complaints: list[Misfit] = []
        for partition in find_job_partitions(job, site):
            found = next(iter_partition_misfits(job, partition, rules, association, site), None)
            if found is None:
                complaints.clear()  # one of several partitions will do
                break
            complaints.append(found)
        yield from complaints
    if "limits" not in site.enforced:
        return
    given = [(f"QOS {rule.name}", rule.max_minutes) for rule in rules]
    given += [(f"account {association.account}", association.max_minutes)] if association else []
    limits = [(name, most) for name, most in given if most is not None][:1]  # the first that is set holds
    yield from (build_time_misfit(job, name, most) for name, most in limits if job.resources.time_minutes > most)
    yield from iter_tres_misfits(job.resources, rules)


def iter_partition_misfits(
    job: Job, partition: Partition, rules: tuple[Qos, ...], association: Association | None, site: Site
) -> Iterator[Misfit]:
    """What speaks against one partition."""
    asked, name = job.resources, f"partition {partition.name}"
    yield from iter_access_misfits(job, partition, association, site)
    free_time = any("PartitionTimeLimit" in rule.flags for rule in rules)
    if partition.max_minutes is not None and asked.time_minutes > partition.max_minutes and not free_time:
        yield build_time_misfit(job, name, partition.max_minutes)
    free_nodes = any("PartitionMaxNodes" in rule.flags for rule in rules)
    if partition.max_nodes is not None and asked.nodes > partition.max_nodes and not free_nodes:
        yield Misfit(
            f"{name} gives a job {format_counted(partition.max_nodes, 'node')}, not {asked.nodes}", "lower nodes"
        )
    elif partition.nodes and asked.nodes > partition.nodes:
        yield Misfit(
            f"{name} has {format_counted(partition.nodes, 'node')}, and a job asks for {asked.nodes}", "lower nodes"
        )
    most = partition.max_memory_mib or site.max_memory_mib
    if most is not None and max(asked.memory_gib, asked.retry_memory_gib) * 1024 > most and partition.knows_memory:
        larger = asked.retry_memory_gib * 1024 > most >= asked.memory_gib * 1024
        field_name = "retry_memory_gib" if larger else "memory_gib"
        wanted = asked.retry_memory_gib if larger else asked.memory_gib
        text = f"{name} gives a job {most / 1024:.4g} GiB on a node (MaxMemPerNode), and {field_name} is {wanted:g}"
        yield Misfit(text, f"lower {field_name}")


def build_time_misfit(job: Job, name: str, most: int) -> Misfit:
    """Longer than the partition, the QOS or the account allows."""
    return Misfit(
        f"{name} allows a job {most} min, and it asks for {job.resources.time_minutes}",
        f"lower time_minutes, or set limit_minutes: {most} so that longer jobs are planned with restarts",
    )


def iter_access_misfits(
    job: Job, partition: Partition, association: Association | None, site: Site
) -> Iterator[Misfit]:
    """The partition is closed to the account or the QOS."""
    account = association.account if association else read_name(job, "account")
    for what, name, allowed, denied in (
        ("account", account or site.default_account, partition.allowed_accounts, partition.denied_accounts),
        ("QOS", resolve_qos_name(job, association), partition.allowed_qos, partition.denied_qos),
    ):
        if what == "QOS" and site.qos is None:
            continue
        if name and (name in denied or (allowed and name not in allowed)):
            open_to = f"; it is open to {', '.join(allowed)}" if allowed else ""
            yield Misfit(f"partition {partition.name} is closed to {what} {name}{open_to}", f"change {what.lower()}")


def iter_tres_misfits(asked: Resources, rules: tuple[Qos, ...]) -> Iterator[Misfit]:
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
                    text = f"QOS {rule.name} gives at most {name}={most:g}, and a job asks for {wants[name]:g}"
                    yield Misfit(text, "ask for less, or take another qos")
