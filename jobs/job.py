"""A job: one stage with one configuration and its parents, as the manifest holds it and a scheduler needs it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one attempt of a job asks of a cluster. None of it enters a key."""

    nodes: int = 1
    gpus_per_node: int = 0
    gpu_type: str = ""
    cpus: int = 1
    """CPU cores a node."""
    memory_gib: float = 4.0
    """A node."""
    time_minutes: int = 60
    """Wall-clock limit of one attempt."""
    restarts: int = 0
    """Attempts beyond the first that the job needs under the partition's time limit, by its estimate."""
    retry_memory_gib: float = 0.0
    """A node, after an attempt has run out of memory; 0: the same as before."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the scheduler: partition, account, qos, constraint... An empty value is a flag."""
    setup: tuple[str, ...] = ()
    """Shell lines that a batch script runs first (modules, environments)."""
    launcher: tuple[str, ...] = ()
    """Command before the program, such as `apptainer exec image.sif`."""

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def cores(self) -> int:
        """CPU cores of all nodes."""
        return self.nodes * self.cpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a job is expected to cost."""

    tokens: int = 0
    images: int = 0
    """That the language model is shown; the same image counts each time."""
    encoded_images: int = 0
    """That go through the vision encoder for it: features that are at hand are not made again."""
    requests: int = 0
    """Of an evaluation: answers to compare, texts, and answers to generate."""
    flops: float = 0.0
    """Language model and projector, forward and backward."""
    encoder_flops: float = 0.0
    """Vision encoder; 0 where there is none."""
    gpu_hours: float = 0.0
    """Start-up included, as it is allocated too."""
    a100_hours: float = 0.0
    encoder_a100_hours: float = 0.0
    """Part of `a100_hours` that the vision encoder takes."""
    cpu_hours: float = 0.0
    """Core-hours of a job that uses no GPU, start-up included; 0 where it does."""
    startup_hours: float = 0.0
    """Part of `gpu_hours`, or of `cpu_hours`, that passes before the first step and after the last."""
    checkpoint_bytes: int = 0
    """Kept on disk once the job is done."""
    feature_bytes: int = 0
    """The encoder's features that it adds to those that the store keeps."""
    gpu_memory_bytes: int = 0
    """Of each GPU at the worst moment, with a reserve; 0 where it is not known."""
    host_memory_bytes: int = 0
    """Of a node that the job is on; likewise."""
    gpu_rows: int = 0
    """Sequences that each GPU takes at once in training."""
    gpu_passes: int = 0
    """Micro-batches of a step on each GPU."""

    @property
    def startup_a100_hours(self) -> float:
        """Part of `a100_hours` that is start-up."""
        return self.a100_hours * self.startup_hours / self.gpu_hours if self.gpu_hours else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A node of the graph. `key` is its content address: same key, same work, whichever sweep asks for it."""

    key: str
    stage: str
    version: int
    """Stage format version."""
    phase: str
    """What the stage is for in the chain: trunk, pretrain, finetune or evaluate."""
    parents: tuple[str, ...]
    config: Mapping[str, object]
    """The stage's configuration as JSON, defaults left out."""
    cells: tuple[str, ...]
    """Names of the cells that it serves; empty for a trunk segment, whose cells are those of its descendants."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """How the stage runs, without effect on its results (checkpoint cadence); not in the key."""
    resources: Resources = Resources()
    estimate: Estimate = Estimate()

    @property
    def planned_seconds(self) -> float:
        """Of its steps, without what passes before the first and after the last; 0 where nothing is estimated."""
        estimate, resources = self.estimate, self.resources
        if resources.gpus and estimate.gpu_hours:
            return max(0.0, 3600 * (estimate.gpu_hours - estimate.startup_hours) / resources.gpus)
        return max(0.0, 3600 * (estimate.cpu_hours - estimate.startup_hours) / max(1, resources.cores))


# The graph of jobs: what to start first, what lies above and below a job.

TRUNK_PHASE = "trunk"


def compute_heights(jobs: Sequence[Job]) -> dict[str, int]:
    """Longest path down to a leaf, by key; `jobs` with parents before children."""
    found = {job.key: 0 for job in jobs}
    for job in reversed(jobs):
        for parent in job.parents:
            found[parent] = max(found[parent], found[job.key] + 1)
    return found


def add_ancestors(jobs: Sequence[Job], keys: Collection[str]) -> set[str]:
    """`keys` and all their ancestors."""
    wanted = set(keys)
    for job in reversed(jobs):
        if job.key in wanted:
            wanted.update(job.parents)
    return wanted


def index_by_key(jobs: Sequence[Job]) -> Mapping[str, Job]:
    """Jobs by key."""
    return {job.key: job for job in jobs}
