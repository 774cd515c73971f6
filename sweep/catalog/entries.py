"""The catalog's types: models, GPU types, data sets, tasks. Frozen; every entry names the source of its figures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stages.config import LanguageModel

REFERENCE = "a100"
"""The GPU type that A100-hours are counted in; its factor is 1."""
TERA = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuType:
    """One kind of device, and what goes with each of it in a node."""

    name: str
    factor: float
    """A100-hours of one hour."""
    cpus: int
    host_memory_gib: float
    startup_minutes: Mapping[str, float]
    """From an attempt's start to its first step, and from its last one to its end, by phase."""
    source: str
    startup_source: str
    peak_tflops: float | None = None
    """bf16, dense; None where there is no GPU."""
    memory_gib: float = 0.0
    """Of one GPU, as its driver leaves it to programs; 0 where there is none, or it is not known."""
    bandwidth_gbs: float = 0.0
    """Of that memory, in GB/s; 0 where it is not known."""
    matmul_share: float = 0.0
    """Of the peak that large matrix products reach, for predictions; 0 where nothing is assumed."""
    bf16: bool = True
    """Whether it has products in bfloat16; of a processor that is not known here (`stages.precision`)."""
    fp32_speed: float = 1.0
    """Of training in fp32, relative to bf16."""
    core_gflops: float = 0.0
    """Useful GFLOP/s of one CPU core; for the type without a GPU."""
    part_of: str = ""
    """Of a slice or of shards: the type of the whole GPU."""

    def find_startup(self, phase: str) -> float:
        """Minutes of the phase; of one that the catalog does not name, those of the slowest that it does."""
        return self.startup_minutes.get(phase, max(self.startup_minutes.values()))

    @property
    def is_gpu(self) -> bool:
        return self.peak_tflops is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the jobs of one phase run. Zero or empty: decided from the GPU type, or from the estimate."""

    nodes: int = 1
    gpus_per_node: int = 0
    gpu_type: str = "cpu"
    cpus: int = 0
    """Cores a node."""
    memory_gib: float = 0.0
    """A node."""
    time_minutes: int = 0
    """Wall-clock limit of one attempt."""
    limit_minutes: int = 1_440
    """The longest attempt that the partition allows."""
    retry_memory_gib: float = 0.0
    """A node, after an attempt has run out of memory; 0: the same as before."""
    parallel: str = "ddp"
    """Of jobs that train on several GPUs, where the sweep file does not say: `ddp` or `fsdp`."""
    activation_checkpointing: bool = False
    """Likewise."""
    check_memory: bool = True
    """Whether a job that does not fit its GPUs, or its nodes' memory, is refused."""
    options: Mapping[str, str] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One of the paper's models: shape, training numbers of stages 1 and 2, utilisation, usual resources."""

    name: str
    shape: LanguageModel
    context: int
    peak_lr: float
    final_lr: float
    warmup_steps: int
    batch_sequences: int
    weight_decay: float
    restart_lr: float
    """Peak of an image-text run from 0 % or 100 % of the text budget, which warms up again."""
    restart_warmup_steps: int
    image_text_batch_sequences: int
    image_text_weight_decay: float
    utilisation: Mapping[str, float]
    """Model FLOPs over the peak, by GPU type; empty where nothing is published."""
    resources: Mapping[str, Placement]
    """By phase."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetEntry:
    """What an estimate needs to know of a data set."""

    name: str
    source: str
    text_tokens: float
    """Mean text tokens of a sample."""
    samples: int = 0
    """0 where it does not matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEntry:
    """What an estimate needs to know of an evaluation task."""

    name: str
    source: str
    documents: int
    requests: float
    """Forwards a document: answers to compare, or one generation."""
    text_tokens: float
    """Of one request, prompt and answer."""
    with_image: bool = False
    images: int = 0
    """Different ones; 0: each document has its own, or none."""
    round_images: int = 0
    """Different ones within each round of questions, all rounds together; 0: as many as there are."""
    new_images: int | None = None
    """Those that no earlier task of an evaluation shows; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChance:
    """What the stable scores need to know of an evaluation task (chance.yaml)."""

    name: str
    kind: str
    """`vision` or `text`."""
    counts_in: str
    """The stable score that it enters: its kind, or `none`."""
    metric: str
    """What its score is, in words."""
    source: str
    chance: float | None = None
    """What guessing scores, a fraction of 1; None where the task has no such level."""
    parts: tuple[str, ...] = ()
    """Splits that belong to the task: its result has a metric `accuracy/PART` of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZMetric:
    """One of the metrics that a z-score is the mean over."""

    name: str
    task: str
    metric: str
    """`score`, or a name in the `metrics` of the task's result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Everything that the package knows about models, GPU types, data sets and tasks."""

    models: Mapping[str, ModelEntry]
    gpus: Mapping[str, GpuType]
    """Iterated over are whole GPUs; names of slices and shards are found as well (`gpu_parts.GpuTable`)."""
    datasets: Mapping[str, DatasetEntry]
    tasks: Mapping[str, TaskEntry]
    encoder_utilisation: float
    """Of a frozen encoder's forward, on the reference GPU."""
    evaluate_efficiency: float
    """Speed of evaluation relative to training."""

    @property
    def reference_flops_per_second(self) -> float:
        """Peak of the reference GPU."""
        return (self.gpus[REFERENCE].peak_tflops or 0.0) * TERA

    def compute_encoder_rate(self, gpu_type: str, core_rate: float) -> float:
        """Of a frozen encoder's forward on one GPU of the type, or on one core, which is as fast as `core_rate`."""
        gpu = self.gpus[gpu_type]
        return self.encoder_utilisation * self.reference_flops_per_second * gpu.factor if gpu.is_gpu else core_rate

    def find_dataset(self, name: str) -> DatasetEntry:
        """The entry of that name, or the stated default."""
        return self.datasets.get(name) or self.datasets["default"]

    def find_task(self, name: str, *, with_image: bool, limit: int | None = None) -> TaskEntry:
        """The entry of that name, or the kind's stated default, with at most `limit` documents."""
        entry = self.tasks.get(name) or self.tasks["default_vision" if with_image else "default_text"]
        if limit is None or limit >= entry.documents:
            return entry
        # the first questions have the first images
        images = math.ceil(entry.images * limit / entry.documents)
        return replace(entry, documents=limit, images=images, round_images=min(entry.round_images, images))
