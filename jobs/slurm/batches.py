"""Which jobs go out in one sbatch call: arrays of the same shape, aligned with their parents' array. Pure.

A stage of 300 cells is a few arrays: task i of the child's array waits for task i of the parent's (`aftercorr`), so a
cell's chain goes on while its neighbours still train. Children of one shared parent are an array that waits for it
(`afterok`).
"""

import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jobs.job import Job, Resources
from jobs.reconcile.decide import Submit

# A batch: the jobs of one sbatch call, with a name that finds them again whatever happened to the answer.

NAME = re.compile(r"sw-(?P<identity>[0-9a-f]{12})-(?P<phase>[a-z_]{1,20})-(?P<sweep>[A-Za-z0-9._+=-]{1,120})")
"""Job names of ours. The identity comes first, as squeue cuts names off at the end."""


def build_batch_name(sweep: str, phase: str) -> str:
    """A job name that no other batch has."""
    return f"sw-{secrets.token_hex(6)}-{phase}-{sweep}"


def parse_sweep_name(name: str) -> str:
    """The sweep that a job name of ours belongs to; empty for a foreign name."""
    match = NAME.fullmatch(name)
    return match["sweep"] if match else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmBatch:
    """One sbatch call that is to be made. `tasks`: array index to key; indices may have holes."""

    name: str
    phase: str
    tasks: Mapping[int, str]
    resources: Resources
    after_ids: tuple[str, ...] = ()
    """`afterok` of these ids (123 or 123_4)."""
    after_tasks: tuple[tuple[str, int], ...] = ()
    """`afterok` of tasks (batch, index) that go out in the same round, ahead of this one."""
    corresponds_id: str = ""
    """`aftercorr` of this array's id."""
    corresponds_batch: str = ""
    """`aftercorr` of a batch that goes out in the same round, ahead of this one."""
    exclude: tuple[str, ...] = ()
    """Nodes that all jobs keep away from, for faults of their own."""
    avoid: tuple[str, ...] = ()
    """Further nodes, on which these jobs have failed; Slurm may give them all the same, if it has no others."""
    gpu_type: str | None = None
    """The cluster's own name of the GPU type; empty where its GPUs have none, None to take the resources' own."""
    memory_tracked: bool = True
    """Whether the cluster can be asked for memory."""
    is_single: bool = False
    """One job instead of an array, as the cluster takes none; its index is 0, and its id has none."""


@dataclass(slots=True, kw_only=True)
class KnownBatch:
    """A batch as the ledger records it."""

    name: str
    phase: str
    tasks: dict[int, str]
    """Array index to key."""
    user: str
    """Who called sbatch."""
    intended_at: float
    """Unix seconds, as all below."""
    id: str = ""
    """The array's job id, once sbatch answered or a search by name found it."""
    sent_at: float = 0.0
    not_submitted_at: float = 0.0
    """Slurm refused it, or was asked for it long enough and does not have it: none of its tasks exists."""
    given_up: bool = False
    """It is the latter: nobody ever answered, so that Slurm may have had it all the same."""
    withdrawn: dict[str, float] = field(default_factory=dict)
    """Keys that were taken out of the queue by us, and when (Unix seconds)."""
    is_single: bool = False
    """One job instead of an array: its id has no index."""
    cluster: str = ""
    """The chosen cluster that it was sent to; empty: the default one of its day."""

    @property
    def submit_unknown(self) -> bool:
        """sbatch was called, or was about to be, and nobody noted an answer."""
        return not self.id and not self.not_submitted_at

    def find_key(self, job_id: str) -> str | None:
        """The key of the task with that id in Slurm (123_4; 123 of a single job); None for the id of a whole array.

        The whole array of one task is that task: once it is cancelled before it starts, Slurm names it so.
        """
        if "_" not in job_id and len(self.tasks) == 1:
            return next(iter(self.tasks.values()))
        index = "0" if self.is_single and "_" not in job_id else job_id.partition("_")[2]
        return self.tasks.get(int(index)) if index.isdecimal() else None

    def build_task_id(self, key: str) -> str:
        """Slurm's id of the task with that key; the array's id must be known."""
        index = next(index for index, each in self.tasks.items() if each == key)
        return build_task_id(self.id, index, is_single=self.is_single)


def build_task_id(array: str, index: int, *, is_single: bool) -> str:
    """`123_4`, or `123` of a single job."""
    return array if is_single else f"{array}_{index}"


Shape = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class ArrayTask:
    """Where a live or just formed job is: the name of its batch, its index, and the array's id once it has one."""

    batch: str
    index: int
    id: str = ""
    is_single: bool = False


# Why: docs/decisions.md, D33
@dataclass(slots=True)
class BatchPlanner:
    """Forms batches from one round's submissions. `live`: places of the jobs in the queue, by key."""

    sweep: str
    jobs: Mapping[str, Job]
    live: Mapping[str, ArrayTask]
    array_limit: int
    """One more than the highest index that the cluster allows (MaxArraySize); 0: it takes no arrays."""
    memory_gib: Mapping[str, float] = field(default_factory=dict)
    """By key, where it differs from the plan's: after an attempt ran out of memory."""
    exclude: tuple[str, ...] = ()
    avoid: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By key, further nodes that a job keeps away from because of its own failures there."""
    gpu_type: Callable[[Job], str | None] = lambda _job: None
    """The cluster's own name of the GPUs that a job asks for."""
    memory_tracked: Callable[[Job], bool] = lambda _job: True
    formed: dict[str, ArrayTask] = field(default_factory=dict)

    def plan_batches(self, submits: Sequence[Submit]) -> list[SlurmBatch]:
        """In the order in which they are to be sent: parents' batches first. `submits`: parents before children."""
        found: list[SlurmBatch] = []
        for generation in group_generations(submits):
            if not self.array_limit:  # Why: docs/decisions.md, D109
                found += [self._batch({0: submit.key}, None, submit.after) for submit in generation]
                continue
            for group in self._groups(generation):
                found += self._split(*group)
        return found

    def _groups(self, submits: Sequence[Submit]) -> Iterable[tuple[ArrayTask | None, list[Submit]]]:
        """Submissions that may share an array; with the place of any parent where they are aligned to its array."""
        aligned: dict[Shape, list[Submit]] = defaultdict(list)
        others: dict[Shape, list[Submit]] = defaultdict(list)
        by_array: dict[Shape, list[Submit]] = defaultdict(list)
        for submit in submits:
            parent = self._find_array_task(submit.after[0]) if len(submit.after) == 1 else None
            if parent is None:
                others[*self._shape(submit), tuple(sorted(submit.after))].append(submit)
            else:
                by_array[self.jobs[submit.key].phase, parent.batch].append(submit)
        for family in by_array.values():
            siblings = Counter(submit.after[0] for submit in family)
            if len(siblings) <= max(siblings.values()):  # as few calls as can be: one array a parent
                for submit in family:
                    others[*self._shape(submit), submit.after].append(submit)
            else:  # one array for the parents' first children, one for their second ones...
                for rank, submit in number_siblings(family):
                    aligned[*self._shape(submit), rank, self._find_array_task(submit.after[0]).batch].append(submit)
        yield from ((None, group) for group in others.values())
        yield from ((self._find_array_task(group[0].after[0]), group) for group in aligned.values())

    def _split(self, parent: ArrayTask | None, submits: Sequence[Submit]) -> list[SlurmBatch]:
        if parent is not None:
            tasks = {self._find_array_task(submit.after[0]).index: submit.key for submit in submits}
            return [self._batch(tasks, parent, ())]
        size = self.array_limit
        return [
            self._batch({index: submit.key for index, submit in enumerate(part)}, None, part[0].after)
            for part in (submits[start : start + size] for start in range(0, len(submits), size))
        ]

    def _batch(self, tasks: Mapping[int, str], parent: ArrayTask | None, after: Sequence[str]) -> SlurmBatch:
        jobs = [self.jobs[key] for key in tasks.values()]
        name = build_batch_name(self.sweep, jobs[0].phase)
        self.formed |= {key: ArrayTask(name, index) for index, key in tasks.items()}
        places = [self._find_array_task(key) for key in after]
        return SlurmBatch(
            name=name,
            phase=jobs[0].phase,
            tasks=dict(sorted(tasks.items())),
            resources=self._resources(jobs),
            after_ids=tuple(build_task_id(p.id, p.index, is_single=p.is_single) for p in places if p.id),
            after_tasks=tuple((place.batch, place.index) for place in places if not place.id),
            corresponds_id=parent.id if parent else "",
            corresponds_batch=parent.batch if parent and not parent.id else "",
            exclude=self.exclude,
            avoid=tuple(node for node in self.avoid.get(jobs[0].key, ()) if node not in self.exclude),
            gpu_type=self.gpu_type(jobs[0]),
            memory_tracked=self.memory_tracked(jobs[0]),
            is_single=not self.array_limit,
        )

    def _find_array_task(self, key: str) -> ArrayTask:
        return self.formed[key] if key in self.formed else self.live[key]

    def _resources(self, jobs: Sequence[Job]) -> Resources:
        """The array's: the longest time of its jobs, as one limit holds for all."""
        longest = max(job.resources.time_minutes for job in jobs)
        memory = self.memory_gib.get(jobs[0].key, jobs[0].resources.memory_gib)
        return replace(jobs[0].resources, time_minutes=longest, memory_gib=memory)

    def _shape(self, submit: Submit) -> Shape:
        """What jobs of one array have in common."""
        job = self.jobs[submit.key]
        asked = job.resources
        memory = self.memory_gib.get(job.key, asked.memory_gib)
        avoided = self.avoid.get(job.key, ())
        # of jobs that are alike one may need the larger of a site's GPUs
        request = (asked.nodes, asked.gpus_per_node, asked.gpu_type, self.gpu_type(job), asked.cpus, memory, avoided)
        return (job.phase, *request, tuple(sorted(asked.options.items())), tuple(asked.setup), tuple(asked.launcher))


def group_generations(submits: Sequence[Submit]) -> list[list[Submit]]:
    """By how many of this round's submissions stand above: parents first."""
    depth: dict[str, int] = {}
    found: list[list[Submit]] = []
    for submit in submits:
        depth[submit.key] = 1 + max((depth.get(parent, -1) for parent in submit.after), default=-1)
        if depth[submit.key] == len(found):
            found.append([])
        found[depth[submit.key]].append(submit)
    return found


def number_siblings(family: Sequence[Submit]) -> Iterable[tuple[int, Submit]]:
    """Each submission with its number among those of the same parent."""
    met: Counter[str] = Counter()
    for submit in family:
        yield met[submit.after[0]], submit
        met[submit.after[0]] += 1
